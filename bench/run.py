"""Run the bench: scenarios x rounds x servers, interleaved, into one JSON file under bench/results/.

In every round each server of a scenario is measured once, in an order that is rotated from round to round,
so that whatever else the machine does falls on all of them. Ratios are made within a round, by render.py.
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import generators
import machine
import servers
import workload
from generators import Target
from models import WORK, BenchModel, Unavailable, find_model
from scenarios import Scenario, read_scenarios, shorten, to_plain
from servers import Server, ServerSpec
from workload import Reference, Requests, Workload

HERE = Path(__file__).parent
# Share of CPU time that other processes may take before a measurement is marked.
NOISY_CORES = 0.3
# A server that uses less is idle; some poll.
IDLE_CORES = 0.3


class Bench:
    """Holds what scenarios share: models, expected answers and started servers."""

    def __init__(self):
        self.models: dict[str, BenchModel] = {}
        self.references: dict[str, Reference] = {}
        self.requests: dict[tuple[str, Workload], Requests] = {}
        self.started: dict[tuple[str, str], Server] = {}
        self.skipped: dict[str, str] = {}

    def model_for(self, scenario: Scenario, spec: ServerSpec) -> BenchModel:
        """Return the server's own model, else the scenario's."""
        name = spec.model or scenario.model
        if name not in self.models:
            self.models[name] = find_model(name)
        return self.models[name]

    def requests_for(self, scenario: Scenario, spec: ServerSpec) -> Requests:
        """Make the requests and their expected answers, once for each model and workload."""
        if spec.rows == "hello":
            return workload.hello_requests()
        model = self.model_for(scenario, spec)
        key = model.name, scenario.workload
        if key not in self.requests:
            if model.name not in self.references:
                self.references[model.name] = Reference(model)
            self.requests[key] = self.references[model.name].requests(scenario.workload)
        return self.requests[key]

    def server_for(self, scenario: Scenario, spec: ServerSpec) -> Server:
        """Start the server, once for each model."""
        spec.check()
        model = self.model_for(scenario, spec)
        key = spec.label, model.name
        if key not in self.started:
            probe = self.requests_for(scenario, spec).bodies[0]
            self.started[key] = Server(spec, model, probe)
        return self.started[key]

    def skip(self, scenario: Scenario, spec: ServerSpec, reason: Exception) -> None:
        """Note, for all to see, that a server takes no part in a scenario."""
        self.skipped[f"{scenario.name}: {spec.label}"] = str(reason)
        print(f"  SKIPPED {spec.label}: {reason}", flush=True)

    def close(self) -> None:
        """End all servers."""
        for server in self.started.values():
            server.close()
        self.started.clear()


def learn_answers(server: Server, requests: Requests) -> Target:
    """Ask everything once, check every answer in full, and keep its bytes for the load generators.

    Raises `Unavailable` with the first difference from the expected answers.
    """
    answers = []
    with server.turn():
        for index, body in enumerate(requests.bodies):
            answer = server.post(body)
            answers.append(answer)
            if server.spec.rows == "hello":
                continue
            fault = workload.find_fault(requests, index, answer, specials=server.spec.rows == "all")
            if fault:
                raise Unavailable(f"{server.spec.label} answers wrongly: request {index}, {fault}")
    return Target(server.url, server.spec.route, requests.bodies, answers)


def settle(server: Server, target: Target) -> None:
    """Wait until the server has done with what an earlier generator left behind unanswered."""
    server.post(target.bodies[0])
    deadline = time.monotonic() + 10
    used, share = server.cpu_seconds(), 1.0
    while share > IDLE_CORES and time.monotonic() < deadline:
        time.sleep(0.2)
        before, used = used, server.cpu_seconds()
        share = (used - before) / 0.2


def measure(server: Server, target: Target, run) -> dict:
    """Run a load generator on a server; add what the server and everything else used meanwhile."""
    settle(server, target)
    cpu, busy, start = server.cpu_seconds(), machine.busy_seconds(), time.monotonic()
    seen = run()
    elapsed = time.monotonic() - start
    cpu, busy = server.cpu_seconds() - cpu, machine.busy_seconds() - busy
    ours = cpu + seen["generator_cores"] * seen["seconds"]
    seen["server_cpu_ms_per_request"] = 1000 * cpu / seen["requests"] if seen["requests"] else None
    seen["server_rss_mib"] = round(server.rss_mib(), 1)
    return {**seen, **describe_noise(busy - ours, elapsed)}


def describe_noise(busy_seconds: float, elapsed: float) -> dict:
    """Say how much CPU time went to processes that are not part of the measurement."""
    others = busy_seconds / elapsed
    return {"other_cores": round(others, 3), "noisy": others > NOISY_CORES}


def measure_server(scenario: Scenario, server: Server, target: Target) -> list[dict]:
    """Warm up, then measure: one measurement, or one for each rate of an open loop."""

    def closed(seconds: float) -> dict:
        return generators.closed_loop(target, scenario.connections, seconds, scenario.reuse)

    def opened(rate: float) -> dict:
        return generators.open_loop(target, rate, scenario.seconds, scenario.reuse)

    with server.turn():
        closed(scenario.warm_up_seconds)
        if scenario.loop == "closed":
            return [measure(server, target, partial(closed, scenario.seconds))]
        rates = list(scenario.rates)
        if scenario.share:
            saturated = measure(server, target, partial(closed, max(2, scenario.seconds / 2)))["rps"]
            rates += [share * saturated for share in scenario.share]
        return [measure(server, target, partial(opened, rate)) for rate in rates]


def measure_floor(scenario: Scenario, spec: ServerSpec, model: BenchModel, requests: Requests) -> list[dict]:
    work = WORK / "floor.json"
    workload.write_floor_work(requests, work)
    busy, start = machine.busy_seconds(), time.monotonic()
    seen, used = servers.run_floor(spec, model, work, scenario.seconds, scenario.warm_up_seconds)
    noise = describe_noise(machine.busy_seconds() - busy - used, time.monotonic() - start)
    latencies = generators.Counter(seen.pop("latencies_us"))
    count = sum(latencies.values())
    return [
        {
            "generator": "in process",
            "requests": count,
            "errors": {},
            "seconds": seen["seconds"],
            "rps": count / seen["seconds"],
            "latency_ms": generators.percentiles_ms(latencies),
            "server_cpu_ms_per_request": 1000 * seen["cpu_seconds"] / count,
            "invalid": [],
            **noise,
        }
    ]


def prepare(bench: Bench, scenario: Scenario, specs: list[ServerSpec]) -> dict[str, Target | None]:
    """Start the servers of a scenario and learn their answers; note those that cannot take part."""
    ready: dict[str, Target | None] = {}
    for spec in filter(scenario.takes, specs):
        try:
            requests = bench.requests_for(scenario, spec)
            if spec.name == "floor":
                ready[spec.label] = None
            else:
                ready[spec.label] = learn_answers(bench.server_for(scenario, spec), requests)
        except (Unavailable, OSError) as reason:
            bench.skip(scenario, spec, reason)
    return ready


def measure_in_round(bench: Bench, scenario: Scenario, spec: ServerSpec, target: Target | None) -> list[dict]:
    if target is None:
        model, requests = bench.model_for(scenario, spec), bench.requests_for(scenario, spec)
        return measure_floor(scenario, spec, model, requests)
    return measure_server(scenario, bench.server_for(scenario, spec), target)


def run_scenario(bench: Bench, scenario: Scenario, specs: list[ServerSpec], rounds: int) -> list[dict]:
    """Return one {server label: measurements} for each round; a server that fails in one is left out of all."""
    print(f"{scenario.name}: {scenario.description}", flush=True)
    ready = prepare(bench, scenario, specs)
    results = []
    for number in range(rounds):
        taken = [spec for spec in specs if spec.label in ready]
        shift = number % max(1, len(taken))
        seen: dict[str, list[dict]] = {}
        for spec in taken[shift:] + taken[:shift]:
            try:
                seen[spec.label] = measure_in_round(bench, scenario, spec, ready[spec.label])
            except (OSError, RuntimeError, subprocess.CalledProcessError) as reason:
                bench.skip(scenario, spec, reason)
                del ready[spec.label]
                continue
            for one in seen[spec.label]:
                print(f"  round {number + 1} {line(spec.label, one)}", flush=True)
        results.append(seen)
    return [{label: one for label, one in seen.items() if label in ready} for seen in results]


def line(label: str, seen: dict) -> str:
    latency, cpu = seen["latency_ms"], seen.get("server_cpu_ms_per_request")
    offered = f" of {seen['offered_rps']} offered" if "offered_rps" in seen else ""
    parts = [f"{label:32}{seen['rps']:9.1f}/s{offered}"]
    parts += [f"{name} {latency[name]:8.3f}" for name in ("p50", "p99") if name in latency]
    parts += [f"cpu {cpu:.3f} ms"] if cpu is not None else []
    parts += [f"ERRORS {seen['errors']}"] if seen["errors"] else []
    parts += [f"INVALID {reason}" for reason in seen["invalid"]]
    parts += [f"noisy: others used {seen['other_cores']:.2f} cores"] if seen.get("noisy") else []
    return "  ".join(parts)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(rounds: list[dict]) -> dict:
    """Median, least and greatest over the rounds of req/s and percentiles, by server and rate."""
    found: dict[str, list[dict]] = {}
    for label in rounds[0] if rounds else ():
        found[label] = [
            {
                "rps": spread([one["rps"] for one in column]),
                "latency_ms": {
                    name: spread([one["latency_ms"][name] for one in column])
                    for name in column[0]["latency_ms"]
                    if all(name in one["latency_ms"] for one in column)
                },
            }
            for column in zip(*(seen[label] for seen in rounds), strict=True)
        ]
    return found


def choose(arguments: argparse.Namespace) -> tuple[list[Scenario], list[ServerSpec], int]:
    scenarios, specs = read_scenarios(), servers.read_specs()
    unknown = {
        *(set(arguments.scenario) - {scenario.name for scenario in scenarios}),
        *(set(arguments.servers) - {name for spec in specs for name in (spec.name, spec.label)}),
    }
    if unknown:
        raise SystemExit(
            f"unknown: {', '.join(sorted(unknown))}; see bench/scenarios/ and bench/servers.toml"
        )
    if arguments.scenario:
        scenarios = [scenario for scenario in scenarios if scenario.name in arguments.scenario]
    elif arguments.quick:
        scenarios = [scenario for scenario in scenarios if scenario.quick]
    if arguments.quick:
        scenarios = [shorten(scenario) for scenario in scenarios]
    if arguments.servers:
        wanted = set(arguments.servers)
        specs = [spec for spec in specs if spec.name in wanted or spec.label in wanted]
    return scenarios, specs, arguments.rounds or (2 if arguments.quick else 5)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few scenarios, 2 rounds of 2 s: shows that all works"
    )
    parser.add_argument(
        "--scenario", action="append", default=[], metavar="NAME", help="only this one; repeatable"
    )
    parser.add_argument(
        "--servers", nargs="+", default=[], metavar="NAME", help="only these, by name or name/variant"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (5; 2 with --quick)")
    parser.add_argument("--out", metavar="NAME", help="name of the result file (quick, or date and commit)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that held servers are ended
    scenarios, specs, rounds = choose(arguments)
    started = datetime.now(UTC)
    facts = machine.describe()
    name = arguments.out or ("quick" if arguments.quick else f"{started:%Y%m%d-%H%M}-{facts['commit']}")
    file = HERE / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    content = {
        "started": started.isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "rounds": rounds,
        **facts,
        "skipped": {},
        "configurations": {},
        "scenarios": {},
    }
    bench = Bench()
    with contextlib.closing(bench):
        for scenario in scenarios:
            seen = run_scenario(bench, scenario, specs, rounds)
            content["scenarios"][scenario.name] = {
                "scenario": to_plain(scenario),
                "summary": summarise(seen),
                "rounds": seen,
            }
            content["skipped"] = bench.skipped
            content["configurations"] = {
                f"{label} on {on}": s.settings for (label, on), s in bench.started.items()
            }
            file.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
