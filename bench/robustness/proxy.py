"""Measure what Nginx adds: a direct connection, deploy/nginx.conf, and the same with Nginx's defaults.

Ways to the same model, in every round one after the other in rotated order: direct (TCP), Nginx with the
shipped configuration over a Unix socket and over TCP, over TCP with Nginx's defaults, and with nginx-h2c.conf
where its module is installed (serving/peers/nginx.py).
Writes bench/results/proxy.json; figures of scenarios that were not run now stay. --docs renders them into
docs/benchmarks/nginx.md. Needs nginx and wrk (Debian: nginx-light, wrk).

usage: python -m bench.robustness.proxy [SCENARIO ...] [--rounds 7] [--seconds 4] [--docs]
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
from datetime import UTC, datetime

from bench.paths import REPOSITORY, RESULTS
from bench.serving import machine
from bench.serving.generators import find_tool
from bench.serving.models import Unavailable
from bench.serving.peers.nginx import STREAM_JS, find_nginx
from bench.serving.render import fill
from bench.serving.run import Bench, learn_answers, line, measure_server
from bench.serving.scenarios import Scenario, to_plain
from bench.serving.servers import ServerSpec

FILE = RESULTS / "proxy.json"
PAGE = REPOSITORY / "docs" / "benchmarks" / "nginx.md"
BEGIN = "<!-- results: made by bench/robustness/proxy.py -->"

DIRECT, SHIPPED = "direct/TCP", "nginx/Unix socket"
_FRONT = ["{python}", "nginx.py", "--port", "{port}", "--config", "{config}"]
WAYS = [
    ServerSpec("direct", "TCP", ["{bin}/nerve", "serve", "--config", "{config}"]),
    ServerSpec("nginx", "Unix socket", _FRONT),
    ServerSpec("nginx", "TCP", [*_FRONT, "--tcp"]),
    ServerSpec("nginx", "defaults", [*_FRONT, "--tcp", "--defaults"]),
]
if STREAM_JS.exists():  # what HTTP/1.1 pays for h2c on the same port with an Nginx before 1.25.1
    WAYS.append(ServerSpec("nginx", "Unix socket, nginx-h2c.conf", [*_FRONT, "--h2c"]))
_MODELS = {"zero": "zero-cost model", "rampart": "default model, float32"}
SCENARIOS = {
    f"{short}-c{connections}": Scenario(
        name=f"{short}-c{connections}",
        description=f"{_MODELS[model]}, 36-token sentences, {connections} connection{'s' * (connections > 1)}",
        model=model,
        servers=["direct", "nginx"],
        connections=connections,
        warm_up_seconds=1,
    )
    for short, model in (("zero", "zero"), ("real", "rampart"))
    for connections in (1, 32)
}
# To reach, by way of the shipped configuration: ms added at p50 with one connection, share of requests/s kept.
MOST_ADDED_MS = 0.1
LEAST_KEPT = 0.9


def measure(names: list[str], rounds: int, seconds: float) -> None:
    """Run scenarios and write them into the result file."""
    find_tool("wrk")
    version = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True, check=True).stderr.strip()
    content = json.loads(FILE.read_text()) if FILE.exists() else {"measured": {}}
    with contextlib.closing(Bench()) as bench:
        for name in names:
            scenario = Scenario(**{**vars(SCENARIOS[name]), "seconds": seconds})
            facts = {
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "nginx": version,
                **machine.describe(),
            }
            seen = measure_rounds(bench, scenario, rounds)
            content["measured"][name] = {**facts, "scenario": to_plain(scenario), "rounds": seen}
    RESULTS.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(content, indent=1) + "\n")


def measure_rounds(bench: Bench, scenario: Scenario, rounds: int) -> list[dict]:
    """Measure every way in every round; return {label: measurements} of each round."""
    print(f"{scenario.name}: {scenario.description}", flush=True)
    try:
        targets = {
            spec.label: learn_answers(bench.server_for(scenario, spec), bench.requests_for(scenario, spec))
            for spec in WAYS
        }
    except Unavailable as reason:
        sys.exit(f"nothing is written: {reason}")
    found = []
    for number in range(rounds):
        shift = number % len(WAYS)
        seen = {}
        for spec in WAYS[shift:] + WAYS[:shift]:
            seen[spec.label] = measure_server(scenario, bench.server_for(scenario, spec), targets[spec.label])
            print(f"  round {number + 1} {line(spec.label, seen[spec.label][0])}", flush=True)
        found.append(seen)
    return found


def differences(rounds: list[dict], label: str, metric: str) -> list[float]:
    """Return what a way adds to a percentile over the direct one, in ms, by round."""
    pairs = [(seen[label][0]["latency_ms"], seen[DIRECT][0]["latency_ms"]) for seen in rounds]
    return [one[metric] - other[metric] for one, other in pairs]


def shares(rounds: list[dict], label: str) -> list[float]:
    """Return a way's requests/s over the direct one's, by round."""
    return [seen[label][0]["rps"] / seen[DIRECT][0]["rps"] for seen in rounds]


def with_spread(values: list[float], form: str) -> str:
    """Write the median, and the least and greatest of the rounds."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def render(content: dict) -> str:
    """Return the tables as Markdown."""
    lines = []
    for name in (name for name in SCENARIOS if name in content["measured"]):
        found = content["measured"][name]
        rounds, scenario = found["rounds"], found["scenario"]
        lines += [
            f"**{scenario['description']}.** {len(rounds)} rounds of {scenario['seconds']:g} s.",
            "",
            "| way | requests/s | p50 ms | p99 ms | adds at p50, ms | adds at p99, ms | requests/s over direct |",
            "|---|---|---|---|---|---|---|",
        ]
        for label in rounds[0]:
            column = [seen[label][0] for seen in rounds]
            middle = statistics.median(one["rps"] for one in column)
            p50, p99 = (statistics.median(one["latency_ms"][m] for one in column) for m in ("p50", "p99"))
            cells = [label.replace("/", ", "), f"{middle:.0f}", f"{p50:.3f}", f"{p99:.3f}"]
            if label == DIRECT:
                cells += ["", "", ""]
            else:
                cells += [
                    with_spread(differences(rounds, label, metric), "+.3f") for metric in ("p50", "p99")
                ]
                cells.append(with_spread(shares(rounds, label), ".2f"))
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", remarks(name, found), ""]
    return "\n".join(lines)


def remarks(name: str, found: dict) -> str:
    """Say whether the shipped configuration reaches what it should, and where that was."""
    rounds, facts = found["rounds"], found["machine"]
    if SCENARIOS[name].connections == 1:
        reached = statistics.median(differences(rounds, SHIPPED, "p50")) <= MOST_ADDED_MS
        wanted = f"at most {MOST_ADDED_MS} ms at p50"
    else:
        reached = statistics.median(shares(rounds, SHIPPED)) >= LEAST_KEPT
        wanted = f"at least {LEAST_KEPT} of the throughput"
    seen = [one[0] for ways in rounds for one in ways.values()]
    errors = sum(sum(one["errors"].values()) for one in seen)
    noisy = sum(one["noisy"] for one in seen)
    return (
        f"To reach over a Unix socket, {wanted}: {'reached' if reached else '**not reached**'}. Wrong or missing "
        f"answers: {errors}. Others used more than 0.3 of a core in {noisy} of {len(seen)} measurements. "
        f"{found['nginx'].removeprefix('nginx version: ')}, {found['started'][:10]}, commit {found['commit']}, "
        f"{facts['cores']} cores of {facts['cpu']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all"
    )
    parser.add_argument("--rounds", type=int, default=7, help="0: measure nothing, only render")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument(
        "--docs", action="store_true", help="render the result file into docs/benchmarks/nginx.md"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that held servers are ended
    if arguments.rounds:
        measure(arguments.scenarios or list(SCENARIOS), arguments.rounds, arguments.seconds)
    tables = render(json.loads(FILE.read_text()))
    if arguments.docs:
        fill(PAGE, tables, BEGIN)
    else:
        print(tables)


if __name__ == "__main__":
    main()
