"""Scores of labels, from the logits. Pure.

Arrays count N tokens or entities, T tokens of a text, L labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nerve.types import RawScoresAs

if TYPE_CHECKING:
    from nerve.types import FloatArray, TokenScores


def logits_of(scores: TokenScores) -> FloatArray:
    """Return the logits, which are there where `needs_logits` said so."""
    if scores.logits is None:
        raise AssertionError("this is a bug: options.needs_logits was true, but the scores hold no logits")
    return scores.logits


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax in float32 over the last axis, (N, L) to (N, L)."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
    return result


def score_vectors(scores: TokenScores, raw_scores_as: RawScoresAs) -> FloatArray:
    """Give what `raw_scores` prints for each token, float32 (T, L)."""
    logits = logits_of(scores)
    return logits if raw_scores_as is RawScoresAs.LOGITS else softmax(logits)


def merge_columns(
    names: tuple[str, ...], vectors: FloatArray, raw_scores_as: RawScoresAs
) -> tuple[tuple[str, ...], FloatArray]:
    """Give each name once, with the score of "any of its labels": renaming can give several labels one name.

    vectors: (N, L). Probabilities are added, and so are the exponentials of logits.
    """
    unique = tuple(dict.fromkeys(names))
    columns = [unique.index(name) for name in names]
    as_logits = raw_scores_as is RawScoresAs.LOGITS
    merged = np.full((len(vectors), len(unique)), -np.inf if as_logits else 0.0, np.float32)
    add = np.logaddexp if as_logits else np.add
    for column, values in zip(columns, vectors.T, strict=True):
        merged[:, column] = add(merged[:, column], values)
    return unique, merged
