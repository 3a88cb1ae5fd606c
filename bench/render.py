"""Render result files of run.py: Markdown tables, and plots with --docs.

usage: python bench/render.py RESULT.json ...          prints the tables
       python bench/render.py --docs RESULT.json ...   writes them and the plots into docs/
A scenario that is in several files is taken from the last.
"""

import argparse
import json
import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BEGIN, END = "<!-- results: made by bench/render.py -->", "<!-- end of results -->"
STAGES = ("tokenize", "queue", "inference")
LARGER_IS_BETTER = {"rps"}


@dataclass(frozen=True)
class Result:
    """One scenario of one result file."""

    name: str
    file: str
    scenario: dict
    rounds: list[dict[str, list[dict]]]

    def labels(self, names: list[str]) -> list[str]:
        """Return the variants measured of these servers."""
        return [label for label in (self.rounds[0] if self.rounds else {}) if label.split("/")[0] in names]

    def column(self, label: str, metric: str, at: int = 0) -> list[float]:
        """Return a metric of one server by round; `at` counts the rates of an open loop."""
        return [
            read_metric(seen[label][at], metric)
            for seen in self.rounds
            if has_metric(seen[label][at], metric)
        ]

    def best(self, names: list[str], metric: str) -> str | None:
        """Return the best variant of the best of these servers, by the median over the rounds."""
        columns = {label: self.column(label, metric) for label in self.labels(names)}
        medians = {label: statistics.median(column) for label, column in columns.items() if column}
        choose = max if metric in LARGER_IS_BETTER else min
        return choose(medians, key=medians.get) if medians else None


def has_metric(seen: dict, metric: str) -> bool:
    return metric == "rps" or "p50" in seen["latency_ms"]


def read_metric(seen: dict, metric: str) -> float:
    if metric == "rps":
        return seen["rps"]
    if metric == "p99_over_p50":
        return seen["latency_ms"]["p99"] / seen["latency_ms"]["p50"]
    return seen["latency_ms"][metric]


def read_results(files: list[Path]) -> tuple[dict[str, Result], list[dict]]:
    results, contents = {}, []
    for file in files:
        content = json.loads(file.read_text())
        contents.append({**content, "file": file.name})
        for name, found in content["scenarios"].items():
            results[name] = Result(name, file.name, found["scenario"], found["rounds"])
    return results, contents


def ratio(goal: dict, results: dict[str, Result]) -> tuple[list[float], str] | None:
    """Return the ratio of a goal by round, and what was compared; None when something was not measured."""
    result = results.get(goal["scenario"])
    if result is None:
        return None
    metric = goal["metric"]
    best_by = goal.get("best_by", "p99" if metric == "p99_over_p50" else metric)
    ours = result.best([goal["of"]], best_by)
    if ours is None:
        return None
    if "over" not in goal:
        return result.column(ours, metric), ours
    other = result.best(goal["over"], best_by)
    if other is None:
        return None
    pairs = [(seen[ours][0], seen[other][0]) for seen in result.rounds]
    known = [(a, b) for a, b in pairs if a["requests"] and b["requests"]]
    return [read_metric(a, metric) / read_metric(b, metric) for a, b in known], f"{ours} / {other}"


def is_reached(goal: dict, value: float) -> bool:
    return value <= goal["at_most"] if "at_most" in goal else value >= goal["at_least"]


def goals_table(results: dict[str, Result]) -> str:
    lines = [
        "| measure | to reach | median (least - greatest of the rounds) | reached | compared |",
        "|---|---|---|---|---|",
    ]
    for goal in tomllib.loads((HERE / "goals.toml").read_text())["goal"]:
        wanted = f"<= {goal['at_most']}" if "at_most" in goal else f">= {goal['at_least']}"
        found = ratio(goal, results)
        if found is None or not found[0]:
            lines.append(f"| {goal['measure']} | {wanted} | not measured | - | {goal['scenario']} |")
            continue
        values, compared = found
        middle = statistics.median(values)
        reached = "yes" if is_reached(goal, middle) else "**no**"
        value = f"{middle:.2f} ({min(values):.2f} - {max(values):.2f})"
        lines.append(f"| {goal['measure']} | {wanted} | {value} | {reached} | {compared} |")
    return "\n".join(lines)


def scenario_table(result: Result) -> str:
    lines = [
        f"### {result.name}",
        "",
        f"{result.scenario['description']}. {len(result.rounds)} rounds of {result.scenario['seconds']:g} s after "
        f"{result.scenario['warm_up_seconds']:g} s of warm-up each; from `{result.file}`.",
        "",
        "| server | offered/s | requests/s | p50 ms | p90 | p99 | p99.9 | server CPU ms/request | errors | remarks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label in result.labels([*result.scenario["servers"]]):
        for at in range(len(result.rounds[0][label])):
            lines.append(server_row(label, [seen[label][at] for seen in result.rounds]))
    return "\n".join(lines)


def server_row(label: str, column: list[dict]) -> str:
    def median(values) -> str:
        known = [value for value in values if value is not None]
        return f"{statistics.median(known):.3g}" if known else "-"

    rates = [one["rps"] for one in column]
    cells = [label, median(one.get("offered_rps") for one in column)]
    cells.append(f"{statistics.median(rates):.1f} ({min(rates):.1f} - {max(rates):.1f})")
    cells += [median(one["latency_ms"].get(name) for one in column) for name in ("p50", "p90", "p99", "p999")]
    cells.append(median(one["server_cpu_ms_per_request"] for one in column))
    cells.append(str(sum(sum(one["errors"].values()) for one in column)))
    cells.append(remarks(column))
    return f"| {' | '.join(cells)} |"


def remarks(column: list[dict]) -> str:
    found = sorted({reason for one in column for reason in one["invalid"]})
    noisy = sum(one.get("noisy", False) for one in column)
    if noisy:
        found.append(f"others used over 0.3 of a core in {noisy} of {len(column)} rounds")
    return "; ".join(found)


def machine_lines(contents: list[dict]) -> str:
    lines = []
    for content in contents:
        cpu, versions = content["machine"], content["versions"]
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        quick = ", a quick run" if content["quick"] else ""
        lines.append(
            f"- `{content['file']}`: {content['started']}{quick}, commit {content['commit']}; {cpu['cores']} cores of "
            f"{cpu['cpu']} ({', '.join(cpu['flags'])}), load {cpu['load_before']:.1f} before; {named}"
        )
        lines += [f"  - left out: {what}: {why}" for what, why in content["skipped"].items()]
    return "\n".join(lines)


def render_tables(results: dict[str, Result], contents: list[dict]) -> str:
    parts = [
        "## Against the goals",
        goals_table(results),
        "## Where and what",
        machine_lines(contents),
        "## Scenarios",
    ]
    parts += [scenario_table(result) for result in results.values()]
    return "\n\n".join(parts) + "\n"


def draw_latencies(results: dict[str, Result], axes_of, save) -> list[str]:
    """One line a server over the percentiles, for each closed-loop scenario."""
    made = []
    for result in results.values():
        if result.scenario["loop"] != "closed":
            continue
        axes = axes_of(result.scenario["description"])
        names = ["p50", "p90", "p99", "p999"]
        for server in result.scenario["servers"]:
            label = result.best([server], "p50")
            if label:
                axes.plot(
                    names,
                    [statistics.median(result.column(label, n)) for n in names],
                    marker="o",
                    label=label,
                )
        axes.set(yscale="log", ylabel="latency, ms")
        made.append(save(axes, f"latency-{result.name}"))
    return made


def draw_sweep(results: dict[str, Result], axes_of, save) -> list[str]:
    """Throughput against p99, one line a server, for each open loop of several rates."""
    made = []
    for result in results.values():
        if result.scenario["loop"] != "open" or len(result.scenario["share"]) < 2:
            continue
        axes = axes_of(result.scenario["description"])
        for label in result.labels(result.scenario["servers"]):
            ats = range(len(result.rounds[0][label]))
            points = [[statistics.median(result.column(label, m, at)) for m in ("rps", "p99")] for at in ats]
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(yscale="log", xlabel="requests/s answered", ylabel="p99, ms")
        made.append(save(axes, f"p99-{result.name}"))
    return made


def split_stages(seen: dict) -> dict[str, float]:
    """Medians of the stages of a request as the server states them, and what remains for the way there."""
    stages = {name: seen["stages_ms"][name]["p50"] for name in STAGES}
    total = seen["stages_ms"]["total"]["p50"]
    stages["hand-over, rows, encoding"] = max(0.0, total - sum(stages.values()))
    stages["HTTP, both ends"] = max(0.0, seen["latency_ms"]["p50"] - total)
    return stages


def draw_stages(results: dict[str, Result], axes_of, save) -> list[str]:
    """Stacked bars of our own server's stages, a bar for each rate of the open loops."""
    bars: dict[str, list[dict[str, float]]] = {}
    for result in results.values():
        for label in result.labels(["nerve", "nerve-int8"]):
            for at, seen in ((at, seen) for one in result.rounds for at, seen in enumerate(one[label])):
                if seen.get("stages_ms", {}).get("total"):
                    rate = f"{result.scenario['share'][at]:.0%}" if result.scenario["share"] else "fixed rate"
                    bars.setdefault(f"{result.name}\n{label}, {rate}", []).append(split_stages(seen))
    if not bars:
        return []
    axes = axes_of("where a request's time goes (medians)")
    left = [0.0] * len(bars)
    for stage in next(iter(bars.values()))[0]:
        widths = [statistics.median(one[stage] for one in column) for column in bars.values()]
        axes.barh(list(bars), widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set(xlabel="ms")
    return [save(axes, "stages")]


def draw(results: dict[str, Result], folder: Path) -> list[str]:
    """Draw all plots; return the Markdown that shows them."""
    import matplotlib as mpl  # noqa: PLC0415  only plots need it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "nerve"
    import matplotlib.pyplot as plt  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)

    def axes_of(title: str):
        _, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3)
        return axes

    def save(axes, name: str) -> str:
        axes.legend(fontsize="small")
        axes.figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(axes.figure)
        return f"![{axes.get_title()}](img/{name}.svg)"

    makers = (draw_latencies, draw_sweep, draw_stages)
    return [line for make in makers for line in make(results, axes_of, save)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md and docs/img/")
    arguments = parser.parse_args()
    results, contents = read_results(arguments.results)
    tables = render_tables(results, contents)
    if not arguments.docs:
        print(tables)
        return
    plots = "\n\n".join(draw(results, DOCS / "img"))
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n## Plots\n\n{plots}\n\n{END}{after}")


if __name__ == "__main__":
    main()
