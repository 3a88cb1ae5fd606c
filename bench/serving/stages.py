"""Where the time of a 36-token request goes in our own server, by stage, into bench/results/stages.json.

CPU time: what every thread of the server used under load (/proc/PID/task/TID/schedstat, nanoseconds), over the requests
answered. What of it was spent in calls of the model is counted (profiling/sitecustomize.py), and threads that never ran
Python are onnxruntime's, so the time outside the model is exact. What the rest was for is told by py-spy, which
samples the stacks in a run of its own, so that sampling does not weigh on the totals: a sample belongs to the stage of
the innermost function of our own (`stacks.stage_of`). A thread that waits for a core is sampled, too, so the split is
best on an idle machine.
Wall time, at one connection: means of the stages from /metrics, and what the client saw beyond them.

The file keeps one entry for each commit, so that it shows what changes did.

usage: python -m bench.serving.stages [--seconds 4] [--rounds 3] [--scenario tiny-c1 ...] [--servers nerve/auto ...]
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from bench.paths import RESULTS, WORK
from bench.serving import generators, machine, servers
from bench.serving.generators import Target
from bench.serving.models import hold_work
from bench.serving.run import Bench, learn_answers
from bench.serving.scenarios import Scenario, read_scenarios
from bench.serving.servers import Server
from bench.serving.stacks import (
    DECODE,
    ENCODE,
    HAND_OVER,
    HTTP,
    MODEL,
    REST,
    ROWS,
    STAGES,
    TOKENIZE,
    count_samples,
    read_sources,
)

FILE = RESULTS / "stages.json"
PROFILING = Path(__file__).parent / "profiling"
SCENARIOS = ["tiny-c1", "tiny-c32", "real-c1", "real-c32"]
# Samples a second. The server is not stopped for them: a thread that was stopped is runnable for a while, whatever it
# did, and would count. Instead about one in ten fails, because the stack changes while it is read.
SAMPLES = 200
# A process with less than this share of the server's CPU time answers no requests.
IDLE_SHARE = 0.05


def split_cpu(
    used: dict[int, float],
    in_model: dict[int, float],
    samples: dict[int, Counter],
    python_threads: set[int],
    idle: set[int],
) -> dict[str, float]:
    """Divide CPU seconds by thread into CPU seconds by stage.

    in_model: CPU seconds of `used` that were spent in calls of the model, by thread.
    python_threads: those that ever ran Python, Granian's runtime among them; what the others of a worker do is compute
    for the model. idle: threads of processes that answer no requests.
    """
    split = dict.fromkeys(STAGES, 0.0)
    for thread, seconds in used.items():
        calls = min(seconds, in_model.get(thread, 0.0))
        split[MODEL] += calls
        # A sample in the model is one of the calls that are counted already.
        seen = Counter({stage: n for stage, n in samples.get(thread, Counter()).items() if stage != MODEL})
        if thread in idle:
            split[REST] += seconds - calls
        elif seen:
            for stage, count in seen.items():
                split[stage] += (seconds - calls) * count / seen.total()
        elif calls:
            split[HAND_OVER] += seconds - calls
        else:
            split[HTTP if thread in python_threads else MODEL] += seconds
    return split


def cpu_by_thread(server: Server) -> dict[int, float]:
    """Return the CPU seconds that each thread of the server has used."""
    used = {}
    for pid in server.pids():
        for folder in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                used[int(folder.name)] = int((folder / "schedstat").read_text().split()[0]) / 1e9
    return used


def model_cpu_by_thread(folder: Path) -> dict[int, float]:
    """Return the CPU seconds that each thread has spent in calls of the model."""
    found = {}
    for file in folder.iterdir():
        numbers = memoryview(file.read_bytes()).cast("d").tolist()
        found |= {int(t): seconds for t, seconds in zip(numbers[::2], numbers[1::2], strict=True) if t}
    return found


def read_metrics(server: Server) -> dict[str, float]:
    """Return the sums and counts of the stages' histograms, by series."""
    with urlopen(f"{server.url}/metrics", timeout=30) as answer:  # noqa: S310  our own address
        lines = [line for line in answer.read().decode().splitlines() if line and line[0] != "#"]
    series = dict(line.rsplit(" ", 1) for line in lines)
    wanted = re.compile(r"nerve_(request|stage)_duration_seconds_(sum|count)")
    return {name: float(value) for name, value in series.items() if wanted.match(name)}


def py_spy(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("py-spy")), *arguments]


def threads_of(pid: int) -> set[int]:
    return {int(folder.name) for folder in Path(f"/proc/{pid}/task").glob("*")}


def find_python_threads(pid: int) -> set[int]:
    """Return the threads of a process that have run Python."""
    command = py_spy("dump", "--json", "--pid", str(pid))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {thread["os_thread_id"] for thread in json.loads(done.stdout)}


def part_processes(pids: list[int], used: dict[int, float]) -> tuple[list[int], set[int]]:
    """Return the processes that answer requests, and the threads of those that only look after them."""
    by_process = {pid: threads_of(pid) for pid in pids}
    seconds = {pid: sum(used.get(t, 0.0) for t in threads) for pid, threads in by_process.items()}
    busy = [pid for pid in pids if seconds[pid] > IDLE_SHARE * sum(seconds.values())]
    return busy, set().union(*(by_process[pid] for pid in pids if pid not in busy))


def sample_stacks(pids: list[int], load, seconds: float) -> dict[int, Counter]:
    """Sample the stacks of processes under load; return samples by thread and stage."""
    sources = read_sources()
    loading = threading.Thread(target=load, args=(seconds + 2,))
    loading.start()
    recorders = []
    for pid in pids:
        options = ["--nonblocking", "--threads", "--format", "raw", "--rate", str(SAMPLES)]
        options += ["--duration", str(round(seconds)), "--output", str(WORK / f"stacks-{pid}.txt")]
        command = py_spy("record", *options, "--pid", str(pid))
        recorders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    samples: dict[int, Counter] = {}
    for pid, recorder in zip(pids, recorders, strict=True):
        _, said = recorder.communicate()
        if recorder.returncode:
            raise RuntimeError(f"py-spy failed: {said.decode()[-500:]}")
        file = WORK / f"stacks-{pid}.txt"
        samples |= count_samples(file.read_text(), sources)
        file.unlink()
    loading.join()
    return samples


@dataclass(frozen=True)
class Measured:
    """What one run of the load used and showed.

    used, in_model: CPU seconds by thread, in all and in calls of the model. metrics: what was added to the stages'
    histograms. seen: by the client.
    """

    used: dict[int, float]
    in_model: dict[int, float]
    metrics: dict[str, float]
    seen: dict


def measure_cpu(server: Server, calls: Path, load, seconds: float) -> Measured:
    """Run the load once."""

    def read() -> tuple[dict, dict, dict]:
        return cpu_by_thread(server), model_cpu_by_thread(calls), read_metrics(server)

    before = read()
    seen = load(seconds)
    used, in_model, metrics = (
        {key: value - old.get(key, 0.0) for key, value in new.items()}
        for old, new in zip(before, read(), strict=True)
    )
    return Measured(used, in_model, metrics, seen)


def split_wall(metrics: dict[str, float], client_ms: float, cpu_ms: dict[str, float]) -> dict[str, float]:
    """Return the mean milliseconds of a lone request by stage; they add up to `client_ms`.

    Decoding and encoding wait for nothing: their CPU time is their wall time.
    """
    count = metrics["nerve_request_duration_seconds_count"]
    total = 1000 * metrics["nerve_request_duration_seconds_sum"] / count

    def mean(stage: str) -> float:
        return 1000 * metrics[f'nerve_stage_duration_seconds_sum{{stage="{stage}"}}'] / count

    wall = {
        HTTP: max(0.0, client_ms - total),
        DECODE: cpu_ms[DECODE],
        TOKENIZE: mean("tokenize"),
        HAND_OVER: mean("queue"),
        MODEL: mean("inference"),
        ROWS: mean("aggregate"),
        ENCODE: cpu_ms[ENCODE],
    }
    return {**wall, REST: max(0.0, client_ms - sum(wall.values()))}


def measure(
    server: Server, calls: Path, target: Target, scenario: Scenario, seconds: float, rounds: int
) -> dict:
    """Return one entry of the file: times in ms per request.

    calls: folder in which the server's processes count the CPU time of the model's calls.
    """
    connections = scenario.connections

    def load(duration: float) -> dict:
        return generators.closed_loop(target, connections, duration, reuse=True)

    with server.turn():
        load(2)
        measured = [measure_cpu(server, calls, load, seconds) for _ in range(rounds)]
        busy, idle = part_processes(server.pids(), measured[-1].used)
        python = set().union(*(find_python_threads(pid) for pid in busy))
        samples = sample_stacks(busy, load, max(8, 2 * seconds))
    if not any(one.in_model.get(thread) for one in measured for thread in one.used):
        raise RuntimeError("no call of the model was counted: profiling/sitecustomize.py does not know it")
    cpu, outside, wall = [], [], []
    for one in measured:
        n_requests = one.seen["requests"]
        split = split_cpu(one.used, one.in_model, samples, python, idle)
        cpu.append({stage: 1000 * value / n_requests for stage, value in split.items()})
        outside.append(sum(value for stage, value in cpu[-1].items() if stage != MODEL))
        wall.append(split_wall(one.metrics, 1000 * connections * one.seen["seconds"] / n_requests, cpu[-1]))
    found = {
        "connections": connections,
        "requests": [one.seen["requests"] for one in measured],
        "rps": statistics.median(one.seen["rps"] for one in measured),
        "errors": [one.seen["errors"] for one in measured if one.seen["errors"]],
        "samples": sum(counts.total() for counts in samples.values()),
        "cpu_ms": median_of(cpu),
        "cpu_ms_outside_model": {
            "median": statistics.median(outside),
            "min": min(outside),
            "max": max(outside),
        },
    }
    return {**found, "wall_ms": median_of(wall)} if connections == 1 else found


def median_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {stage: statistics.median(row[stage] for row in rows) for stage in STAGES}


def add_run(content: dict, facts: dict, found: dict[str, dict]) -> dict:
    """Return the file's content with one more run; an earlier run of the same commit and CPU is replaced."""

    def key(run: dict) -> tuple[str, str]:
        return run["commit"], run["machine"]["cpu"]

    run = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **facts, "servers": found}
    return {"runs": [*(old for old in content["runs"] if key(old) != key(run)), run]}


def describe(name: str, found: dict) -> str:
    outside = found["cpu_ms_outside_model"]
    lines = [
        f"{name}: {found['rps']:.0f}/s, CPU outside the model {outside['median']:.3f} ms a request "
        f"({outside['min']:.3f} - {outside['max']:.3f}), {found['samples']} samples"
    ]
    for kind in ("cpu_ms", "wall_ms"):
        if kind in found:
            lines.append(f"  {kind}: " + ", ".join(f"{s} {v:.3f}" for s, v in found[kind].items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenario", nargs="+", default=SCENARIOS)
    parser.add_argument("--servers", nargs="+", default=["nerve/auto", "nerve/2 workers"])
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that held servers are ended
    facts = machine.describe()
    scenarios = {scenario.name: scenario for scenario in read_scenarios()}
    found: dict[str, dict] = {}
    with contextlib.ExitStack() as held:
        held.enter_context(hold_work())
        calls = Path(held.enter_context(TemporaryDirectory()))
        os.environ |= {"BENCH_MODEL_CPU": str(calls), "PYTHONPATH": str(PROFILING)}
        bench = held.enter_context(contextlib.closing(Bench()))
        for name in arguments.scenario:
            scenario = scenarios[name]
            for spec in servers.read_specs():
                # At one connection a second worker has nothing to do.
                if spec.label in arguments.servers and scenario.takes(spec):
                    requests = bench.requests_for(scenario, spec)
                    server = bench.server_for(scenario, spec)
                    target = learn_answers(server, requests)
                    key = f"{name}, {spec.label}"
                    found[key] = measure(server, calls, target, scenario, arguments.seconds, arguments.rounds)
                    print(describe(key, found[key]), flush=True)
    content = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": []}
    arguments.out.write_text(json.dumps(add_run(content, facts, found), indent=1) + "\n")
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
