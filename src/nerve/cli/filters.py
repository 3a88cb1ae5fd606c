"""The arguments that say which entities are wanted, the same for every command that finds some."""

from __future__ import annotations

import argparse
from typing import Any


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
