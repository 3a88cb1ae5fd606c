"""Machines, cores and cost for a load, from figures that were measured here.

Inputs: texts a day or requests/s at the top, tokens of a text, the p99 to hold, cores of a machine and its price.
Outputs: pods of two cores (what was measured), machines, cost. Nothing is assumed that a result file does not say, but
for one curve: between a lone request and the measured open loop at 70 % of what a server can do, waits grow with
busy / (1 - busy), as those of one queue do.

- requests/s of a pod, and p99 at 70 %: the rows "after" of bench/results/house/NAME.json, texts of 36 tokens;
- what a longer text costs: the calls of bench/results/architectures.json (BERT-base, one core; 36, 128, 512 tokens);
- what several servers lose: two over one in bench/results/replicas.json.

A pod is never planned busier than the chart's autoscaling.busyShare. One pod more than needed is planned, so that one
may fail. With --docs the tables of docs/guide/capacity.md are rendered.

usage: python -m bench.deploy.capacity [--model base] [--rate 300 | --texts-a-day 1e6] [--tokens 36] [--p99-ms 200]
                                       [--cores 8] [--price 0.40]
"""

import argparse
import itertools
import json
import math
import statistics
from dataclasses import dataclass

import yaml

from bench.paths import REPOSITORY, RESULTS
from bench.serving.render import fill

PAGE = REPOSITORY / "docs" / "guide" / "capacity.md"
VALUES = REPOSITORY / "deploy" / "helm" / "nerve" / "values.yaml"
BEGIN = "<!-- results: made by bench/deploy/capacity.py -->"
MODELS = {
    "tiny": ("BERT, 2 layers x 128, float32", "bert float32"),
    "rampart": ("default model, float32", "bert float32"),
    "rampart-int8": ("default model, int8", "bert int8"),
    "base": ("BERT-base, float32", "bert float32"),
}
POD_CORES = 2
MEASURED_TOKENS = 36
# Of the open loop: share of what 32 clients got.
MEASURED_BUSY = 0.7
# Below it a plan is no plan.
LEAST_BUSY = 0.05
# The top of a day over its mean, as in the day of bench/deploy/loads.toml.
PEAK = 2.0


class NotPossible(Exception):
    """No number of machines reaches the p99."""


@dataclass(frozen=True)
class Figures:
    """What one pod does with texts of 36 tokens. Latencies in ms; costs: (tokens, ms of a call on one core)."""

    name: str
    rate: float
    lone_ms: float
    p99_ms: float
    costs: tuple[tuple[int, float], ...]
    kept_by_more: float
    sources: tuple[str, ...]

    def factor(self, tokens: float) -> float:
        """Return how many times as long as one of 36 tokens a text takes: straight lines between measured lengths."""
        lines = list(itertools.pairwise([(0, 0.0), *self.costs]))
        (left, low), (right, high) = next((line for line in lines if tokens <= line[1][0]), lines[-1])
        return (low + (high - low) * (tokens - left) / (right - left)) / self.costs[0][1]


@dataclass(frozen=True)
class Plan:
    """What a load takes. busy: the planned share of time; cost: of a month of 730 hours, in the price's currency."""

    peak_rate: float
    busy: float
    rate_of_a_pod: float
    pods: int
    machines: int
    cores: int
    cost: float


def read_figures(model: str) -> Figures:
    """Return what the result files say of a model."""
    house = RESULTS / "house" / f"{model}.json"
    loads = json.loads(house.read_text())["loads"]

    def of(load: str, read) -> float:
        return statistics.median(read(seen["after"]) for seen in loads[load]["rounds"])

    title, calls = MODELS[model]
    lengths = RESULTS / "architectures.json"
    seen = json.loads(lengths.read_text())["calls"][calls]
    costs = tuple((tokens, min(seen[f"1x{tokens}"])) for tokens in (36, 128, 512))
    replicas = RESULTS / "replicas.json"
    servers = json.loads(replicas.read_text())["servers"]
    one, two = (servers[count]["throughput"]["sentence"]["rps"] for count in ("1", "2"))
    return Figures(
        name=title,
        rate=of("c32", lambda each: each["rps"]),
        lone_ms=of("c1", lambda each: each["latency_ms"]["p50"]),
        p99_ms=of("open", lambda each: each["latency_ms"]["p99"]),
        costs=costs,
        kept_by_more=min(1.0, two / one / 2),
        sources=tuple(str(file.relative_to(REPOSITORY)) for file in (house, lengths, replicas)),
    )


def plan(
    figures: Figures,
    peak_rate: float,
    *,
    tokens: float = MEASURED_TOKENS,
    p99_ms: float = 1000,
    cores: int = POD_CORES,
    price: float = 0.0,
    most_busy: float = MEASURED_BUSY,
) -> Plan:
    """Return pods, machines and cost for a rate. price: of a machine of so many cores for an hour.

    Raises `NotPossible` where a lone request takes about as long as the p99, or longer.
    """
    factor = figures.factor(tokens)
    lone, measured = figures.lone_ms * factor, figures.p99_ms * factor
    if lone >= p99_ms:
        raise NotPossible(f"a lone request takes {lone:.0f} ms already; more cores a pod or int8 may help")
    wait_at_odds_of_one = (measured - lone) * (1 - MEASURED_BUSY) / MEASURED_BUSY
    odds = (p99_ms - lone) / wait_at_odds_of_one
    busy = min(most_busy, odds / (1 + odds))
    if busy < LEAST_BUSY:
        raise NotPossible(f"a pod could be {busy:.1%} busy only; more cores a pod or int8 may help")
    rate = figures.rate / factor * busy
    needed = math.ceil(peak_rate / rate)
    pods = needed if needed == 1 else math.ceil(peak_rate / (rate * figures.kept_by_more))
    pods += 1
    machines = max(2, math.ceil(pods * POD_CORES / cores))
    return Plan(peak_rate, busy, rate, pods, machines, machines * cores, machines * price * 730)


def render() -> str:
    """Return the tables of the page as Markdown."""
    most_busy = yaml.safe_load(VALUES.read_text())["autoscaling"]["busyShare"]
    cores, price = 8, 0.4
    lines = [
        f"Pods of {POD_CORES} cores; the top of the day is {PEAK:g} times its mean; machines of {cores} cores at "
        f"{price:.2f} an hour (put yours in); one pod more than needed. Texts of 36 tokens, p99 at most 500 ms.",
        "",
        "| texts a day | requests/s at the top | model | busy | pods | machines | cores | a month | a million texts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    sources: dict[str, None] = {}
    for texts in (1e6, 1e7, 1e8, 1e9):
        for model in MODELS:
            figures = read_figures(model)
            sources |= dict.fromkeys(figures.sources)
            rate = texts / 86400 * PEAK
            found = plan(figures, rate, p99_ms=500, cores=cores, price=price, most_busy=most_busy)
            million = found.cost / 730 * 24 / texts * 1e6
            cells = [f"{texts:,.0f}", f"{rate:,.0f}", figures.name, f"{found.busy:.0%}", f"{found.pods:,}"]
            cells += [f"{found.machines:,}", f"{found.cores:,}", f"{found.cost:,.0f}", f"{million:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Ten million texts a day by length and p99 (BERT-base, float32): pods.", ""]
    limits = (200, 500, 1000, 5000)
    lines += [
        f"| tokens | {' | '.join(f'p99 {limit:,} ms' for limit in limits)} |",
        "|---|" + "---|" * len(limits),
    ]
    for tokens in (16, 36, 128, 512, 2048):
        cells = [f"{tokens:,}"]
        for limit in limits:
            try:
                found = plan(
                    read_figures("base"), 1e7 / 86400 * PEAK, tokens=tokens, p99_ms=limit, most_busy=most_busy
                )
                cells.append(f"{found.pods:,} ({found.busy:.0%} busy)")
            except NotPossible:
                cells.append("not with 2 cores a pod")
        lines.append(f"| {' | '.join(cells)} |")
    named = ", ".join(f"[{source}](../../{source})" for source in sources)
    return "\n".join([*lines, "", f"From {named}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="rampart")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", type=float, help="requests/s at the top, one text each")
    load.add_argument("--texts-a-day", type=float, help=f"the top is taken as {PEAK:g} times the mean")
    parser.add_argument("--tokens", type=float, default=MEASURED_TOKENS)
    parser.add_argument("--p99-ms", type=float, default=500)
    parser.add_argument("--cores", type=int, default=8, help="of a machine")
    parser.add_argument("--price", type=float, default=0.0, help="of a machine for an hour")
    parser.add_argument("--docs", action="store_true", help="render the tables of docs/guide/capacity.md")
    arguments = parser.parse_args()
    if arguments.docs:
        fill(PAGE, render(), BEGIN)
        return
    rate = arguments.rate or (arguments.texts_a_day or 1e6) / 86400 * PEAK
    most_busy = yaml.safe_load(VALUES.read_text())["autoscaling"]["busyShare"]
    figures = read_figures(arguments.model)
    try:
        found = plan(
            figures,
            rate,
            tokens=arguments.tokens,
            p99_ms=arguments.p99_ms,
            cores=arguments.cores,
            price=arguments.price,
            most_busy=most_busy,
        )
    except NotPossible as reason:
        raise SystemExit(f"not possible: {reason}") from None
    print(f"{figures.name}, {arguments.tokens:g} tokens a text, {rate:,.1f} requests/s at the top")
    print(f"a pod of {POD_CORES} cores: {found.rate_of_a_pod:,.1f} requests/s when {found.busy:.0%} busy")
    print(f"pods: {found.pods:,}, one of them to spare")
    print(f"machines of {arguments.cores} cores: {found.machines:,}, {found.cores:,} cores")
    if arguments.price:
        print(f"cost: {found.cost:,.2f} a month")
    print(f"measured: {', '.join(figures.sources)}")


if __name__ == "__main__":
    main()
