"""Decides which entities are answered: `labels` and `min_score` of a request or of the configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nerve.errors import InvalidRequest
from nerve.types import AggregationStrategy, EntityFilter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from nerve.config import RuntimeConfig

# In `min_score`: all labels that it does not name.
OTHERS = "*"


def choose_filter(
    runtime: RuntimeConfig,
    strategy: AggregationStrategy | None,
    labels: Sequence[str] | None,
    min_score: float | Mapping[str, float] | None,
    also_asked: Sequence[tuple[str, str]] = (),
    also_known: Iterable[str] = (),
    labels_field: str = "labels",
    prefix: str = "",
) -> EntityFilter | None:
    """Return which entities a request is answered, the configuration's defaults filled in.

    strategy: None for the model's own. also_asked: labels that other fields name. also_known: labels that are not the
    model's. labels_field: what the request calls `labels`. prefix: of the place where the fields are in the request.
    Raises `InvalidRequest` for a choice where there are no entities, and for a value that is none.
    """
    if strategy is AggregationStrategy.NONE:
        if labels is None and min_score is None:
            return None
        field = "min_score" if labels is None else "labels"
        raise InvalidRequest(
            f"{prefix}{field}: aggregation_strategy none answers tokens, not entities; choose simple, first, "
            "average, max or viterbi"
        )
    if labels is None and min_score is None and not also_asked:
        return make_filter(runtime.labels, runtime.min_score)
    _check_values(labels, min_score)
    return make_filter(
        runtime.labels if labels is None else labels,
        runtime.min_score if min_score is None else min_score,
        (*names_in(labels, min_score, labels_field, prefix), *also_asked),
        also_known,
    )


def _check_values(labels: object, min_score: object) -> None:
    """Raise `InvalidRequest` for what the types of the wire would not let pass."""
    if isinstance(labels, str):
        raise InvalidRequest("labels: must be a list of labels, not one string")
    values = min_score.values() if isinstance(min_score, Mapping) else [min_score]
    for value in values:
        if value is not None and (not isinstance(value, float | int) or not 0 <= value <= 1):
            raise InvalidRequest("min_score: must be a number from 0 to 1, or an object from label to number")


def make_filter(
    labels: Sequence[str] | None,
    min_score: float | Mapping[str, float],
    asked: Iterable[tuple[str, str]] = (),
    also_known: Iterable[str] = (),
) -> EntityFilter | None:
    """Return what keeps these labels from these scores on; None for what keeps everything.

    min_score: 0 to 1, one for all, or by label with "*" for all others (0 where there is none).
    asked, also_known: see `EntityFilter`.
    """
    by_label = {OTHERS: min_score} if isinstance(min_score, float | int) else dict(min_score)
    least = by_label.pop(OTHERS, 0.0)
    asked = tuple(asked)
    if labels is None and least <= 0 and not by_label and not asked:
        return None
    return EntityFilter(
        labels=None if labels is None else frozenset(labels),
        min_scores=by_label,
        min_score=least,
        asked=asked,
        also_known=tuple(also_known),
    )


def names_in(
    labels: Sequence[str] | None,
    min_score: float | Mapping[str, float] | None,
    labels_field: str = "labels",
    prefix: str = "",
) -> list[tuple[str, str]]:
    """Return the labels that a request or the configuration names, each with the field."""
    by_label = [] if min_score is None or isinstance(min_score, float | int) else list(min_score)
    return [
        *((f"{prefix}{labels_field}", label) for label in labels or ()),
        *((f"{prefix}min_score", label) for label in by_label if label != OTHERS),
    ]


def check_asked(wanted: EntityFilter, known: Collection[str]) -> None:
    """Raise `InvalidRequest` when a request names a label that there is not; the message lists the known ones.

    It does not quote the label, which could be input text.
    """
    for field, label in wanted.asked:
        if label not in known and label not in wanted.also_known:
            listed = ", ".join(dict.fromkeys((*known, *wanted.also_known)))
            raise InvalidRequest(f"{field}: unknown label; known labels: {listed}")


def keeps(wanted: EntityFilter, label: str, score: float) -> bool:
    """Tell whether an entity is answered."""
    if wanted.labels is not None and label not in wanted.labels:
        return False
    return not score < wanted.min_scores.get(label, wanted.min_score)  # NaN is not hidden
