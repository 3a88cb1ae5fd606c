// Open loop for k6: requests leave at a constant rate whatever the server does, and every answer is
// checked against the one expected for its own request.
//
// PLAN names a JSON file: {url, headers, requests, hashes, answers, tolerance, scenario, no_reuse, summary}.
// `hashes` are SHA-256 of the right answers; an answer with another hash is compared with the text of the
// right one (file `answers`), and is right when only decimals differ, by no more than `tolerance`.
// latency counts from the intended moment of sending: how late k6 began the request (`lateness`, in whole
// milliseconds after the first one: its clock has 1 ms steps) + connecting + sending + waiting + receiving.

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
const stages = {};
for (const name of ["tokenize", "queue", "inference", "total"]) stages[name] = new Trend(`stage_${name}`, true);
const outcomes = {};
for (const name of ["right", "near", "wrong", "refused", "unanswered"]) outcomes[name] = new Counter(`answers_${name}`);

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

function recordStages(header) {
  for (const part of header.split(",")) {
    const found = /^\s*(\w+);dur=([\d.]+)/.exec(part);
    if (found && stages[found[1]]) stages[found[1]].add(Number(found[2]));
  }
}

export default function () {
  const number = exec.scenario.iterationInTest;
  let late = 0;
  if (plan.scenario.rate) {
    const intended = exec.scenario.startTime + (number * 1000) / plan.scenario.rate;
    late = Math.max(0, Math.floor(Date.now() - intended) - 1);
    lateness.add(late);
  }
  const index = number % plan.requests.length;
  const response = http.post(plan.url, plan.requests[index], { headers: plan.headers, timeout: "30s" });
  outcomes[judge(response, index)].add(1);
  if (response.status !== 200) return;
  const timings = response.timings;
  latency.add(late + timings.blocked + timings.connecting + timings.duration);
  const header = response.headers["Server-Timing"];
  if (header) recordStages(header);
}

export function handleSummary(data) {
  return { [plan.summary]: JSON.stringify(data.metrics) };
}
