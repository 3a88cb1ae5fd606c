// A constant rate of requests that each name a person of their own; every answer must hold that person.
// PLAN names a JSON file: {url, bodies, names, scenario, summary}.

import exec from "k6/execution";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const plan = JSON.parse(open(__ENV.PLAN));
export const options = { scenarios: { load: plan.scenario }, summaryTrendStats: ["p(50)", "p(90)", "p(99)", "max", "count"] };
const admitted = new Trend("admitted", true);
const refused = new Trend("refused", true);
const retryAfter = new Trend("retry_after");
const outcomes = {};
for (const name of ["right", "wrong", "refused", "other"]) outcomes[name] = new Counter(`answers_${name}`);

function judge(response, index) {
  if (response.status === 429) return "refused";
  if (response.status !== 200) return "other";
  const tokens = response.json().map((rows) => rows.map((row) => row.token).join("|")).join("#");
  return tokens === plan.names[index] ? "right" : "wrong";
}

export default function () {
  const index = exec.scenario.iterationInTest % plan.bodies.length;
  const response = http.post(plan.url, plan.bodies[index], {
    headers: { "content-type": "application/json" },
    timeout: "60s",
  });
  const outcome = judge(response, index);
  outcomes[outcome].add(1);
  if (outcome === "refused") {
    refused.add(response.timings.duration);
    retryAfter.add(Number(response.headers["Retry-After"]));
  } else admitted.add(response.timings.blocked + response.timings.duration);
}

export function handleSummary(data) {
  return { [plan.summary]: JSON.stringify(data.metrics) };
}
