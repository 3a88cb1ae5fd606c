"""One process, and several fronts with a process that runs the model, before the simulated card.

usage: python -m bench.serving.fronts [--fronts 1 2 4] [--seconds 3] [--rounds 3] [--out fronts]

`server.workers` 1 is one process; above, that many fronts and the engine process (docs/explanation/gpu.md). For each
number of connections: requests/s, p50 and p99 of the client, and the CPU milliseconds per request of each process.
The load generator runs on the same cores. Servers take turns, another one first in each round.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
from pathlib import Path

from bench.paths import RESULTS
from bench.serving import generators, machine
from bench.serving.card import LEAST_SECONDS
from bench.serving.models import find_model, hold_work
from bench.serving.run import learn_answers
from bench.serving.servers import Server, read_specs
from bench.serving.stages import threads_of
from bench.serving.workload import Reference, Workload

CONNECTIONS = [1, 32, 128]


def cpu_by_process(server: Server) -> dict[str, float]:
    """Return the CPU seconds of the engine process, of all fronts, and of the rest, so far."""
    found = {"engine": 0.0, "fronts": 0.0, "rest": 0.0}
    for pid in server.pids():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            kind = (
                "engine" if b"engine_process" in command else "fronts" if b"spawn_main" in command else "rest"
            )
            for thread in threads_of(pid):
                spent = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]
                found[kind] += int(spent) / 1e9
    return found


def measure(server: Server, target: generators.Target, connections: int, seconds: float) -> dict:
    """Run one load."""
    with server.turn():
        before = cpu_by_process(server)
        seen = generators.closed_loop(target, connections, seconds, reuse=True)
        after = cpu_by_process(server)
    cpu = {kind: 1000 * (after[kind] - before[kind]) / seen["requests"] for kind in after}
    return {
        "rps": seen["rps"],
        "p50": seen["latency_ms"]["p50"],
        "p99": seen["latency_ms"]["p99"],
        "errors": seen["errors"],
        "cpu_ms": cpu,
        "generator_cores": seen["generator_cores"],
    }


def summarise(rounds: list[dict]) -> dict:
    """Return the medians of the rounds."""

    def median(read) -> float:
        return round(statistics.median(read(one) for one in rounds), 4)

    return {
        **{
            name: median(lambda one, name=name: one[name])
            for name in ("rps", "p50", "p99", "generator_cores")
        },
        "cpu_ms": {kind: median(lambda one, kind=kind: one["cpu_ms"][kind]) for kind in rounds[0]["cpu_ms"]},
        "errors": [one["errors"] for one in rounds if one["errors"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fronts", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="fronts")
    arguments = parser.parse_args()
    result: dict = {**machine.describe(), "step_ms": 1000 * LEAST_SECONDS, "fronts": {}}
    with hold_work(), contextlib.ExitStack() as held:
        model = find_model("card")
        requests = Reference(model).requests(Workload())
        spec = next(spec for spec in read_specs() if spec.label == "nerve/auto")
        servers, targets = {}, {}
        for count in arguments.fronts:
            own = dataclasses.replace(
                spec, variant=f"{count} fronts", settings={"server": {"workers": count}}
            )
            servers[count] = held.enter_context(contextlib.closing(Server(own, model, requests.bodies[0])))
            targets[count] = learn_answers(servers[count], requests)
        rounds: dict = {count: {c: [] for c in CONNECTIONS} for count in servers}
        for number in range(-1, arguments.rounds):  # the first one warms up
            order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
            for count in order:
                for connections in CONNECTIONS:
                    seen = measure(servers[count], targets[count], connections, arguments.seconds)
                    print(number, count, connections, seen, flush=True)
                    if number >= 0:
                        rounds[count][connections].append(seen)
        result["fronts"] = {
            str(count): {f"c{c}": summarise(seen) for c, seen in found.items()}
            for count, found in rounds.items()
        }
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
