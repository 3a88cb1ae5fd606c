"""Overload: what admitted requests take at 3 times the sustainable rate, against 70 % of it.

    python -m bench.robustness.overload http://127.0.0.1:8000 --pid PID_OF_NERVE [--seconds 60] [--texts 1]
        [--report FILE]

Before that, pools of 8, 32 and 128 connections that each wait for their answers, of which nobody must be refused; the
sustainable rate is what 8 of them get answered. Prints one JSON object a phase: latency of admitted and of refused
requests in ms, what came back, `retry-after` in s, and the server's memory before and after. Ends with status 1 when
a pool was refused, an answer was wrong or missing, or the 99th percentile is above 3 times that of 70 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from bench.serving import machine
from bench.serving.workload import CITY, FIRST, LAST, STREET

POOLS = (8, 32, 128)
SCRIPT = Path(__file__).with_name("overload.js")


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


def main() -> int:
    """Measure all phases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--k6", default="k6")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    bodies = make_bodies(options.texts)
    plan = {"url": f"{options.url}/predict_tokens", "bodies": bodies}
    plan["names"] = [ask(options.url, body) for body in bodies]
    phases = []

    def measure(name: str, scenario: dict) -> dict:
        figures = {"phase": name, **run(options.k6, {**plan, "scenario": scenario}, options.pid)}
        print(json.dumps(figures), flush=True)
        phases.append(figures)
        return figures

    pools = [
        measure(f"{n} connections", {"executor": "constant-vus", "vus": n, "duration": "8s"}) for n in POOLS
    ]
    sustainable = pools[0]["right_per_second"]
    streams = [
        measure(
            f"{share} x {sustainable}/s",
            {
                "executor": "constant-arrival-rate",
                "rate": max(1, round(share * sustainable)),
                "timeUnit": "1s",
                "duration": f"{options.seconds}s",
                "preAllocatedVUs": 400,
                "maxVUs": 400,
            },
        )
        for share in (0.7, 3.0)
    ]
    usual, flooded = (stream["admitted_ms"]["p(99)"] for stream in streams)
    ratio = round(flooded / usual, 2)
    print(json.dumps({"p99_ratio": ratio}))
    if options.report:
        content = {**machine.describe(), "seconds": options.seconds, "p99_ratio": ratio, "phases": phases}
        options.report.write_text(json.dumps(content, indent=1) + "\n")
    is_good = (
        ratio <= 3
        and not any(pool["answers"]["refused"] for pool in pools)
        and not any(phase["answers"][name] for phase in phases for name in ("wrong", "other"))
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
