"""Covers a long text with overlapping windows, and merges what the model said of them (pure functions).

Positions here count real tokens of the text, special tokens left out. Window k starts at real token
k * (capacity - stride), as in transformers and `tokenizers`, and holds at most `capacity` of them.

Merge rule: every token is taken from the window in which its poorer side (the shorter of its left and
right context) is longest; the edges of the text lack nothing, and the earlier window wins a tie. All
windows being equally wide, that is the middle of each overlap, so the rule needs one cut per pair of
neighbours. Entities are grouped after merging, so one that crosses a cut comes out whole.
docs/explanation/long-texts.md compares this with transformers' `stride`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from nerve.types import TokenScores

if TYPE_CHECKING:
    from collections.abc import Sequence


def plan_windows(n_tokens: int, capacity: int, stride: int) -> list[tuple[int, int]]:
    """Return the half-open token ranges that cover `n_tokens`, neighbours sharing `stride` tokens.

    Needs 0 <= stride < capacity. A text that fits, the empty one included, is one window.
    """
    if n_tokens <= capacity:
        return [(0, n_tokens)]
    step = capacity - stride
    n_windows = 1 + -(-(n_tokens - capacity) // step)
    return [(k * step, min(k * step + capacity, n_tokens)) for k in range(n_windows)]


def owned_ranges(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return, for each window, the range of tokens it answers for; the ranges tile the text."""
    cuts = [0]
    cuts += [
        border(left_stop, right_start) for (_, left_stop), (right_start, _) in itertools.pairwise(windows)
    ]
    cuts.append(windows[-1][1])
    return list(itertools.pairwise(cuts))


def border(left_stop: int, right_start: int) -> int:
    """Return the first token that the right one of two neighbouring windows answers for."""
    # Of a token i in the overlap, the left window sees left_stop - 1 - i tokens to the right, the
    # right window i - right_start to the left; the left window keeps it while it sees as many.
    return (left_stop - 1 + right_start) // 2 + 1


def merge_scores(
    parts: Sequence[TokenScores], windows: Sequence[tuple[int, int]], n_prefix: int, n_suffix: int
) -> TokenScores:
    """Return the scores of a whole text, its leading and trailing special tokens included.

    parts: per window, T_w = n_prefix + tokens of the window + n_suffix.
    Special tokens come from the first window at the front and from the last one at the back.
    """
    if len(parts) == 1:
        return parts[0]
    owned = owned_ranges(windows)
    starts = [start for start, _ in windows]
    return merge_owned(parts, starts, owned, n_prefix, n_suffix, has_front=True, has_back=True)


def merge_owned(
    parts: Sequence[TokenScores],
    starts: Sequence[int],
    owned: Sequence[tuple[int, int]],
    n_prefix: int,
    n_suffix: int,
    *,
    has_front: bool,
    has_back: bool,
) -> TokenScores:
    """Return the scores of the tokens that neighbouring windows answer for.

    parts: per window, as for `merge_scores`. starts: the first token of each window. owned: what it answers for.
    has_front, has_back: with the special tokens before the first window, and those after the last one.
    """
    last = len(parts) - 1
    slices = []
    for k, (start, (own_start, own_stop)) in enumerate(zip(starts, owned, strict=True)):
        front = 0 if k == 0 and has_front else n_prefix + own_start - start
        back = n_prefix + own_stop - start + (n_suffix if k == last and has_back else 0)
        slices.append(slice(front, back))
    logits = [part.logits[cut] for part, cut in zip(parts, slices, strict=True) if part.logits is not None]
    return TokenScores(
        label_ids=np.concatenate([part.label_ids[cut] for part, cut in zip(parts, slices, strict=True)]),
        scores=np.concatenate([part.scores[cut] for part, cut in zip(parts, slices, strict=True)]),
        logits=np.concatenate(logits) if len(logits) == len(parts) else None,
    )
