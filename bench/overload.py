"""Overload: what admitted requests take at 3 times the sustainable rate, against 70 % of it.

    python bench/overload.py http://127.0.0.1:8000 --pid PID_OF_NERVE [--seconds 60] [--texts 1]

The sustainable rate is what 8 connections in a closed loop get answered. Prints one JSON object a phase: latency of
admitted and of refused requests in ms, what came back, `retry-after` in s, and the server's memory before and after.
"""

import argparse
import json
import os
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from workload import CITY, FIRST, LAST, STREET

HERE = Path(__file__).parent
SCRIPT = HERE / "load" / "overload.js"


def make_bodies(n_texts: int) -> list[str]:
    """Return requests of texts of about 36 tokens, each about another person."""
    people = [f"{first} {last}" for first in FIRST for last in LAST]
    bodies = []
    for start in range(0, 200, 1):
        texts = []
        for offset in range(n_texts):
            number = (start * n_texts + offset) % len(people)
            texts.append(
                f"Dear {people[number]}, the order was sent late to {12 + number} {STREET[number % len(STREET)]} in "
                f"{CITY[number % len(CITY)]}, please call us back at our new office this week."
            )
        bodies.append(json.dumps({"inputs": texts, "aggregation_strategy": "simple"}))
    return bodies


def ask(url: str, body: str) -> str:
    """Return the entities of one answer as the k6 script joins them."""
    request = urllib.request.Request(  # noqa: S310  an address the user gave
        f"{url}/predict_tokens", body.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return "#".join("|".join(row["token"] for row in rows) for rows in json.load(answer))


def tree_rss_mib(pid: int) -> float:
    """Return the resident memory of a process and its descendants."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(tree_rss_mib(int(child)) for child in children)


def run(k6: str, plan: dict, pid: int) -> dict:
    """Run one phase and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        plan_file = Path(folder) / "plan.json"
        summary = Path(folder) / "summary.json"
        plan_file.write_text(json.dumps({**plan, "summary": str(summary)}))
        before = tree_rss_mib(pid)
        subprocess.run(
            [k6, "run", "--quiet", "--no-usage-report", "-e", f"PLAN={plan_file}", SCRIPT],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        metrics = {name: value["values"] for name, value in json.loads(summary.read_text()).items()}

    def trend(name: str) -> dict | None:
        values = metrics.get(name)
        return {key: round(value, 1) for key, value in values.items()} if values else None

    counts = {
        name: int(metrics.get(f"answers_{name}", {}).get("count", 0))
        for name in ("right", "wrong", "refused", "other")
    }
    return {
        "admitted_ms": trend("admitted"),
        "refused_ms": trend("refused"),
        "retry_after_s": trend("retry_after"),
        "answers": counts,
        "right_per_second": round(metrics["answers_right"]["rate"], 1),
        "never_sent": int(metrics.get("dropped_iterations", {}).get("count", 0)),
        "rss_mib": [round(before, 1), round(tree_rss_mib(pid), 1)],
    }


def main() -> None:
    """Measure the three phases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--k6", default="k6")
    options = parser.parse_args()
    bodies = make_bodies(options.texts)
    plan = {"url": f"{options.url}/predict_tokens", "bodies": bodies}
    plan["names"] = [ask(options.url, body) for body in bodies]
    closed = {"executor": "constant-vus", "vus": 8, "duration": "8s"}
    figures = run(options.k6, {**plan, "scenario": closed}, options.pid)
    sustainable = figures["right_per_second"]
    print(json.dumps({"phase": "closed", **figures}), flush=True)
    for share in (0.7, 3.0):
        scenario = {
            "executor": "constant-arrival-rate",
            "rate": max(1, round(share * sustainable)),
            "timeUnit": "1s",
            "duration": f"{options.seconds}s",
            "preAllocatedVUs": 400,
            "maxVUs": 400,
        }
        figures = run(options.k6, {**plan, "scenario": scenario}, options.pid)
        print(json.dumps({"phase": f"{share} x {sustainable}/s", **figures}), flush=True)


if __name__ == "__main__":
    main()
