"""Overload: requests come at 3 times the rate that the server can answer, whatever comes back, after 70 % of it.

The sustainable rate is what 32 connections get answered that each wait for their answers. Every answer is checked. What
is admitted must be answered right and before its deadline, what is refused must be told so, and memory must not grow
with the requests that were refused. Writes bench/results/overload.json; ends with status 1 where that does not hold.

usage: python -m bench.robustness.overload [--models rampart base] [--seconds 60]
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from bench.paths import RESULTS
from bench.serving import generators, machine
from bench.serving.connections import Connections
from bench.serving.generators import Target, percentiles_ms
from bench.serving.models import find_model, hold_work
from bench.serving.run import learn_answers
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

DEADLINE_SECONDS = 30  # limits.request_timeout_ms as shipped
# After it: an answer that says that the deadline has passed takes a moment itself.
GRACE_SECONDS = 2.0
SHARES = (0.7, 3.0)
MOST_GROWTH_MIB = 200  # what a queue that is full holds: bodies, tokens, connections


class Flood:
    """Requests at constant intervals, over as many connections as it takes."""

    def __init__(self, target: Target, rate: float, seconds: float) -> None:
        self._target = target
        self._raw = [generators.raw_request(target, body, True) for body in target.bodies]
        self.connections = Connections(int(target.url.rpartition(":")[2]))
        self._rate = rate
        self._count = round(rate * seconds)
        self.outcomes: Counter = Counter()
        self.latency_us: Counter = Counter()
        self.late_us: Counter = Counter()  # how long after its moment a request left
        self.latest = 0.0  # seconds of the last answer that was admitted

    async def run(self) -> None:
        """Send all, and wait for the answers."""
        started = time.perf_counter()
        tasks = []
        for number in range(self._count):
            due = started + number / self._rate
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(self._ask(number % len(self._raw), due)))
        await asyncio.gather(*tasks)
        self.connections.close()

    async def _ask(self, number: int, due: float) -> None:
        self.late_us[round((time.perf_counter() - due) * 1e6)] += 1
        try:
            async with asyncio.timeout(DEADLINE_SECONDS + GRACE_SECONDS):
                status, body = await self.connections.exchange(self._raw[number])
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.outcomes["unanswered"] += 1
            return
        if status != 200:
            self.outcomes["refused" if status == 429 else f"status {status}"] += 1
            return
        seconds = time.perf_counter() - due
        self.latest = max(self.latest, seconds)
        self.latency_us[round(seconds * 1e6)] += 1
        self.outcomes[generators.judge(status, body, self._target.answers[number])] += 1


def tree_rss_mib(pid: int) -> float:
    """Return the resident memory of a process and its descendants."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(tree_rss_mib(int(child)) for child in children)


def run_model(name: str, seconds: float) -> dict:
    """Measure one model; returns the figures of both rates."""
    model = find_model(name)
    requests = Reference(model).requests(Workload())
    spec = next(one for one in read_specs() if one.label == "nerve/auto")
    phases = []
    with contextlib.ExitStack() as held:
        server = held.enter_context(contextlib.closing(Server(spec, model, requests.bodies[0])))
        target = learn_answers(server, requests)
        held.enter_context(server.turn())
        sustainable = generators.closed_loop(target, 32, 10, reuse=True)["rps"]
        for share in SHARES:
            before = tree_rss_mib(server.process.pid)
            flood = Flood(target, share * sustainable, seconds)
            asyncio.run(flood.run())
            phases.append(
                {
                    "share": share,
                    "rate": share * sustainable,
                    "outcomes": dict(flood.outcomes),
                    "admitted_ms": percentiles_ms(flood.latency_us),
                    "late_ms": percentiles_ms(flood.late_us),
                    "connections": flood.connections.opened,
                    "rss_mib": [before, tree_rss_mib(server.process.pid)],
                }
            )
            print(name, json.dumps(phases[-1]), flush=True)
    return {"sustainable_rps": sustainable, "seconds": seconds, "phases": phases}


def why_bad(found: dict) -> list[str]:
    """Say what does not hold."""
    reasons = [] if found["sustainable_rps"] else ["no answer was right"]
    for phase in found["phases"]:
        bad = {what: n for what, n in phase["outcomes"].items() if what not in ("right", "near", "refused")}
        reasons += [f"{n} answers are {what} at {phase['share']}" for what, n in bad.items()]
        if phase["admitted_ms"]["max"] > 1000 * DEADLINE_SECONDS:
            reasons.append(f"an answer came after {phase['admitted_ms']['max']:.0f} ms at {phase['share']}")
        if phase["rss_mib"][1] - phase["rss_mib"][0] > MOST_GROWTH_MIB:
            reasons.append(f"memory grew from {phase['rss_mib'][0]:.0f} to {phase['rss_mib'][1]:.0f} MiB")
    if found["phases"][0]["outcomes"].get("refused"):
        reasons.append("requests at 70 % of the rate were refused")
    return reasons


def main() -> int:
    """Measure all models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["rampart", "base"])
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    content, reasons = {}, []
    with hold_work():
        for name in arguments.models:
            found = run_model(name, arguments.seconds)
            content[name] = {**machine.describe(), **found}
            reasons += [f"{name}: {reason}" for reason in why_bad(found)]
            (RESULTS / "overload.json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(reasons) or "all holds")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
