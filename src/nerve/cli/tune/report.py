"""Turns a search of `nerve tune` into its report, and prints that as tables."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

import nerve
from nerve.cli.display import PlainConsole
from nerve.cli.tune.neighbours import is_disturbed
from nerve.cli.tune.plan import ROUNDS, doubts, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from nerve.cli.tune.plan import Measured, Setting, Standing
    from nerve.cli.tune.search import Search
    from nerve.config import Precision

# Columns of a line where no terminal breaks it.
_FILE_WIDTH = 200
# Columns of the tables: key of the configuration, title.
_COLUMNS = {
    "model.precision": "precision",
    "server.workers": "workers",
    "cpu.threads": "threads",
    "cpu.mode": "mode",
    "batching.max_batch_size": "batch size",
    "batching.max_batch_tokens": "batch tokens",
    "batching.max_padding": "padding",
}


def make_report(
    search: Search,
    standings: list[Standing],
    winner: Standing,
    agreements: Mapping[Precision, float],
    min_agreement: float,
) -> dict[str, Any]:
    """Return everything that is printed, ready for JSON; infinite latencies are null."""
    return {
        "target_p99_ms": search.target * 1000,
        "met": winner.capacity > 0,
        "cores": search.cores,
        "cores_of_machine": search.of_machine,
        "doubts": doubts(standings, winner, search.cores, search.of_machine),
        "version": nerve.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "agreements": {precision.value: share for precision, share in agreements.items()},
        "min_agreement": min_agreement,
        "client_cores": search.client_cores,
        "tried": [_measured(one, search) for one in search.measured],
        "refused": [{**_keys(one.setting), "reason": one.reason} for one in search.refused],
        "finalists": [_standing(one, search, winner) for one in standings],
        "best": _standing(winner, search, winner),
        "nearest": _standing(nearest(standings), search, winner),
    }


def describe(report: dict[str, Any]) -> list[str]:
    """Return what was measured, as lines for the head of the written file."""
    best = report["best"]
    texts = "of its user" if report["own_texts"] else "built in"
    lines = [
        f"Written by `nerve tune` {report['version']} on {report['date']}, on {report['cores']} cores, with "
        f"{report['texts']} texts {texts}.",
        f"Target: p99 of at most {report['target_p99_ms']:g} ms.",
    ]
    if report["doubts"]:
        lines.append(
            f"NOT RELIABLE: {'; '.join(report['doubts'])}. Tune again on a quiet machine, for longer."
        )
    lines += [
        f"{_name(one)}: {_rounds(one)} requests/s, p50 {_ms(one['p50_ms'])} "
        f"and p99 {_ms(one['p99_ms'])} ms at that rate."
        for one in sorted(report["finalists"], key=lambda one: not one["is_best"])
    ]
    share = report["agreements"].get(best["model.precision"])
    if share is not None:
        lines.append(f"{best['model.precision']}: {share:.2%} of tokens have the label that float32 gives.")
    return lines


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Print what was tried, the finalists and the verdict."""
    console = console or PlainConsole()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    every = [*report["tried"], *report["refused"]]
    varied = [key for key in _COLUMNS if len({str(one[key]) for one in every}) > 1]
    fixed = ", ".join(f"{_COLUMNS[key]} {_cell(every[0], key)}" for key in _COLUMNS if key not in varied)
    target = f"rate: requests/s with p99 <= {report['target_p99_ms']:g} ms; p50, p99: ms"
    tried = _table([*(_COLUMNS[key] for key in varied), "rate", "p50", "p99", "most", ""])
    console.print(f"tried ({target})\nin all: {fixed or '-'}", soft_wrap=True)
    for one in report["tried"]:
        numbers = (_rate(one["capacity"]), _ms(one["p50_ms"]), _ms(one["p99_ms"]), _rate(one["saturated"]))
        tried.add_row(*(_cell(one, key) for key in varied), *numbers, _mark(one))
    console.print(tried)
    for one in report["refused"]:
        console.print(f"not started with {_changes(one)}: {one['reason']}", soft_wrap=True)
    for precision, share in report["agreements"].items():
        verdict = "" if share >= report["min_agreement"] else f": below {report['min_agreement']}, not tried"
        console.print(f"{precision}: {share:.4%} of tokens agree with float32{verdict}", soft_wrap=True)
    final = _table(["", *(_COLUMNS[key] for key in varied), "rate", "rounds", "p50", "p99", ""])
    console.print("\nfinalists, measured again in turn")
    for one in report["finalists"]:
        best = Text("best", "bold green") if one["is_best"] and not one["is_start"] else Text("")
        name = Text("as it is" if one["is_start"] else "").append_text(best)
        rounds = " ".join(_rate(value) for value in one["rounds"])
        numbers = (_rate(one["capacity"]), rounds, _ms(one["p50_ms"]), _ms(one["p99_ms"]))
        final.add_row(name, *(_cell(one, key) for key in varied), *numbers, _mark(one))
    console.print(final)
    console.print(
        f"\np50 and p99 are those at the rate before them, or where it is none, of a lone client. most: a closed "
        f"loop of 32.\nThe load itself used {report['client_cores']:.2f} cores of {report['cores']}.",
        soft_wrap=True,
    )
    for doubt in report["doubts"]:
        console.print(Text(f"NOT RELIABLE: {doubt}", "bold yellow"), soft_wrap=True)
    console.print(_verdict(report), soft_wrap=True)


def _table(headings: list[str]) -> Table:
    """Make a table whose cells stay in one line each, but for what spoils a measurement, at its end."""
    table = Table(box=None)
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "" or not table.columns)
    return table


def _mark(one: dict[str, Any]) -> Text:
    """Say what spoils a measurement."""
    marks = [f"busy: others {one['others']:.1f} cores"] if one["is_disturbed"] else []
    if "rounds" in one and len(one["rounds"]) < ROUNDS:
        marks.append(f"{len(one['rounds'])} of {ROUNDS} rounds")
    return Text(", ".join(marks), "yellow")


def _verdict(report: dict[str, Any]) -> Text:
    best = report["best"]
    if not report["met"]:
        best = report["nearest"]
        carries = f"; in some rounds it carries up to {max(best['rounds']):.1f} requests/s"
        return Text(
            f"NO setting meets p99 <= {report['target_p99_ms']:g} ms. The nearest: {_changes(best)}, where a lone "
            f"client sees p50 {_ms(best['p50_ms'])} and p99 {_ms(best['p99_ms'])} ms"
            f"{carries if max(best['rounds']) else ''}. Nothing is written.",
            "bold red",
        )
    if best["is_start"]:
        return Text(
            f"the configuration stays: nothing was better in every round. It carries {_rounds(best)} requests/s; "
            "nothing is written",
            "bold green",
        )
    return Text(
        f"best: {_changes(best)}: {_rounds(best)} requests/s; written to {report['written']}", "bold green"
    )


def _keys(setting: Setting) -> dict[str, Any]:
    return {".".join(path): value for path, value in setting.values_by_key().items()}


def _measured(one: Measured, search: Search) -> dict[str, Any]:
    return {
        **_keys(one.setting),
        "capacity": one.capacity,
        "p50_ms": _finite(one.p50_ms),
        "p99_ms": _finite(one.p99_ms),
        "saturated": one.saturated,
        "client_cores": one.client_cores,
        **_others(one, search),
    }


def _standing(one: Standing, search: Search, winner: Standing) -> dict[str, Any]:
    return {
        **_keys(one.setting),
        "capacity": one.capacity,
        "rounds": list(one.capacities),
        "p50_ms": _finite(one.p50_ms),
        "p99_ms": _finite(one.p99_ms),
        "requests": one.n_requests,
        "is_start": one.setting == search.start,
        "is_best": one is winner,
        **_others(one, search),
    }


def _others(one: Measured | Standing, search: Search) -> dict[str, Any]:
    """Return what other programs used of the machine, and whether that was too much."""
    disturbed = is_disturbed(one.others, search.cores, search.of_machine)
    return {"others": one.others, "is_disturbed": disturbed}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(one: dict[str, Any], key: str) -> str:
    return "auto" if one[key] is None else str(one[key])


def _changes(one: dict[str, Any]) -> str:
    return ", ".join(f"{title} {_cell(one, key)}" for key, title in _COLUMNS.items())


def _name(one: dict[str, Any]) -> str:
    if one["is_best"]:
        return "This file"
    return "The configuration it started from" if one["is_start"] else f"With {_changes(one)}"


def _rounds(one: dict[str, Any]) -> str:
    return f"{one['capacity']:.1f} ({min(one['rounds']):.1f} to {max(one['rounds']):.1f})"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value else "none"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
