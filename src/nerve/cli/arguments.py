"""The arguments that are the same for every command that finds entities: texts, model, and what is wanted of it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nerve.cli.inputs import STDIN


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where texts come from."""
    source = parser.add_argument_group("texts")
    source.add_argument("texts", nargs="*", metavar="TEXT", help="a text; - reads stdin")
    source.add_argument(
        "--file", action="append", default=[], metavar="F", help="one text per line; may be repeated"
    )
    source.add_argument("--whole", action="store_true", help="a file, or stdin, is one text")
    source.add_argument(
        "--jsonl", action="store_true", help="lines are JSON objects; they come back with the answer in them"
    )
    source.add_argument(
        "--field", default="text", metavar="NAME", help="field of the text with --jsonl (default: text)"
    )


def why_wrong(options: argparse.Namespace) -> str | None:
    """Say what is wrong with these arguments; where no text was given, they get stdin."""
    if not options.texts and not options.file:
        if sys.stdin.isatty():
            return "no text; give one, or --file F, or pipe some in"
        options.texts = [STDIN]
    if options.whole and options.jsonl:
        return "--whole and --jsonl exclude each other"
    return None


def add_filter_arguments(group: argparse._ArgumentGroup) -> None:
    """Add --labels and --min-score."""
    group.add_argument(
        "--labels",
        type=_labels,
        metavar="L,L",
        help="only entities with these labels (default: runtime.labels)",
    )
    group.add_argument(
        "--min-score",
        action="append",
        type=_min_score,
        metavar="S",
        help="least score of an entity, 0 to 1; LABEL=S for one label; may be repeated (default: runtime.min_score)",
    )


def filter_choices(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was chosen, as `TokenClassifier` takes it."""
    choices: dict[str, Any] = {}
    if options.labels is not None:
        choices["labels"] = options.labels
    if options.min_score is not None:
        choices["min_score"] = dict(options.min_score)
    return choices


def _labels(text: str) -> list[str]:
    return [label for label in map(str.strip, text.split(",")) if label]


def _min_score(text: str) -> tuple[str, float]:
    label, equals, number = text.rpartition("=")
    try:
        score = float(number)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1 or (equals and not label):
        raise argparse.ArgumentTypeError("must be a number from 0 to 1, or LABEL=NUMBER")
    return label or "*", score
