"""Decides which entities are answered: `labels` and `min_score` of a request or of the configuration. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.errors import InvalidRequest
from nerve.types import EntityFilter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

# In `min_score`: all labels that it does not name.
OTHERS = "*"


def make_filter(
    labels: Sequence[str] | None,
    min_score: float | Mapping[str, float],
    asked: Iterable[str] = (),
    also_known: Iterable[str] = (),
) -> EntityFilter | None:
    """Return what keeps these labels from these scores on; None for what keeps everything.

    min_score: 0 to 1, one for all, or by label with "*" for all others (0 where there is none).
    asked, also_known: see `EntityFilter`.
    """
    by_label = {OTHERS: min_score} if isinstance(min_score, float | int) else dict(min_score)
    least = by_label.pop(OTHERS, 0.0)
    if labels is None and least <= 0 and not by_label:
        return None
    return EntityFilter(
        labels=None if labels is None else frozenset(labels),
        min_scores=by_label,
        min_score=least,
        asked=tuple(asked),
        also_known=tuple(also_known),
    )


def names_in(labels: Sequence[str] | None, min_score: float | Mapping[str, float] | None) -> list[str]:
    """Return the labels that a request or the configuration names."""
    by_label = [] if min_score is None or isinstance(min_score, float | int) else list(min_score)
    return [*(labels or ()), *(name for name in by_label if name != OTHERS)]


def check_asked(wanted: EntityFilter, known: Collection[str]) -> None:
    """Raise `InvalidRequest` when a request names a label that there is not; the message lists the known ones.

    It does not quote the label, which could be input text.
    """
    unknown = [name for name in wanted.asked if name not in known and name not in wanted.also_known]
    if unknown:
        field = "labels" if wanted.labels is not None and unknown[0] in wanted.labels else "min_score"
        listed = ", ".join(dict.fromkeys((*known, *wanted.also_known)))
        raise InvalidRequest(f"{field}: unknown label; known labels: {listed}")


def keeps(wanted: EntityFilter, label: str, score: float) -> bool:
    """Tell whether an entity is answered."""
    if wanted.labels is not None and label not in wanted.labels:
        return False
    return not score < wanted.min_scores.get(label, wanted.min_score)  # NaN is not hidden
