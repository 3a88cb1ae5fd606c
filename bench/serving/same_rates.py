"""Open loop, all servers at the same rates: shares of what the best peer answers at saturation.

Two groups: all in float32, and each in the fastest precision that it has. Saturation is that of a closed loop with 32
connections, the best of two interleaved measurements; a peer with less than `LEAST_SHARE` of the best one's is left out
of the group. Then each round sends every server of the group each rate, once at constant intervals and once at random
moments (a Poisson process, the same moments for all). For p50 and for p99, the best of our variants stands against the
best peer by the median of that figure; ratios are made within a round. Besides: our p99 over our p50 at 70 % of our own
saturation. A rate above what a server can answer fills its queue: its percentiles are then those of the queue.

With --docs it renders the result file into docs/benchmarks/same-rates.md.

usage: python -m bench.serving.same_rates [--model rampart] [--groups float32 ...] [--rounds 5] [--seconds 6]
           [--out same-rates] [--docs]
"""

import argparse
import contextlib
import json
from dataclasses import dataclass
from itertools import product

from bench.paths import REPOSITORY, RESULTS
from bench.serving import generators, machine
from bench.serving.models import BenchModel, find_model, hold_work
from bench.serving.render import fill
from bench.serving.results import spread
from bench.serving.run import learn_answers, settle
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Requests, Workload


@dataclass(frozen=True)
class Group:
    """Servers that stand against each other, by label."""

    ours: tuple[str, ...]
    peers: tuple[str, ...]


GROUPS = {
    "float32": Group(
        ("nerve/auto", "nerve/latency", "nerve/throughput"),
        ("fastapi-onnx/1 worker", "fastapi-onnx/1 thread", "mosec/1 thread", "litserve/1 thread"),
    ),
    "fastest precision": Group(
        ("nerve-int8/auto", "nerve-int8/throughput", "nerve-bf16/auto"),
        ("fastapi-openvino-bf16/1 worker", "fastapi-openvino-bf16/1 thread", "mosec/1 thread"),
    ),
}
LEAST_SHARE = 0.6
METRICS = ("p50", "p99")
SHARES = (0.5, 0.7, 0.85)
PATTERNS = ("constant", "random")
OWN_SHARE = 0.7
PAGE = REPOSITORY / "docs" / "benchmarks" / "same-rates.md"
BEGIN = "<!-- results: made by bench/serving/same_rates.py -->"


class Fleet:
    """The servers of a group, each held unless it is its turn."""

    def __init__(self, model_name: str, group: Group, held: contextlib.ExitStack) -> None:
        self.group = group
        known: dict[str, tuple[BenchModel, Requests]] = {}  # by the name of a model
        specs = {spec.label: spec for spec in read_specs()}
        self.servers: dict[str, Server] = {}
        self.targets: dict[str, generators.Target] = {}
        for label in (*group.ours, *group.peers):
            spec = specs[label]
            spec.check()
            name = spec.model or model_name
            if name not in known:
                found = find_model(name)
                known[name] = found, Reference(found).requests(Workload())
            model, requests = known[name]
            server = held.enter_context(contextlib.closing(Server(spec, model, requests.bodies[0])))
            self.servers[label] = server
            self.targets[label] = learn_answers(server, requests)

    def saturate(self, seconds: float) -> dict[str, float]:
        """Return the requests/s of each in a closed loop."""
        best = dict.fromkeys(self.servers, 0.0)
        for _ in range(2):
            for label, server in self.servers.items():
                with server.turn():
                    settle(server, self.targets[label])
                    seen = generators.closed_loop(self.targets[label], 32, seconds, reuse=True)
                best[label] = max(best[label], seen["rps"])
        return best

    def offer(self, label: str, rate: float, seconds: float, seed: int | None) -> dict:
        """Send one server one rate."""
        server, target = self.servers[label], self.targets[label]
        with server.turn():
            settle(server, target)
            seen = generators.open_loop(target, rate, seconds, seed=seed)
        latency = seen["latency_ms"]
        kept = ("rps", "errors", "invalid", "generator_cores")
        return {**{name: latency.get(name) for name in METRICS}, **{name: seen[name] for name in kept}}


def measure(fleet: Fleet, n_rounds: int, seconds: float) -> dict:
    """Return the result of one group."""
    saturated = fleet.saturate(3)
    print(saturated, flush=True)
    group = fleet.group
    base = max(saturated[label] for label in group.peers)
    running = [*group.ours, *(label for label in group.peers if saturated[label] >= LEAST_SHARE * base)]
    rounds, own = [], []
    for number in range(n_rounds):
        order = running[number % len(running) :] + running[: number % len(running)]
        seen: dict[str, dict] = {}
        for share, pattern in product(SHARES, PATTERNS):
            seed = None if pattern == "constant" else number
            name = f"{share:.0%} {pattern}"
            seen[name] = {label: fleet.offer(label, share * base, seconds, seed) for label in order}
            print(number, name, {x: (y["p50"], y["p99"]) for x, y in seen[name].items()}, flush=True)
        rounds.append(seen)
        own.append(
            {label: fleet.offer(label, OWN_SHARE * saturated[label], seconds, None) for label in group.ours}
        )
    return {
        "saturated_rps": saturated,
        "rates_of": base,
        "seconds": seconds,
        "compared": compare(rounds, group),
        "our p99 over our p50 at 70 % of our own saturation": {
            label: spread([one[label]["p99"] / one[label]["p50"] for one in own]) for label in group.ours
        },
        "rounds": rounds,
        "own": own,
    }


def compare(rounds: list[dict], group: Group) -> dict:
    """Return for each rate and each metric the ratio of our best variant to the best peer, best in the median."""
    found = {}
    for name in rounds[0]:
        found[name] = {}
        for metric in METRICS:
            median = {
                label: spread([one[name][label][metric] for one in rounds])["median"]
                for label in rounds[0][name]
            }
            ours = min(group.ours, key=median.__getitem__)
            peer = min((label for label in group.peers if label in median), key=median.__getitem__)
            found[name][metric] = {
                "ours": ours,
                "peer": peer,
                "ratio": spread([one[name][ours][metric] / one[name][peer][metric] for one in rounds]),
                "ms": [median[ours], median[peer]],
            }
    return found


def render(result: dict) -> str:
    """Return ratios and milliseconds by rate, as Markdown."""

    def with_spread(one: dict) -> str:
        return f"{one['median']:.2f} ({one['min']:.2f} to {one['max']:.2f})"

    lines = []
    for title, group in result["groups"].items():
        lines += [
            f"### {title[0].upper()}{title[1:]}",
            "",
            "| rate | | ours, peer | ours over the peer's | ms |",
            "|---|---|---|---|---|",
        ]
        for rate, metrics in group["compared"].items():
            for metric, seen in metrics.items():
                milliseconds = ", ".join(f"{value:.1f}" for value in seen["ms"])
                servers = f"{seen['ours']}, {seen['peer']}"
                cells = [rate, metric, servers, with_spread(seen["ratio"]), milliseconds]
                lines.append(f"| {' | '.join(cells)} |")
        own = [
            f"{name} {with_spread(one)}"
            for name, one in group["our p99 over our p50 at 70 % of our own saturation"].items()
        ]
        lines += [
            "",
            f"Our p99 over our p50 at 70 % of our own saturation: {', '.join(own)}.",
            "",
            f"{len(group['rounds'])} rounds of {group['seconds']:g} s; 100 % is {group['rates_of']:.0f} requests/s.",
            "",
        ]
    facts = result["machine"]
    lines.append(
        f"Commit {result['commit']}, {facts['cores']} cores of {facts['cpu']} ({', '.join(facts['flags'])}), "
        f"load before: {facts['load_before']:.1f}."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rampart")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--out", default="same-rates")
    parser.add_argument("--docs", action="store_true", help="measure nothing; render the result file")
    arguments = parser.parse_args()
    file = RESULTS / f"{arguments.out}.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    if arguments.docs:
        fill(PAGE, render(content[arguments.model]), BEGIN)
        return
    result: dict = {**machine.describe(), "groups": {}}
    with hold_work():
        for name in arguments.groups:
            with contextlib.ExitStack() as held:
                fleet = Fleet(arguments.model, GROUPS[name], held)
                result["groups"][name] = measure(fleet, arguments.rounds, arguments.seconds)
            content[arguments.model] = result
            file.write_text(json.dumps(content, indent=1) + "\n")
    print(render(result))


if __name__ == "__main__":
    main()
