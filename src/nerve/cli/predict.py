"""Find the entities of texts, without a server.

Texts come from arguments, --file, or stdin. On a terminal they are printed with their entities in colour;
anywhere else, or with --json, as JSON lines: one object per text, in order, with the entities in "rows".
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from nerve.cli.arguments import (
    add_answer_arguments,
    add_filter_arguments,
    add_output_arguments,
    add_rename_argument,
    add_text_arguments,
    filter_choices,
    why_wrong,
)
from nerve.cli.model import add_model_option
from nerve.types import AggregationStrategy, OffsetUnit, TruncationDirection

if TYPE_CHECKING:
    from rich.console import Console

    from nerve.cli.rows import Answerer
    from nerve.corpus.answers import Task
    from nerve.corpus.records import Answer, Record
    from nerve.types import Row

HELP = "find the entities of texts, without a server"
LOG_LEVEL = logging.WARNING
ROWS = "rows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where texts come from, what is asked of the model, and how answers are printed."""
    add_text_arguments(parser)
    model = parser.add_argument_group("model")
    add_model_option(model)
    model.add_argument(
        "--strategy",
        choices=[member.value for member in AggregationStrategy],
        help="how tokens become entities; none prints tokens (default: runtime.entity_strategy)",
    )
    add_filter_arguments(model)
    add_rename_argument(model)
    model.add_argument(
        "--raw-scores", action="store_true", help="the score of every label, not only of the best"
    )
    model.add_argument(
        "--offset-unit",
        choices=[member.value for member in OffsetUnit],
        default=OffsetUnit.CODE_POINT.value,
        help="unit of start and end (default: code_point)",
    )
    model.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are too long (default: cover them with windows)",
    )
    model.add_argument(
        "--truncation-direction",
        choices=[member.value for member in TruncationDirection],
        default=TruncationDirection.RIGHT.value,
        help="which end is cut (default: right)",
    )
    add_answer_arguments(parser)
    output = parser.add_argument_group("output")
    add_output_arguments(output)
    output.add_argument("--json", action="store_true", help="JSON lines on a terminal, too")
    output.add_argument(
        "--live", action="store_true", help="answer each line before the next is read, for pipes that go on"
    )
    output.add_argument("--no-text", action="store_true", help="leave the texts out of the JSON lines")


def run(options: argparse.Namespace) -> int:
    """Predict and print; returns the exit status. Raises `NerveError`s and `BrokenPipeError`."""
    if (wrong := why_wrong(options)) is not None:
        print(f"nerve predict: {wrong}", file=sys.stderr)
        return 2
    from nerve.cli.rows import Wish, config_of, report_of, run_rows
    from nerve.corpus.writers import Layout

    draws = sys.stdout.isatty() and not options.json and options.output is None
    layout = Layout(options.field, replaces=False, column=ROWS, drops_text=options.no_text, names_file=True)
    choices = _choices(options, draws=draws)
    wish = Wish(
        "predict",
        layout,
        as_json=options.json,
        task=lambda answerer: _task(options, answerer, choices),
        draw=(lambda answerer, console: _Drawer(options, answerer, console)) if draws else None,
        settings={**choices, "strategy": options.strategy, "no_text": options.no_text, "json": options.json},
    )
    totals = run_rows(options, config_of(options), wish)
    if options.output is not None or totals.bad:
        print(report_of("predict", totals), file=sys.stderr)
    return 0


def _choices(options: argparse.Namespace, *, draws: bool) -> dict[str, Any]:
    """Return what is chosen of each text's answer, but the strategy."""
    return filter_choices(options) | {
        "truncate": options.truncate,
        "truncation_direction": options.truncation_direction,
        "raw_scores": options.raw_scores,
        # Colours are laid over code points.
        "offset_unit": OffsetUnit.CODE_POINT.value
        if draws and not _shows_tokens(options)
        else options.offset_unit,
    }


def _task(options: argparse.Namespace, answerer: Answerer, choices: dict[str, Any]) -> Task:
    from nerve.corpus.answers import Task

    chosen = dict(choices)
    strategy = options.strategy or answerer.facts.entity_strategy
    config = answerer.config
    if config is not None and strategy != AggregationStrategy.NONE:  # a server has its own defaults
        chosen.setdefault("labels", config.runtime.labels)
        chosen.setdefault("min_score", config.runtime.min_score)
    return Task(redacts=False, choices={"aggregation_strategy": strategy, **chosen})


def _shows_tokens(options: argparse.Namespace) -> bool:
    return bool(options.strategy == AggregationStrategy.NONE)


class _Drawer:
    """Draws texts with their entities, or a table of tokens, on the terminal (a `Writer`)."""

    def __init__(self, options: argparse.Namespace, answerer: Answerer, console: Console) -> None:
        from nerve.cli.display import choose_colours, has_colours

        self._console = console
        self._in_colour = has_colours(console)
        self._answerer = answerer
        self._labels = options.labels or answerer.facts.entity_labels
        self._found: Counter[str] = Counter()
        self._shows_tokens = _shows_tokens(options)
        self._shows_all = options.raw_scores
        self._colours = choose_colours(answerer.facts, answerer.config)

    def start(self, head: object) -> None:
        """See `Writer`."""

    def write(self, record: Record, answer: Answer) -> None:
        """See `Writer`."""
        from nerve.cli.display import best, highlight, token_table

        rows: list[Row] = list(answer.found)  # type: ignore[arg-type]
        if self._shows_tokens:
            self._console.print(token_table(rows))
        else:
            self._found.update(best(row)[0] for row in rows)
            drawn = highlight(record.text, rows, self._colours, in_colour=self._in_colour)
            self._console.print(drawn, soft_wrap=True)

    def close(self) -> None:
        """See `Writer`."""
        from nerve.cli.legend import legend

        if self._shows_tokens or self._shows_all:
            return
        self._console.print()
        for line in legend(self._answerer.facts.model_id, self._labels, self._found, self._colours):
            self._console.print(line)
