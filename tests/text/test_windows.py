from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nerve.text.windows import merge_scores, owned_ranges, plan_windows
from nerve.types import TokenScores

N_PREFIX, N_SUFFIX, N_LABELS = 2, 1, 3


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw (n_tokens, capacity, stride): fitting texts, short last windows, strides up to capacity - 1."""
    capacity = draw(st.integers(1, 40))
    stride = draw(st.integers(0, capacity - 1))
    return draw(st.integers(0, 200)), capacity, stride


def brute_force_owner(token: int, windows: list[tuple[int, int]], n_tokens: int) -> int:
    """State the merge rule: the longest poorer side wins, text edges lack nothing, the earlier wins a tie."""

    def poorer_side(k: int) -> float:
        start, stop = windows[k]
        left = math.inf if start == 0 else token - start
        right = math.inf if stop == n_tokens else stop - 1 - token
        return min(left, right)

    holders = [k for k, (start, stop) in enumerate(windows) if start <= token < stop]
    return max(holders, key=lambda k: (poorer_side(k), -k))


def random_part(rng: np.random.Generator, length: int, *, with_logits: bool) -> TokenScores:
    """Make the scores of a window of `length` tokens."""
    return TokenScores(
        rng.integers(0, N_LABELS, length),
        rng.random(length, np.float32),
        rng.random((length, N_LABELS), np.float32) if with_logits else None,
    )


@given(plans())
def test_windows_cover_the_text(plan: tuple[int, int, int]) -> None:
    """Windows start every capacity - stride tokens, share `stride`, are full but for the last, and reach the end."""
    n_tokens, capacity, stride = plan
    windows = plan_windows(n_tokens, capacity, stride)
    assert windows[0][0] == 0
    assert windows[-1][1] == n_tokens
    for k, (start, stop) in enumerate(windows):
        assert start == k * (capacity - stride)
        assert stop - start <= capacity
    for (_, left_stop), (right_start, right_stop) in itertools.pairwise(windows):
        assert left_stop - right_start == stride
        assert right_stop > left_stop  # every window adds something


@given(plans())
def test_fewest_windows(plan: tuple[int, int, int]) -> None:
    """A text that fits is one window, and no text has a window too many."""
    n_tokens, capacity, stride = plan
    windows = plan_windows(n_tokens, capacity, stride)
    if n_tokens <= capacity:
        assert windows == [(0, n_tokens)]
    else:
        assert windows[-2][1] < n_tokens


@given(plans())
def test_owned_ranges_are_the_merge_rule(plan: tuple[int, int, int]) -> None:
    """One cut per pair of neighbours gives what the rule says of every token."""
    n_tokens, capacity, stride = plan
    windows = plan_windows(n_tokens, capacity, stride)
    owned = owned_ranges(windows)
    owners = [k for k, (start, stop) in enumerate(owned) for _ in range(start, stop)]
    assert owners == [brute_force_owner(token, windows, n_tokens) for token in range(n_tokens)]


@given(plans(), st.booleans())
def test_merged_scores_are_those_of_the_owners(plan: tuple[int, int, int], with_logits: bool) -> None:
    """Every token once, in order, from its owner; special tokens from the outer windows."""
    n_tokens, capacity, stride = plan
    rng = np.random.default_rng(0)
    windows = plan_windows(n_tokens, capacity, stride)
    parts = [
        random_part(rng, N_PREFIX + stop - start + N_SUFFIX, with_logits=with_logits)
        for start, stop in windows
    ]
    merged = merge_scores(parts, windows, N_PREFIX, N_SUFFIX)
    sources = [(0, position) for position in range(N_PREFIX)]
    for token in range(n_tokens):
        owner = brute_force_owner(token, windows, n_tokens)
        sources.append((owner, N_PREFIX + token - windows[owner][0]))
    length = windows[-1][1] - windows[-1][0]
    sources += [(len(windows) - 1, N_PREFIX + length + k) for k in range(N_SUFFIX)]
    assert merged.label_ids.tolist() == [parts[k].label_ids[position] for k, position in sources]
    assert merged.scores.tolist() == [parts[k].scores[position] for k, position in sources]
    assert (merged.logits is not None) is with_logits
    if merged.logits is not None:
        expected = [parts[k].logits[position].tolist() for k, position in sources]  # type: ignore[index]
        assert merged.logits.tolist() == expected


def test_merging_one_window_changes_nothing() -> None:
    """The scores of a text that fits are passed through as they are."""
    part = random_part(np.random.default_rng(0), 6, with_logits=True)
    assert merge_scores([part], [(0, 3)], N_PREFIX, N_SUFFIX) is part
