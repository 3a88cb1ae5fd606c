"""Compares the answers of a served model with those of its reference, token by token and span by span.

Pure: rows in, numbers out. Both sides are rows of the same texts, once with `none` (tokens) and once
with an aggregation strategy (spans). The reference gives the scores of all labels, so that the drift
of a score can be told even where the best label differs.

Definitions:
    token agreement  share of the tokens, special ones left out, whose best label is the same.
    score drift      of a token: |served score of the served label - reference score of that label|.
    span F1          over all texts: 2 x common / (served + reference) spans, where a span is common
                     when start, end and label are equal; 1 where neither side has any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nerve.types import Row

# A span: start, end, label.
Span = tuple[int, int, str]


class Incomparable(StartupError):
    """The two sides do not see the same tokens: they are not the same model."""


@dataclass(frozen=True, slots=True)
class TextComparison:
    """What one text shows.

    index: of the text, from 0. total_drift, max_drift: over its tokens.
    lost: spans that only the reference has; added: spans that only the served side has.
    """

    index: int
    n_tokens: int
    n_agreeing: int
    total_drift: float
    max_drift: float
    n_common: int
    lost: tuple[Span, ...]
    added: tuple[Span, ...]

    @property
    def n_disagreeing(self) -> int:
        """Tokens whose label differs."""
        return self.n_tokens - self.n_agreeing

    @property
    def badness(self) -> tuple[int, int, float]:
        """Order of the worst examples: wrong spans, wrong tokens, then drift."""
        return len(self.lost) + len(self.added), self.n_disagreeing, self.max_drift


@dataclass(frozen=True, slots=True)
class Comparison:
    """What all texts together show; the module's header defines the numbers.

    worst: the worst texts first; texts without any difference are left out.
    """

    n_texts: int
    n_tokens: int
    n_spans: int
    token_agreement: float
    span_f1: float
    max_drift: float
    mean_drift: float
    worst: tuple[TextComparison, ...]


def compare_text(
    index: int,
    served_tokens: Sequence[Row],
    reference_tokens: Sequence[Row],
    served_spans: Sequence[Row],
    reference_spans: Sequence[Row],
) -> TextComparison:
    """Compare one text. Raises `Incomparable` when the sides have different tokens."""
    ids, reference_ids = ([row.token_id for row in rows] for rows in (served_tokens, reference_tokens))
    if ids != reference_ids:
        raise Incomparable(
            f"text {index}: the served model sees {len(ids)} tokens, the reference {len(reference_ids)}, "
            "or others; give the config file of the served model"
        )
    n_tokens = n_agreeing = 0
    total_drift = max_drift = 0.0
    for served, reference in zip(served_tokens, reference_tokens, strict=True):
        if served.start == served.end:  # a special token
            continue
        label = _best(served)
        if label not in reference.results:
            raise Incomparable(
                f"the served model has a label {label}, which the reference has not; give the config file of the "
                "served model"
            )
        n_tokens += 1
        n_agreeing += label == _best(reference)
        drift = abs(served.results[label] - reference.results[label])
        total_drift += drift
        max_drift = max(max_drift, drift)
    served_set, reference_set = _spans(served_spans), _spans(reference_spans)
    return TextComparison(
        index=index,
        n_tokens=n_tokens,
        n_agreeing=n_agreeing,
        total_drift=total_drift,
        max_drift=max_drift,
        n_common=len(served_set & reference_set),
        lost=tuple(sorted(reference_set - served_set)),
        added=tuple(sorted(served_set - reference_set)),
    )


def summarize_texts(texts: Iterable[TextComparison], n_worst: int = 5) -> Comparison:
    """Add texts up, in one pass and in memory for `n_worst` of them."""
    n_texts = n_tokens = n_agreeing = n_common = n_different = 0
    total_drift = max_drift = 0.0
    worst: list[TextComparison] = []
    for text in texts:
        n_texts += 1
        n_tokens += text.n_tokens
        n_agreeing += text.n_agreeing
        n_common += text.n_common
        n_different += len(text.lost) + len(text.added)
        total_drift += text.total_drift
        max_drift = max(max_drift, text.max_drift)
        if any(text.badness):
            worst = sorted([*worst, text], key=lambda one: one.badness, reverse=True)[:n_worst]
    n_both = 2 * n_common + n_different
    return Comparison(
        n_texts=n_texts,
        n_tokens=n_tokens,
        n_spans=n_common + n_different,
        token_agreement=n_agreeing / n_tokens if n_tokens else 1.0,
        span_f1=2 * n_common / n_both if n_both else 1.0,
        max_drift=max_drift,
        mean_drift=total_drift / n_tokens if n_tokens else 0.0,
        worst=tuple(worst),
    )


def _best(row: Row) -> str:
    return max(row.results, key=row.results.__getitem__)


def _spans(rows: Sequence[Row]) -> set[Span]:
    return {(row.start, row.end, _best(row)) for row in rows}
