"""Render result files of run.py and of stages.py: Markdown tables, and plots with --docs.

usage: python -m bench.serving.render RESULT.json ...               prints the tables
       python -m bench.serving.render --docs RESULT.json ...        writes them and the plots into docs/benchmarks/
       python -m bench.serving.render --page PAGE RESULT.json ...   writes the tables between the marks of another page

A scenario that is in several files is taken from the last. The stages are those of bench/results/stages.json, or of
--stages; a page of its own has them only with --stages.
"""

import argparse
import json
import statistics
from pathlib import Path

from bench.paths import REPOSITORY, RESULTS
from bench.serving.goals import read_goals
from bench.serving.results import Result, read_results

DOCS = REPOSITORY / "docs" / "benchmarks"
STAGES_FILE = RESULTS / "stages.json"
BEGIN, END = "<!-- results: made by bench/serving/render.py -->", "<!-- end of results -->"
MODEL = "model"
# The files that are drawn here.
PLOTS = ("latency-*.svg", "p99-*.svg", "stages*.svg")


def goals_table(results: dict[str, Result]) -> str:
    lines = [
        "| measure | to reach | median (least - greatest of the rounds) | reached | compared |",
        "|---|---|---|---|---|",
    ]
    for goal in read_goals():
        if goal.scenario not in results:  # it is of another set, and of another page
            continue
        found = goal.ratios(results)
        if found is None or not found[0]:
            lines.append(f"| {goal.measure} | {goal.wanted} | not measured | - | {goal.scenario} |")
            continue
        values, compared = found
        middle = statistics.median(values)
        reached = "yes" if goal.is_reached(middle) else "**no**"
        value = f"{middle:.2f} ({min(values):.2f} - {max(values):.2f})"
        lines.append(f"| {goal.measure} | {goal.wanted} | {value} | {reached} | {compared} |")
    return "\n".join(lines)


def stages_tables(stages: dict) -> str:
    """Tables of CPU and wall time by stage of the newest run, and of the CPU time outside the model of all runs."""
    newest = stages["runs"][-1]
    parts = [
        "## Where a request's time goes",
        f"One request of one 36-token text, means in ms, commit {newest['commit']} on {newest['machine']['cpu']} "
        f"({newest['machine']['cores']} cores, load {newest['machine']['load_before']:.1f} before).",
        "CPU time that the server uses for a request, all its threads and processes together:",
        stage_table(newest, "cpu_ms", outside=True),
        "Time that a lone request takes, as its client sees it:",
        stage_table(newest, "wall_ms"),
    ]
    if len(stages["runs"]) > 1:
        parts += ["CPU time outside the model in ms per request, by commit:", history_table(stages["runs"])]
    return "\n\n".join(parts)


def stage_table(run: dict, kind: str, outside: bool = False) -> str:
    found = {name: one for name, one in run["servers"].items() if kind in one}
    names = list(next(iter(found.values()))[kind]) if found else []
    more = ["outside the model (least - greatest of the rounds)"] if outside else ["together"]
    lines = [f"| | {' | '.join([*names, *more])} |", "|---" * (len(names) + 2) + "|"]
    for label, one in found.items():
        cells = [f"{one[kind][name]:.3f}" for name in names]
        if outside:
            cells.append(spread_cell(one["cpu_ms_outside_model"]))
        else:
            cells.append(f"{sum(one[kind].values()):.3f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread_cell(values: dict[str, float]) -> str:
    return f"{values['median']:.3f} ({values['min']:.3f} - {values['max']:.3f})"


def history_table(runs: list[dict]) -> str:
    labels = list(dict.fromkeys(label for run in runs for label in run["servers"]))
    lines = [f"| commit | {' | '.join(labels)} |", "|---" * (len(labels) + 1) + "|"]
    for run in runs:
        cells = [
            spread_cell(run["servers"][label]["cpu_ms_outside_model"]) if label in run["servers"] else "-"
            for label in labels
        ]
        lines.append(f"| {run['commit']} | {' | '.join(cells)} |")
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
        for at in range(result.n_rates(label)):
            lines.append(server_row(label, result.measurements(label, at)))
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
        lines.append(
            f"- `{content['file']}`: {content['started']}, commit {content['commit']}; {cpu['cores']} cores of "
            f"{cpu['cpu']} ({', '.join(cpu['flags'])}), load {cpu['load_before']:.1f} before; {named}"
        )
        lines += [f"  - left out: {what}: {why}" for what, why in content["skipped"].items()]
        for name, entry in content["scenarios"].items():
            left_out = entry.get("left_out", {}).items()
            lines += [f"  - not measured further in {name}: {label}: {why}" for label, why in left_out]
    return "\n".join(lines)


def render_tables(results: dict[str, Result], contents: list[dict], stages: dict | None) -> str:
    parts = ["## Against the goals", goals_table(results)]
    if stages:
        parts.append(stages_tables(stages))
    parts += ["## Where and what", machine_lines(contents), "## Scenarios"]
    parts += [scenario_table(result) for result in results.values()]
    return "\n\n".join(parts) + "\n"


def draw_latencies(results: dict[str, Result], axes_of, save) -> list[str]:
    """One line a server over the percentiles, for each scenario of one rate."""
    made = []
    for result in results.values():
        if len(result.scenario["share"]) > 1:
            continue
        axes = axes_of(result.scenario["description"])
        names = ["p50", "p90", "p99", "p999"]
        for server in result.scenario["servers"]:
            label = result.best([server], "p50")
            if label:
                medians = [statistics.median(result.column(label, name)) for name in names]
                axes.plot(names, medians, marker="o", label=label)
        axes.set(yscale="log", ylabel="latency, ms")
        made.append(save(axes, f"latency-{result.name}"))
    return made


def draw_sweep(results: dict[str, Result], axes_of, save) -> list[str]:
    """Throughput against p99, one line a server, for each open loop of several rates."""
    made = []
    for result in results.values():
        if len(result.scenario["share"]) < 2:
            continue
        axes = axes_of(result.scenario["description"])
        for label in result.labels(result.scenario["servers"]):
            columns = [
                [result.column(label, metric, at) for metric in ("rps", "p99")]
                for at in range(result.n_rates(label))
            ]
            points = [tuple(map(statistics.median, pair)) for pair in columns if all(pair)]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(yscale="log", xlabel="requests/s answered", ylabel="p99, ms")
        made.append(save(axes, f"p99-{result.name}"))
    return made


def draw_stages(stages: dict, axes_of, save) -> list[str]:
    """Stacked bars: wall time of a lone request, CPU time outside the model, and that by commit."""
    newest = stages["runs"][-1]["servers"]
    wall = {label: one["wall_ms"] for label, one in newest.items() if "wall_ms" in one}
    made = []
    for model, title in (
        ("tiny", "BERT of 2 layers x 128"),
        ("zero", "zero-cost model"),
        ("real", "real model in float32"),
    ):
        bars = {label: one for label, one in wall.items() if label.startswith(model)}
        if bars:
            axes = axes_of(f"{title}: where the time of a lone 36-token request goes, as its client sees it")
            stack(axes, bars, "ms")
            made.append(save(axes, f"stages-wall-{model}"))
    axes = axes_of("server CPU time outside the model for a 36-token request, by stage")
    stack(axes, {label: outside_model(one) for label, one in newest.items()}, "CPU ms per request")
    made.append(save(axes, "stages-cpu"))
    if len(stages["runs"]) > 1:
        axes = axes_of("server CPU time outside the model for a 36-token request, by commit")
        label = next(iter(newest))
        bars = {
            f"{run['commit']}\n{label}": outside_model(run["servers"][label])
            for run in stages["runs"]
            if label in run["servers"]
        }
        stack(axes, bars, "CPU ms per request")
        made.append(save(axes, "stages-cpu-history"))
    return made


def outside_model(found: dict) -> dict[str, float]:
    return {stage: value for stage, value in found["cpu_ms"].items() if stage != MODEL}


def stack(axes, bars: dict[str, dict[str, float]], unit: str) -> None:
    """Draw one stacked bar a row, in the order given."""
    left = [0.0] * len(bars)
    for stage in next(iter(bars.values())):
        widths = [one[stage] for one in bars.values()]
        axes.barh(list(bars), widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel=unit)


def draw(results: dict[str, Result], stages: dict | None, folder: Path) -> list[str]:
    """Draw all plots; return the Markdown that shows them."""
    import matplotlib as mpl  # noqa: PLC0415  only plots need it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "nerve"
    import matplotlib.pyplot as plt  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    for old in (file for kind in PLOTS for file in folder.glob(kind)):
        old.unlink()

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

    made = draw_stages(stages, axes_of, save) if stages else []
    return made + draw_sweep(results, axes_of, save) + draw_latencies(results, axes_of, save)


def read_stages(file: Path) -> dict | None:
    return json.loads(file.read_text()) if file.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--stages", type=Path, help="file of stages.py")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--docs", action="store_true", help="write docs/benchmarks/results.md and docs/benchmarks/img/"
    )
    where.add_argument("--page", type=Path, help="write the tables into this page")
    arguments = parser.parse_args()
    results, contents = read_results(arguments.results)
    stages_file = arguments.stages or (STAGES_FILE if arguments.page is None else None)
    stages = read_stages(stages_file) if stages_file else None
    tables = render_tables(results, contents, stages)
    if arguments.docs:
        plots = "\n\n".join(draw(results, stages, DOCS / "img"))
        fill(DOCS / "results.md", f"{tables}\n## Plots\n\n{plots}\n")
    elif arguments.page is not None:
        fill(arguments.page, tables)
    else:
        print(tables)


def fill(page: Path, content: str, mark: str = BEGIN) -> None:
    """Put `content` between the marks of a page. Raises SystemExit where it has none."""
    before, begin, rest = page.read_text().partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no marks: {mark} and {END}")
    page.write_text(f"{before}{mark}\n\n{content}\n{END}{after}")


if __name__ == "__main__":
    main()
