"""Open loop, all servers at the same rates: shares of what the best peer answers at saturation.

Saturation is that of a closed loop with 32 connections, the best of two interleaved measurements. Then each round sends
every server each rate, once at constant intervals and once at random moments (a Poisson process, the same moments for
all). Ratios of p50 and p99 to the best peer's are made within a round. Besides: our p99 over our p50 at 70 % of our own
saturation. A rate above what a server can answer fills its queue: its percentiles are then those of the queue.

With --docs it renders the result file into docs/benchmarks/same-rates.md.

usage: python -m bench.serving.same_rates [--model rampart] [--rounds 5] [--seconds 6] [--out same-rates] [--docs]
"""

import argparse
import contextlib
import json

from bench.paths import REPOSITORY, RESULTS
from bench.serving import generators, machine
from bench.serving.models import find_model, hold_work
from bench.serving.render import fill
from bench.serving.results import spread
from bench.serving.run import learn_answers, settle
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

OURS = ("nerve/auto", "nerve/latency", "nerve/throughput")
PEERS = ("fastapi-onnx/1 worker", "fastapi-onnx/1 thread", "mosec/1 thread", "litserve/1 thread")
SHARES = (0.5, 0.7, 0.85)
PATTERNS = ("constant", "random")
OWN_SHARE = 0.7
PAGE = REPOSITORY / "docs" / "benchmarks" / "same-rates.md"
BEGIN = "<!-- results: made by bench/serving/same_rates.py -->"


class Fleet:
    """The servers, each held unless it is its turn."""

    def __init__(self, model_name: str, held: contextlib.ExitStack) -> None:
        model = find_model(model_name)
        requests = Reference(model).requests(Workload())
        specs = {spec.label: spec for spec in read_specs()}
        self.servers: dict[str, Server] = {}
        self.targets: dict[str, generators.Target] = {}
        for label in (*OURS, *PEERS):
            specs[label].check()
            server = held.enter_context(contextlib.closing(Server(specs[label], model, requests.bodies[0])))
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
        return {
            "p50": latency.get("p50"),
            "p99": latency.get("p99"),
            **{name: seen[name] for name in kept},
        }


def compare(rounds: list[dict]) -> dict:
    """Return for each rate the ratios of our best variant to the best peer, by p99 in the median."""
    found = {}
    for name in rounds[0]:
        p99 = {
            label: spread([one[name][label]["p99"] for one in rounds])["median"] for label in rounds[0][name]
        }
        ours = min(OURS, key=p99.__getitem__)
        peer = min(PEERS, key=p99.__getitem__)
        found[name] = {
            "ours": ours,
            "peer": peer,
            **{
                f"{which} over the peer's": spread(
                    [one[name][ours][which] / one[name][peer][which] for one in rounds]
                )
                for which in ("p50", "p99")
            },
            "our p99 over our p50": spread(
                [one[name][ours]["p99"] / one[name][ours]["p50"] for one in rounds]
            ),
            "ms": {
                label: {w: spread([one[name][label][w] for one in rounds])["median"] for w in ("p50", "p99")}
                for label in (ours, peer)
            },
        }
    return found


def render(result: dict) -> str:
    """Return ratios and milliseconds by rate, as Markdown."""

    def with_spread(one: dict) -> str:
        return f"{one['median']:.2f} ({one['min']:.2f} to {one['max']:.2f})"

    lines = [
        "| rate | ours, peer | p50 over the peer's | p99 over the peer's | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    for rate, seen in result["compared"].items():
        ours, peer = (seen["ms"][seen[one]] for one in ("ours", "peer"))
        cells = [rate, f"{seen['ours']}, {seen['peer']}"]
        cells += [with_spread(seen[f"{metric} over the peer's"]) for metric in ("p50", "p99")]
        cells += [f"{ours[metric]:.1f}, {peer[metric]:.1f}" for metric in ("p50", "p99")]
        lines.append(f"| {' | '.join(cells)} |")
    own = [
        f"{name} {with_spread(one)}"
        for name, one in result["our p99 over our p50 at 70 % of our own saturation"].items()
    ]
    facts = result["machine"]
    lines += [
        "",
        f"Our p99 over our p50 at 70 % of our own saturation: {', '.join(own)}.",
        "",
        f"{len(result['rounds'])} rounds; 100 % is {result['rates_of']:.0f} requests/s. Commit {result['commit']}, "
        f"{facts['cores']} cores of {facts['cpu']}, load before: {facts['load_before']:.1f}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rampart")
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
    with hold_work(), contextlib.ExitStack() as held:
        fleet = Fleet(arguments.model, held)
        saturated = fleet.saturate(3)
        print(saturated, flush=True)
        base = max(saturated[label] for label in PEERS)
        rounds, own = [], []
        for number in range(arguments.rounds):
            seen: dict[str, dict] = {}
            for share in SHARES:
                for pattern in PATTERNS:
                    seed = None if pattern == "constant" else number
                    name = f"{share:.0%} {pattern}"
                    order = list(fleet.servers)
                    order = order[number % len(order) :] + order[: number % len(order)]
                    seen[name] = {
                        label: fleet.offer(label, share * base, arguments.seconds, seed) for label in order
                    }
                    print(number, name, {x: (y["p50"], y["p99"]) for x, y in seen[name].items()}, flush=True)
            rounds.append(seen)
            own.append(
                {
                    label: fleet.offer(label, OWN_SHARE * saturated[label], arguments.seconds, None)
                    for label in OURS
                }
            )
        content[arguments.model] = {
            **machine.describe(),
            "saturated_rps": saturated,
            "rates_of": base,
            "compared": compare(rounds),
            "our p99 over our p50 at 70 % of our own saturation": {
                label: spread([one[label]["p99"] / one[label]["p50"] for one in own]) for label in OURS
            },
            "rounds": rounds,
            "own": own,
        }
    file.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content[arguments.model]["compared"], indent=1))


if __name__ == "__main__":
    main()
