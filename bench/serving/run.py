"""Run the bench: scenarios x rounds x servers, interleaved, into one JSON file under bench/results/.

In every round each server of a scenario is measured once, in an order that is rotated from round to round,
so that whatever else the machine does falls on all of them. Ratios are made within a round, by goals.py.
The file is written after every measurement. The same command goes on with it where it was cut off, and other
scenarios or more rounds are added to it, as long as commit, machine and versions are the same.
"""

import argparse
import contextlib
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bench.paths import RESULTS, WORK
from bench.serving import generators, machine, results, servers, workload
from bench.serving.generators import Target
from bench.serving.goals import eliminate, read_goals, servers_of
from bench.serving.models import BenchModel, Unavailable, find_model, hold_work
from bench.serving.scenarios import Scenario, ScenarioSet, read_scenarios, read_sets, to_plain
from bench.serving.servers import Server, ServerSpec
from bench.serving.workload import Reference, Requests, Workload

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
            has_specials = server.spec.rows == "all"
            fault = workload.find_fault(
                requests, index, answer, specials=has_specials, tolerance=server.spec.tolerance
            )
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
            saturated = measure(server, target, partial(closed, max(2, scenario.seconds / 4)))["rps"]
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


@dataclass
class Course:
    """One scenario on its way: its entry in the result file, and the servers that still take part.

    ready: what to send to each server; None for the floor, which is none.
    """

    bench: Bench
    scenario: Scenario
    content: dict
    entry: dict
    file: Path
    specs: list[ServerSpec]
    ready: dict[str, Target | None] = field(default_factory=dict)

    def prepare(self) -> None:
        """Start the servers and learn their answers; note those that cannot take part."""
        self.content["skipped"] = {
            key: reason
            for key, reason in self.content["skipped"].items()
            if not key.startswith(f"{self.scenario.name}: ")
        }
        for spec in self.specs:
            if spec.label in self.entry["left_out"]:
                continue
            try:
                requests = self.bench.requests_for(self.scenario, spec)
                model = self.bench.model_for(self.scenario, spec)
                if spec.name == "floor":
                    self.ready[spec.label], settings = None, servers.peer_environment(spec, model, 0)
                else:
                    server = self.bench.server_for(self.scenario, spec)
                    self.ready[spec.label], settings = learn_answers(server, requests), server.settings
                self.content["configurations"][f"{spec.label} on {model.name}"] = settings
            except (Unavailable, OSError) as reason:
                self.skip(spec, reason)
        self.save()

    def skip(self, spec: ServerSpec, reason: Exception) -> None:
        """Note, for all to see, that a server takes no part in the scenario, and drop what was measured of it."""
        self.content["skipped"][f"{self.scenario.name}: {spec.label}"] = str(reason)
        print(f"  SKIPPED {spec.label}: {reason}", flush=True)
        self.ready.pop(spec.label, None)
        for seen in (*self.entry["rounds"], self.entry["qualification"]):
            seen.pop(spec.label, None)

    def save(self) -> None:
        """Write the result file."""
        results.save(self.content, self.file)

    def taking_part(self) -> list[ServerSpec]:
        """Return the servers to measure."""
        return [s for s in self.specs if s.label in self.ready and s.label not in self.entry["left_out"]]

    def measure_into(
        self, seen: dict[str, list[dict]], specs: list[ServerSpec], scenario: Scenario, name: str
    ) -> None:
        """Measure the servers that are not in `seen` yet; a server that fails is left out of the scenario."""
        for spec in specs:
            if spec.label in seen:
                continue
            try:
                seen[spec.label] = measure_in_round(self.bench, scenario, spec, self.ready[spec.label])
            except (OSError, RuntimeError, subprocess.SubprocessError) as reason:
                self.skip(spec, reason)
                continue
            self.save()
            for one in seen[spec.label]:
                print(f"  {name} {line(spec.label, one)}", flush=True)

    def qualify(self) -> None:
        """Measure every server once, shortly, and leave out those that cannot be the best for any goal."""
        short = replace(self.scenario, seconds=min(2, self.scenario.seconds), warm_up_seconds=1)
        seen = self.entry["qualification"]
        self.measure_into(seen, self.taking_part(), short, "qualification")
        goals = [goal for goal in read_goals() if goal.scenario == self.scenario.name]
        self.entry["left_out"] = eliminate(goals, {label: column[0] for label, column in seen.items()})
        for label, reason in self.entry["left_out"].items():
            print(f"  left out: {label}: {reason}", flush=True)
        self.save()

    def run(self, rounds: int, qualify: bool) -> None:
        """Prepare, qualify and measure, as far as that is not done yet."""
        print(f"{self.scenario.name}: {self.scenario.description}", flush=True)
        self.prepare()
        if qualify:
            self.qualify()
        for number in range(rounds):
            if number == len(self.entry["rounds"]):
                self.entry["rounds"].append({})
            taken = self.taking_part()
            shift = number % max(1, len(taken))
            order = taken[shift:] + taken[:shift]
            self.measure_into(self.entry["rounds"][number], order, self.scenario, f"round {number + 1}")

    def is_done(self, rounds: int) -> bool:
        """Whether nothing is left to measure; then no server need be started."""
        known = self.content["skipped"]
        wanted = [
            spec.label
            for spec in self.specs
            if spec.label not in self.entry["left_out"] and f"{self.scenario.name}: {spec.label}" not in known
        ]
        done = self.entry["rounds"][:rounds]
        return len(done) == rounds and all(label in seen for seen in done for label in wanted)


def measure_in_round(bench: Bench, scenario: Scenario, spec: ServerSpec, target: Target | None) -> list[dict]:
    if target is None:
        model, requests = bench.model_for(scenario, spec), bench.requests_for(scenario, spec)
        return measure_floor(scenario, spec, model, requests)
    return measure_server(scenario, bench.server_for(scenario, spec), target)


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


def choose_set(arguments: argparse.Namespace) -> ScenarioSet:
    """Return the set that was named, with what the command line says otherwise."""
    chosen = read_sets()["quick" if arguments.quick else arguments.set]
    asked = {
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "open_seconds": arguments.open_seconds,
        "warm_up_seconds": arguments.warm_up,
    }
    return replace(chosen, **{name: value for name, value in asked.items() if value})


def choose_scenarios(chosen: ScenarioSet, named: list[str]) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in read_scenarios()}
    wanted = named or chosen.scenarios or list(known)
    unknown = set(wanted) - set(known)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; see bench/serving/scenarios/")
    return [chosen.adjust(known[name]) for name in wanted]


def choose_servers(chosen: ScenarioSet, scenario: Scenario, named: list[str]) -> list[ServerSpec]:
    """Return the servers that a scenario measures in a set."""
    specs = [spec for spec in servers.read_specs() if scenario.takes(spec)]
    if chosen.for_goals:
        compared = [*servers_of(read_goals(), scenario.name), *chosen.also]
        specs = [spec for spec in specs if results.is_one_of(spec.label, compared)]
    return [spec for spec in specs if not named or results.is_one_of(spec.label, named)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", default="full", choices=list(read_sets()), help="of sets.toml (full)")
    parser.add_argument("--quick", action="store_true", help="--set quick: shows that all works")
    parser.add_argument("--scenario", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument(
        "--servers", nargs="+", default=[], metavar="NAME", help="only these, by name or name/variant"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of the set's")
    parser.add_argument("--seconds", type=float, metavar="S", help="of a closed loop, instead of the set's")
    parser.add_argument(
        "--open-seconds", type=float, metavar="S", help="of an open loop, instead of the set's"
    )
    parser.add_argument("--warm-up", type=float, metavar="S", help="instead of the set's")
    parser.add_argument("--out", metavar="NAME", help="name of the result file (date and commit)")
    parser.add_argument("--fresh", action="store_true", help="do not go on with the file: begin anew")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that held servers are ended
    chosen = choose_set(arguments)
    scenarios = choose_scenarios(chosen, arguments.scenario)
    known = {name for spec in servers.read_specs() for name in (spec.name, spec.label)}
    if set(arguments.servers) - known:
        raise SystemExit(
            f"unknown: {', '.join(sorted(set(arguments.servers) - known))}; see bench/serving/servers.toml"
        )
    facts = machine.describe()
    name = arguments.out or f"{time.strftime('%Y%m%d-%H%M', time.gmtime())}-{facts['commit']}"
    file = RESULTS / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    bench = Bench()
    try:
        content = results.begin(file, facts, shlex.join(sys.argv[1:]), arguments.fresh)
        with hold_work(), contextlib.closing(bench):
            for scenario in scenarios:
                entry = results.entry_of(content, scenario.name, to_plain(scenario))
                specs = choose_servers(chosen, scenario, arguments.servers)
                course = Course(bench, scenario, content, entry, file, specs)
                if course.is_done(chosen.rounds):
                    print(f"{scenario.name}: done before", flush=True)
                else:
                    course.run(chosen.rounds, chosen.for_goals and scenario.loop == "closed")
    except results.OtherConditions as error:
        raise SystemExit(str(error)) from error
    print(f"written: {file}, in {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
