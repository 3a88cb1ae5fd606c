"""Replay loads against the chart's autoscaling rule, to see whether it oscillates, who starves, and what it costs.

The rule is `Autoscaler` with the numbers of deploy/helm/nerve/values.yaml (but for maxReplicas: 20). A pod is a server
with one queue: BERT-base in float32 on two cores, by the figures of bench/results/house/base.json (requests/s of 32
clients; ms of a lone request). A request goes to a random pod, as kube-proxy sends it, and is refused where its answer
would come after 30 s. Metrics are what Prometheus would give: counters read every 15 s, rates over one minute; the rule
is asked every 15 s. A pod serves `--start` seconds after it was asked for: a node that is there, an image that is
there, a model in it.

Time goes in steps of 0.1 s: in each, every pod gets a Poisson number of requests and works off its queue.

Loads are the curves of bench/deploy/loads.toml, and those that `bench.deploy.record` has recorded on real servers: the
requests of each second, four times as many (for four pods in the place of each server) and 15 times as slow; the
recorded day takes a day.
Writes bench/results/autoscaling.json, docs/images/autoscaling.svg, and docs/images/autoscaling-recorded.svg with what
real servers said of a load beside what the simulated pods say.

usage: python -m bench.deploy.scaling [--start 40]
"""

import argparse
import itertools
import json
import statistics
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from bench.deploy.autoscaler import Autoscaler, Metric
from bench.paths import BENCH, REPOSITORY, RESULTS
from bench.serving import machine

FILE = RESULTS / "autoscaling.json"
PICTURE = REPOSITORY / "docs" / "images" / "autoscaling.svg"
RECORDED = RESULTS / "recorded-loads.json"
RECORDED_PICTURE = PICTURE.with_name("autoscaling-recorded.svg")
# The recorded day has 72 seconds.
DAY_SPEED = 86400 / 72
# Pods in the place of each recorded server.
PODS_OF_A_SERVER = 4
VALUES = REPOSITORY / "deploy" / "helm" / "nerve" / "values.yaml"
SOURCE = RESULTS / "house" / "base.json"
STEP = 0.1
SCRAPE = 15.0
WINDOW = 60.0
DEADLINE = 30.0
MOST = 20
# Answers above these seconds are counted, whatever the rule's own limit is.
SLOW = 1.0


@dataclass(frozen=True)
class Service:
    """What a pod does: seconds of its engine that a request takes, and seconds that a lone request takes."""

    engine_seconds: float
    lone_seconds: float


def measured_service() -> Service:
    """Return the figures of the newest version in the result file."""
    loads = json.loads(SOURCE.read_text())["loads"]

    def of(load: str, read) -> float:
        return statistics.median(read(seen["after"]) for seen in loads[load]["rounds"])

    return Service(
        1 / of("c32", lambda seen: seen["rps"]), of("c1", lambda seen: seen["latency_ms"]["p50"]) / 1000
    )


@dataclass
class Pods:
    """The pods' queues, in seconds of work, and what a scrape reads from them."""

    service: Service
    queues: np.ndarray
    deadline: float = DEADLINE
    starting: list[float] = field(default_factory=list)
    busy: float = 0.0
    refused: int = 0
    waits: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """All pods, those included that do not serve yet."""
        return len(self.queues) + len(self.starting)

    def scale(self, target: int, ready_at: float) -> None:
        """Ask for pods, or drain some: first those that start, then the emptiest; what they hold they still answer."""
        while self.count < target:
            self.starting.append(ready_at)
        while self.count > target and self.starting:
            self.starting.pop()
        if self.count > target:
            self.queues = np.sort(self.queues)[self.count - target :]

    def admit(self, now: float) -> None:
        """Let those serve that are ready by now."""
        served = [at for at in self.starting if at <= now]
        if served:
            self.starting = [at for at in self.starting if at > now]
            self.queues = np.append(self.queues, np.zeros(len(served)))

    def step(self, arrived: np.ndarray) -> None:
        """Let one step of time pass, in which each pod gets so many requests."""
        work = arrived * self.service.engine_seconds
        full = self.queues + work > self.deadline
        self.refused += int(arrived[full].sum())
        arrived[full], work[full] = 0, 0
        # Within a step requests come evenly, so the mean one finds half of the others' work before it.
        self.waits.append((self.queues + work / 2 + self.service.lone_seconds, arrived))
        total = self.queues + work
        self.queues = np.maximum(0, total - STEP)
        self.busy += float((total - self.queues).sum())


def percentile(waits: list[tuple[np.ndarray, np.ndarray]], share: float) -> float:
    """Return a percentile of answers' seconds, 0 where there are none."""
    if not waits:
        return 0.0
    seconds, counts = (np.concatenate(part) for part in zip(*waits, strict=True))
    if not counts.sum():
        return 0.0
    order = np.argsort(seconds)
    running = np.cumsum(counts[order])
    return float(seconds[order][np.searchsorted(running, share * running[-1])])


def replay(load: dict, service: Service, scaling: dict, start_seconds: float, fixed: int = 0) -> dict:
    """Replay one load. fixed: that many pods and no autoscaling."""
    random = np.random.default_rng(7)
    times = np.array(load["at"], dtype=float) * load["unit"]
    rates = np.array(load["rate"], dtype=float)
    first = max(
        scaling["minReplicas"], int(np.ceil(rates[0] * service.engine_seconds / scaling["busyShare"]))
    )
    pods = Pods(service, np.zeros(fixed or first))
    rule = Autoscaler(scaling["minReplicas"], MOST, scaling["behavior"])
    lost_at = load["lost"] * load["unit"] if "lost" in load else None
    history: list[dict] = []
    scrapes: list[dict] = []
    waits_since: list[tuple[np.ndarray, np.ndarray]] = []
    for tick in range(int(times[-1] / STEP)):
        now = tick * STEP
        rate = float(np.interp(now, times, rates))
        if lost_at is not None and now >= lost_at:
            # Its requests fail, which the clients see; the Deployment starts another pod.
            pods.queues, lost_at = pods.queues[1:], None
            pods.starting.append(now + start_seconds)
        pods.admit(now)
        pods.step(random.poisson(rate * STEP / len(pods.queues), len(pods.queues)))
        if tick % int(SCRAPE / STEP):
            continue
        waits_since, pods.waits = pods.waits, []
        scrapes = [*scrapes, {"waits": waits_since, "busy": pods.busy, "refused": pods.refused}][-5:]
        answered = [pair for scrape in scrapes[1:] for pair in scrape["waits"]]
        p99 = percentile(answered, 0.99)
        seconds = SCRAPE * (len(scrapes) - 1)
        if not fixed and seconds >= WINDOW:
            refused = scrapes[-1]["refused"] - scrapes[0]["refused"]
            total = refused + sum(int(counts.sum()) for _, counts in answered)
            metrics = [
                Metric((scrapes[-1]["busy"] - scrapes[0]["busy"]) / seconds, scaling["busyShare"], True),
                Metric(refused / max(1, total), scaling["refusedShare"], False),
                Metric(p99, scaling["p99Seconds"], False),
            ]
            pods.scale(rule.decide(now, pods.count, len(pods.queues), metrics), now + start_seconds)
        history.append(
            {
                "seconds": now,
                "rate": round(rate, 1),
                "pods": pods.count,
                "ready": len(pods.queues),
                "p99_ms": round(percentile(waits_since, 0.99) * 1000),
                "answered": sum(int(counts.sum()) for _, counts in waits_since),
                "slow": sum(int(counts[s > SLOW].sum()) for s, counts in waits_since),
            }
        )
    return summarize(history, pods.refused, service, scaling) | {"history": history}


def summarize(history: list[dict], refused: int, service: Service, scaling: dict) -> dict:
    """Return what matters of a replay: refusals, slow answers, changes of direction, pod hours."""
    counts = [each["pods"] for each in history]
    steps = [after - before for before, after in itertools.pairwise(counts) if after != before]
    answered = sum(each["answered"] for each in history)
    work = sum(each["rate"] for each in history) * SCRAPE * service.engine_seconds
    return {
        "answered": answered,
        "refused": refused,
        "above_1s": sum(each["slow"] for each in history),
        "share_above_1s": round(sum(each["slow"] for each in history) / max(1, answered), 5),
        "worst_p99_ms": max(each["p99_ms"] for each in history),
        "pods": [min(counts), max(counts)],
        "changes": len(steps),
        "turns": sum(1 for a, b in itertools.pairwise(steps) if a * b < 0),
        "pod_hours": round(sum(counts) * SCRAPE / 3600, 2),
        # The least that could do the work with pods as busy as the rule wants them.
        "ideal_pod_hours": round(work / scaling["busyShare"] / 3600, 2),
    }


def recorded_load(seen: dict, speed: float) -> tuple[dict, Service]:
    """Return a load of `bench.deploy.record` as `replay` takes it, and what its servers did."""
    seconds = np.array(seen["arrived"]).reshape(-1, round(1 / STEP)).sum(axis=1)
    load = {
        "unit": speed,
        "at": [*range(len(seconds))],
        "rate": [float(count) * PODS_OF_A_SERVER for count in seconds],
    }
    if "lost_at" in seen:
        load["lost"] = seen["lost_at"]
    service = Service(1 / seen["requests_per_second_of_a_server"], seen["lone_request_ms"] / 1000)
    return load, service


def draw_recorded(loads: dict, path: Path) -> None:
    """Draw the busy share and the p99 of each recorded load, of the servers and of the simulated pods."""
    plt = plots()
    figure, axes = plt.subplots(2, len(loads), figsize=(15, 6), sharex="col", layout="constrained")
    for column, (name, seen) in enumerate(loads.items()):
        top, bottom = axes[0][column], axes[1][column]
        top.set_title(name, fontsize=9)
        for who, colour in (("recorded", "tab:blue"), ("simulated", "tab:orange")):
            at = [each["from"] for each in seen[who]]
            top.step(at, [each["busy"] for each in seen[who]], where="post", color=colour, label=who)
            top.step(at, [each["refused"] for each in seen[who]], where="post", color=colour, linestyle=":")
            bottom.step(at, [max(1, each["p99_ms"]) for each in seen[who]], where="post", color=colour)
        top.set_ylim(0)
        bottom.set_yscale("log")
        bottom.set_xlabel("seconds")
    axes[0][0].legend()
    axes[0][0].set_ylabel("servers' worth of work;\ndotted: share refused")
    axes[1][0].set_ylabel("p99, ms")
    figure.savefig(path, metadata={"Date": None})


def plots():
    """Return pyplot, so set that a picture is the same each time."""
    import matplotlib as mpl  # noqa: PLC0415  only plots need it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "nerve"
    import matplotlib.pyplot as plt  # noqa: PLC0415

    return plt


def draw(found: dict, loads: dict, service: Service, path: Path) -> None:
    """Draw rate, pods and p99 of each load."""
    plt = plots()
    figure, axes = plt.subplots(2, len(loads), figsize=(15, 6), sharex="col", layout="constrained")
    for column, (name, load) in enumerate(loads.items()):
        history = found[name]["history"]
        hours = name == "day"
        at = [each["seconds"] / (3600 if hours else 60) for each in history]
        top, bottom = axes[0][column], axes[1][column]
        top.set_title(load["title"], fontsize=9)
        top.fill_between(at, [each["rate"] * service.engine_seconds for each in history], color="0.85")
        top.step(at, [each["pods"] for each in history], where="post", color="tab:blue", linewidth=1)
        top.step(at, [each["ready"] for each in history], where="post", color="tab:green", linewidth=1)
        top.set_ylim(0)
        bottom.plot(at, [each["p99_ms"] for each in history], color="tab:red", linewidth=0.8)
        bottom.set_yscale("log")
        bottom.set_xlabel("hours" if hours else "minutes")
    axes[0][0].set_ylabel("pods: wanted (blue), ready (green),\nfully busy (grey)")
    axes[1][0].set_ylabel("p99, ms")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=float, default=40, help="seconds until a new pod serves")
    parser.add_argument("--draw", action="store_true", help="replay nothing; draw the result file")
    arguments = parser.parse_args()
    scaling = yaml.safe_load(VALUES.read_text())["autoscaling"]
    loads = tomllib.loads((BENCH / "deploy" / "loads.toml").read_text())
    service = measured_service()
    if arguments.draw:
        draw(json.loads(FILE.read_text())["loads"], loads, service, PICTURE)
        draw_recorded(json.loads(RECORDED.read_text())["loads"], RECORDED_PICTURE)
        return
    found = {}
    for name, load in loads.items():
        found[name] = replay(load, service, scaling, arguments.start)
        print(name, {key: value for key, value in found[name].items() if key != "history"}, flush=True)
    # What else could be done: as many pods as the top needs, all day; nodes that must be started first.
    others = {
        "day-fixed": replay(loads["day"], service, scaling, 0, fixed=found["day"]["pods"][1]),
        "burst-new-nodes": replay(loads["burst"], service, scaling, 180),
        "burst-without-guardrails": replay(
            loads["burst"], service, scaling | {"refusedShare": 1e9, "p99Seconds": 1e9}, arguments.start
        ),
    }
    for name, each in others.items():
        print(name, {key: value for key, value in each.items() if key != "history"}, flush=True)
    recording = json.loads(RECORDED.read_text())
    recorded = {
        name: replay(
            *recorded_load(seen, DAY_SPEED if name == "day" else recording["speed"]), scaling, arguments.start
        )
        for name, seen in recording["loads"].items()
    }
    for name, each in recorded.items():
        print("recorded", name, {key: value for key, value in each.items() if key != "history"}, flush=True)
    # A point a minute, and five minutes of a day, are enough for whoever reads the file.
    for each in found.values():
        each["history"] = each["history"][:: 4 if len(each["history"]) < 1000 else 20]
    for each in (*others.values(), *recorded.values()):
        del each["history"]
    facts = {"commit": machine.describe()["commit"], "machine": machine.describe()["machine"]}
    model = {
        "source": str(SOURCE.relative_to(REPOSITORY)),
        "model": "BERT-base, float32, 2 cores a pod",
        "requests_per_second_of_a_pod": round(1 / service.engine_seconds, 1),
        "lone_request_ms": round(service.lone_seconds * 1000, 1),
        "start_seconds": arguments.start,
    }
    content = {**facts, "service": model, "rule": scaling, "loads": found, "others": others}
    content["recorded"] = {"source": str(RECORDED.relative_to(REPOSITORY)), "loads": recorded}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    draw(found, loads, service, PICTURE)
    draw_recorded(recording["loads"], RECORDED_PICTURE)


if __name__ == "__main__":
    main()
