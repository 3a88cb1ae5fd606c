"""Record real loads on real servers: what came, and what /metrics said of it; see whether the simulation says the same.

One server of the default model (float32, one engine thread) behind the shipped Nginx, or two of which one is killed,
get requests in an open loop: Poisson arrivals along the curves below, whatever comes back. Rates are shares of what the
server answers to 16 clients in a closed loop just before. A day is too long to record, so time is 15 times as fast as
that of the cluster: metrics are read each second where Prometheus reads them every 15, and a request has two seconds
where it would have thirty.

Per window of four seconds (there: a minute) the three metrics of the rule are made of the counters as the chart's
queries make them, and the same is asked of the simulated pods of `bench.deploy.scaling`, which get the same arrivals.
`bench.deploy.scaling` then replays what was recorded, 15 times as slow, against the rule.

Writes bench/results/recorded-loads.json. Needs nginx and two quiet cores; takes about four minutes.

usage: python -m bench.deploy.record
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from bench.deploy.fleet import Clients, Fleet, Server, bodies_of, fleet
from bench.deploy.scaling import STEP, Pods, Service, percentile
from bench.paths import RESULTS
from bench.serving import machine
from bench.serving.connections import Connections

FILE = RESULTS / "recorded-loads.json"
SPEED = 15
WINDOW = 4
DEADLINE_MS = 2000
# Seconds and shares of what a server can do, along straight lines.
LOADS = {
    "steady": ([0, 30], [0.6, 0.6]),
    "burst": ([0, 12, 13, 27, 28, 48], [0.3, 0.3, 1.8, 1.8, 0.3, 0.3]),
    "day": (
        [0, 6, 12, 18, 24, 30, 36, 42, 48, 54, 60, 66, 72],
        [0.2, 0.1, 0.08, 0.15, 0.5, 0.8, 0.85, 0.75, 0.8, 0.65, 0.55, 0.6, 0.2],
    ),
    "lost": ([0, 45], [0.8, 0.8]),
}
LOST_AT, BACK_AT = 15, 30


@dataclass
class Sender:
    """Sends requests in an open loop, and notes by second what was sent and what became of it."""

    port: int
    bodies: list[bytes]
    sent: Counter = field(default_factory=Counter)
    outcomes: Counter = field(default_factory=Counter)
    moments: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._connections = Connections(self.port)

    async def run(self, times: list[float], rates: list[float]) -> None:
        """Send along a curve of requests/s, and wait for the answers."""
        rng = random.Random(11)
        began, due, tasks = time.perf_counter(), 0.0, []
        while (due := due + rng.expovariate(max(1e-9, float(np.interp(due, times, rates))))) < times[-1]:
            if (pause := began + due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            self.moments.append(due)
            tasks.append(asyncio.create_task(self._ask(self.bodies[len(tasks) % len(self.bodies)])))
        await asyncio.gather(*tasks)
        self._connections.close()

    async def _ask(self, body: bytes) -> None:
        head = f"POST /predict_tokens HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        head += f"content-type: application/json\r\nrequest-timeout-ms: {DEADLINE_MS}\r\n\r\n"
        try:
            async with asyncio.timeout(10):
                status, _ = await self._connections.exchange(head.encode() + body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        self.outcomes[str(status)] += 1


@dataclass
class Scrape:
    """Counters of a server, as the chart's queries need them. buckets: answered requests by their seconds."""

    busy: float = 0.0
    refused: float = 0.0
    buckets: dict[float, float] = field(default_factory=dict)

    def since(self, before: "Scrape") -> "Scrape":
        """Return what came since another scrape; a server that was started anew counts from 0 on."""
        if self.busy < before.busy:
            return self
        buckets = {bound: count - before.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Scrape(self.busy - before.busy, self.refused - before.refused, buckets)

    def __add__(self, other: "Scrape") -> "Scrape":
        """Return both together."""
        bounds = sorted({*self.buckets, *other.buckets})
        buckets = {bound: self.buckets.get(bound, 0.0) + other.buckets.get(bound, 0.0) for bound in bounds}
        return Scrape(self.busy + other.busy, self.refused + other.refused, buckets)


def read_scrape(text: str) -> Scrape:
    """Read what /metrics says."""
    found = Scrape()
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)", text, re.MULTILINE):
        if name == "nerve_engine_busy_seconds_total":
            found.busy += float(value)
        elif name == "nerve_rejections_total" and re.search(
            'reason="(queue_tokens|queue_wait|queue_deadline|pool|pending_bytes|deadline)"', labels
        ):
            found.refused += float(value)
        elif name == "nerve_request_duration_seconds_bucket":
            bound = float(re.search('le="([^"]+)"', labels)[1])  # type: ignore[index]
            found.buckets[bound] = found.buckets.get(bound, 0.0) + float(value)
    return found


def window_of(seen: Scrape, seconds: float) -> dict:
    """Return what the chart's queries give of what came within some seconds."""
    answered = max(seen.buckets.values(), default=0.0)
    return {
        "busy": round(seen.busy / seconds, 3),
        "refused": round(seen.refused / max(1.0, seen.refused + answered), 4),
        "p99_ms": round(1000 * quantile(seen.buckets, 0.99 * answered), 1),
    }


def quantile(counts: dict[float, float], rank: float) -> float:
    """Return a quantile as Prometheus' histogram_quantile does: a straight line within a bucket."""
    low, below = 0.0, 0.0
    for bound, count in counts.items():
        if count >= rank and count > 0:
            return (
                low
                if bound == float("inf")
                else low + (bound - low) * (rank - below) / max(1e-9, count - below)
            )
        low, below = bound, count
    return 0.0


async def record(held: Fleet, times: list[float], rates: list[float], *, loses: bool) -> dict:
    """Run one load; return arrivals by tenth of a second, metrics of each second, and what clients saw."""
    sender = Sender(held.port, bodies_of(25))
    began = time.monotonic()
    scrapes: list[tuple[float, list[Scrape | None]]] = []
    work = asyncio.create_task(sender.run(times, rates))
    is_lost = is_back = False
    while not work.done():
        now = time.monotonic() - began
        if loses and now >= LOST_AT and not is_lost:
            is_lost = True
            held.servers[0].close()
        if loses and now >= BACK_AT and not is_back:
            is_back = True
            back = asyncio.create_task(asyncio.to_thread(held.servers[0].start))
        scrapes.append((now, await asyncio.to_thread(scrape, held.servers)))
        await asyncio.sleep(max(0.05, 1 - (time.monotonic() - began - now)))
    await work
    if is_back:
        await back
    arrived = np.bincount((np.array(sender.moments) / STEP).astype(int), minlength=round(times[-1] / STEP))
    return {
        "arrived": arrived.tolist(),
        "outcomes": dict(sender.outcomes),
        "scrapes": scrapes,
    }


def scrape(servers: list[Server]) -> list[Scrape | None]:
    """Read the counters of each server, None of one that is not there."""
    texts = ["" if server.process.poll() is not None else server.metrics() for server in servers]
    return [read_scrape(text) if text else None for text in texts]


def windows_of(scrapes: list[tuple[float, list[Scrape | None]]], end: float) -> list[dict]:
    """Return the metrics of each window of the recording, by server and then together, as Prometheus' rate does."""
    found = []
    for start in range(0, int(end) // WINDOW * WINDOW, WINDOW):
        inside = [each for each in scrapes if start <= each[0] <= start + WINDOW + 0.5]
        seen = Scrape()
        for (_, before), (_, after) in itertools.pairwise(inside):
            for one, other in zip(before, after, strict=True):
                if one is not None and other is not None:
                    seen += other.since(one)
        found.append({"from": start, **window_of(seen, inside[-1][0] - inside[0][0])})
    return found


def simulate(arrived: list[int], service: Service, pods: int, *, loses: bool) -> list[dict]:
    """Give the recorded arrivals to simulated pods; return the same metrics."""
    rng = np.random.default_rng(5)
    held = Pods(service, np.zeros(pods), deadline=DEADLINE_MS / 1000)
    found: list[dict] = []
    busy, refused = 0.0, 0
    for tick, count in enumerate(arrived):
        now = tick * STEP
        if loses and round(now, 3) == LOST_AT:
            held.queues = held.queues[1:]
            held.starting.append(float(BACK_AT))
        held.admit(now)
        held.step(np.bincount(rng.integers(0, len(held.queues), count), minlength=len(held.queues)))
        if (tick + 1) % round(WINDOW / STEP) == 0:
            waits, held.waits = held.waits, []
            answered = sum(int(counts.sum()) for _, counts in waits)
            gone = held.refused - refused
            found.append(
                {
                    "from": round(now + STEP) - WINDOW,
                    "busy": round((held.busy - busy) / WINDOW, 3),
                    "refused": round(gone / max(1, gone + answered), 4),
                    "p99_ms": round(1000 * percentile(waits, 0.99), 1),
                }
            )
            busy, refused = held.busy, held.refused
    return found


def calibrate(held: Fleet) -> Service:
    """Return what one server does: in a closed loop of 16 clients, and for a lone request."""
    for _ in range(2):  # the first only warms
        with Clients(held.port, {"sentence": bodies_of(25)}, {"sentence": 16}) as clients:
            time.sleep(5)
    rate = clients.outcome.summary()["sentence"]["rps"]
    with Clients(held.port, {"sentence": bodies_of(25)}, {"sentence": 1}) as clients:
        time.sleep(3)
    return Service(1 / rate, clients.outcome.summary()["sentence"]["p50_ms"] / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=[*LOADS])
    options = parser.parse_args()
    facts = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **machine.describe()}
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    loads = before.get("loads", {})
    for name in options.loads:
        times, shares = LOADS[name]
        loses = name == "lost"
        with fleet(1) as held:
            service = calibrate(held)
            if not loses:
                rates = [share / service.engine_seconds for share in shares]
                seen = asyncio.run(record(held, times, rates, loses=False))
        if loses:
            with fleet(2) as held:
                seen = asyncio.run(
                    record(held, times, [share / service.engine_seconds for share in shares], loses=True)
                )
        recorded = windows_of(seen.pop("scrapes"), times[-1])
        simulated = simulate(seen["arrived"], service, 2 if loses else 1, loses=loses)
        loads[name] = {
            "commit": facts["commit"],
            "started": facts["started"],
            "load_before": facts["machine"]["load_before"],
            "requests_per_second_of_a_server": round(1 / service.engine_seconds, 1),
            "lone_request_ms": round(service.lone_seconds * 1000, 1),
            **seen,
            **({"lost_at": LOST_AT} if loses else {}),
            "recorded": recorded,
            "simulated": simulated,
        }
        print(name, loads[name]["requests_per_second_of_a_server"], loads[name]["outcomes"], flush=True)
        for one, other in zip(recorded, simulated, strict=True):
            print("  ", one, other, flush=True)
    FILE.write_text(json.dumps({**facts, "speed": SPEED, "loads": loads}) + "\n")


if __name__ == "__main__":
    main()
