"""Prints the report of `nerve verify` as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from nerve.cli.display import PlainConsole, make_visible

if TYPE_CHECKING:
    from rich.console import Console


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Print the numbers, then the worst texts if any differ."""
    console = console or PlainConsole()
    console.print(_numbers(report))
    if report["worst"]:
        console.print()
        console.print(_worst(report["worst"]))
    for text in report["worst"]:
        if "text" in text:
            console.print(f"\ntext {text['text_index']}: {make_visible(text['text'])}", soft_wrap=True)


def _numbers(report: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, title=report["model_id"], title_justify="left")
    table.add_row("served", report["served"])
    table.add_row("reference", report["reference"])
    table.add_row("compared", f"{report['texts']} texts, {report['tokens']} tokens, {report['spans']} spans")
    sign = ">=" if report["passed"] else "<"
    verdict = Text("passed", "bold green") if report["passed"] else Text("FAILED", "bold red")
    agreement = Text(f"{report['token_agreement']:.6f} {sign} {report['min_agreement']} ").append_text(
        verdict
    )
    table.add_row("token agreement", agreement)
    table.add_row("span F1", f"{report['span_f1']:.6f}")
    table.add_row("score drift, max", f"{report['max_drift']:.2e}")
    table.add_row("score drift, mean", f"{report['mean_drift']:.2e}")
    return table


def _worst(worst: list[dict[str, Any]]) -> Table:
    table = Table("text", "tokens", "differ", "max drift", "spans lost", "spans added", box=None)
    table.title, table.title_justify = "worst texts", "left"
    for text in worst:
        table.add_row(
            str(text["text_index"]),
            str(text["tokens"]),
            str(text["tokens_that_differ"]),
            f"{text['max_drift']:.2e}",
            _spans(text["spans_lost"]),
            _spans(text["spans_added"]),
        )
    return table


def _spans(spans: list[dict[str, Any]]) -> Text:
    lines = [
        f"{span['label']} {span['start']}-{span['end']} {make_visible(span.get('token', ''))}".rstrip()
        for span in spans
    ]
    return Text("\n".join(lines) or "-")
