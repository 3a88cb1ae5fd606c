from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve.scheduling.batching import BatchPolicy, cost, fair_order, fills_batch, take

lengths_lists = st.lists(st.integers(1, 64), min_size=1, max_size=60)
policies = st.builds(
    BatchPolicy,
    token_budget=st.integers(1, 512),
    max_batch_size=st.integers(1, 40),
    max_padding=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    is_packed=st.booleans(),
)


def respects(chosen: list[int], policy: BatchPolicy) -> bool:
    """Tell whether a batch of these lengths is within the policy."""
    computed = cost(chosen, policy)
    padding = computed - sum(chosen)
    return (
        computed <= policy.token_budget
        and len(chosen) <= policy.max_batch_size
        and padding <= policy.max_padding * computed
    )


@given(lengths_lists, policies, st.integers(1, 40))
def test_batch_respects_the_policy(lengths: list[int], policy: BatchPolicy, max_size: int) -> None:
    """The first window is always in; more than one only within budget, size and padding; order is kept."""
    chosen = take(lengths, policy, max_size)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= max_size
    assert len(chosen) == 1 or respects([lengths[index] for index in chosen], policy)


@given(lengths_lists, policies)
def test_batch_leaves_out_only_what_does_not_fit(lengths: list[int], policy: BatchPolicy) -> None:
    """A window is passed over only if the batch so far could not take it."""
    chosen = take(lengths, policy, len(lengths))
    for index in set(range(len(lengths))) - set(chosen):
        before = [lengths[k] for k in chosen if k < index]
        assert not respects([*before, lengths[index]], policy)


@given(lengths_lists, policies)
def test_repeated_batches_serve_every_window(lengths: list[int], policy: BatchPolicy) -> None:
    """Each call serves the oldest window, so a queue of n is empty after n calls at most."""
    queue = list(enumerate(lengths))
    served: list[int] = []
    for _ in range(len(lengths)):
        if not queue:
            break
        chosen = set(take([length for _, length in queue], policy, len(queue)))
        assert 0 in chosen
        served += [window for k, (window, _) in enumerate(queue) if k in chosen]
        queue = [pair for k, pair in enumerate(queue) if k not in chosen]
    assert sorted(served) == list(range(len(lengths)))


def test_oldest_is_served_next_while_better_fits_keep_arriving() -> None:
    """A window that fits badly does not wait behind newer ones that fit well."""
    rng = random.Random(1)
    policy = BatchPolicy(token_budget=256, max_batch_size=8, max_padding=0.05)
    queue = [(k, rng.choice([8, 8, 8, 200])) for k in range(30)]
    newest = 30
    for _ in range(500):
        oldest = queue[0][0]
        chosen = set(take([length for _, length in queue], policy, 8))
        queue = [pair for k, pair in enumerate(queue) if k not in chosen]
        assert oldest not in [window for window, _ in queue]
        while len(queue) < 30:
            queue.append((newest, rng.choice([8, 8, 8, 200])))
            newest += 1


@pytest.mark.parametrize(
    ("lengths", "budget", "size", "padding", "expected"),
    [
        ([600], 512, 8, 1.0, [0]),  # the head goes, even above the budget
        ([10, 10, 10], 20, 8, 1.0, [0, 1]),
        ([10, 10, 10], 99, 2, 1.0, [0, 1]),
        ([10, 5, 10], 99, 8, 0.0, [0, 2]),
        ([10, 9, 10], 99, 8, 0.05, [0, 1, 2]),  # 1 of 20 tokens is padding
        ([4, 16, 4, 4], 16, 8, 1.0, [0, 2, 3]),  # a longer one would make all of them dear
    ],
)
def test_batch_table(lengths: list[int], budget: int, size: int, padding: float, expected: list[int]) -> None:
    """Batches worked out by hand."""
    assert take(lengths, BatchPolicy(budget, size, padding), len(lengths)) == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 40))
def test_fair_order_goes_round_the_requests(waiting: list[int], limit: int) -> None:
    """The first window of each request, then the second of each, ...: sorted by depth, then by age."""
    every = sorted((depth, request) for request, count in enumerate(waiting) for depth in range(count))
    expected = [(request, depth) for depth, request in every][:limit]
    assert list(fair_order(waiting, limit)) == expected


def test_packed_windows_cost_their_sum() -> None:
    """Side by side, a long window does not make the short ones dearer, and padding is no matter."""
    packed = BatchPolicy(token_budget=64, max_batch_size=8, max_padding=0.0, is_packed=True)
    assert take([40, 8, 8, 8, 1], packed, 8) == [0, 1, 2, 3]
    assert cost([40, 8, 8, 8], packed) == 64
    assert cost([40, 8, 8, 8], BatchPolicy(64, 8, 1.0)) == 160


@pytest.mark.parametrize(
    ("lengths", "expected"), [([36] * 32, 4), ([130, 8], 1), ([8] * 40, 16), ([64, 64, 64], 2)]
)
def test_batch_that_is_large_enough_takes_no_more(lengths: list[int], expected: int) -> None:
    """A batch grows until it has `enough_tokens`, and no further."""
    policy = BatchPolicy(token_budget=512, max_batch_size=32, max_padding=0.05, enough_tokens=128)
    assert len(take(lengths, policy, len(lengths))) == expected


@given(st.integers(1, 64), st.integers(1, 40), policies)
def test_nothing_joins_a_batch_that_is_filled(length: int, count: int, policy: BatchPolicy) -> None:
    """One window more of the same length is left out of what counts as filled."""
    if fills_batch(count, count * length, policy):
        chosen = take([length] * (count + 1), policy, count + 1)
        assert len(chosen) <= count
