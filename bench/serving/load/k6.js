// Load by k6: a second opinion on the open loop (selftest.py), and the closed loop where wrk is not installed. Every
// answer is checked against the one expected for its own request.
//
// PLAN names a JSON file: {url, headers, requests, hashes, answers, tolerance, scenario, duration_ms, no_reuse,
// summary}.
// `hashes` are SHA-256 of the right answers; an answer with another hash is compared with the text of the
// right one (file `answers`), and is right when only decimals differ, by no more than `tolerance`.
// latency counts from the intended moment of sending: how late k6 began the request (`lateness`) + connecting +
// sending + waiting + receiving. Date.now() has steps of 1 ms; the progress of the scenario is read from the
// monotonic clock that k6 schedules its arrivals by, in nanoseconds.

import crypto from "k6/crypto";
import { SharedArray } from "k6/data";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const plan = JSON.parse(open(__ENV.PLAN));
const answers = new SharedArray("answers", () => JSON.parse(open(plan.answers)));

export const options = {
  scenarios: { load: plan.scenario },
  noConnectionReuse: plan.no_reuse,
  summaryTrendStats: ["p(50)", "p(90)", "p(99)", "p(99.9)", "max", "count"],
};

const latency = new Trend("latency", true);
const lateness = new Trend("lateness", true);
const outcomes = {};
for (const name of ["right", "near", "wrong", "refused", "unanswered"]) outcomes[name] = new Counter(`answers_${name}`);

// k6 sends its first requests late, while it hands out its virtual users. They are judged, but not timed.
const WAKING_MS = 250;
const NUMBER = /\d[\d.eE+-]*/g;

function isNear(one, other) {
  if (one === other) return true;
  const isDecimal = /[.e]/.test(one) && /[.e]/.test(other);
  return isDecimal && Math.abs(Number(one) - Number(other)) <= plan.tolerance;
}

function areNear(body, expected) {
  if (body.replace(NUMBER, "#") !== expected.replace(NUMBER, "#")) return false;
  const others = expected.match(NUMBER);
  return body.match(NUMBER).every((number, i) => isNear(number, others[i]));
}

function judge(response, index) {
  if (response.status === 0) return "unanswered";
  if (response.status !== 200) return "refused";
  if (crypto.sha256(response.body, "hex") === plan.hashes[index]) return "right";
  return areNear(response.body, answers[index]) ? "near" : "wrong";
}

export default function () {
  const number = exec.scenario.iterationInTest;
  let late = 0;
  let isTimed = true;
  if (plan.scenario.rate) {
    const intended = (number * 1000) / plan.scenario.rate; // ms since the first one
    late = Math.max(0, exec.scenario.progress * plan.duration_ms - intended);
    isTimed = intended >= WAKING_MS;
    if (isTimed) lateness.add(late);
  }
  const index = number % plan.requests.length;
  const response = http.post(plan.url, plan.requests[index], { headers: plan.headers, timeout: "30s" });
  outcomes[judge(response, index)].add(1);
  if (response.status !== 200 || !isTimed) return;
  const timings = response.timings;
  latency.add(late + timings.blocked + timings.connecting + timings.duration);
}

export function handleSummary(data) {
  return { [plan.summary]: JSON.stringify(data.metrics) };
}
