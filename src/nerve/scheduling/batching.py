"""Decides which waiting windows go into the next model call (pure functions).

Costs are padded costs: a batch of B windows whose longest has T tokens computes B x T tokens, unless the
graph packs them and computes only their sum. On CPU, padding costs more than sharing a call gains, so only
near-equal lengths are grouped (`max_padding` 0.05); on a GPU a step costs the same over a wide range, so
everything that fits goes.
docs/design.md, "Batching", has the measurements.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """Limits of one model call.

    token_budget: most tokens, padding included.
    max_batch_size: most windows.
    max_padding: largest share of padding among those tokens, 0 to 1.
    is_packed: windows stand side by side, without padding.
    enough_tokens: a batch of so many tokens, padding included, takes no further window: a larger one computes no
        more tokens a second, and only makes its members wait for each other.
    """

    token_budget: int
    max_batch_size: int
    max_padding: float
    is_packed: bool = False
    enough_tokens: int = sys.maxsize


def cost(lengths: Sequence[int], policy: BatchPolicy) -> int:
    """Return how many tokens a call with windows of these lengths computes."""
    return sum(lengths) if policy.is_packed else max(lengths) * len(lengths)


def fills_batch(n_windows: int, n_tokens: int, policy: BatchPolicy) -> bool:
    """Tell whether so many windows, of so many tokens together, make as large a batch as there can be."""
    return n_windows >= policy.max_batch_size or n_tokens >= min(policy.token_budget, policy.enough_tokens)


def take(lengths: Sequence[int], policy: BatchPolicy, max_size: int) -> list[int]:
    """Choose a batch from windows of these lengths, which stand in fair order.

    Returns ascending indexes. The first window is always taken, whatever its length, so the oldest
    never starves; each later one is taken if the batch then still respects the policy and `max_size`, and
    was not large enough without it.
    """
    chosen = [0]
    longest = total = computed = lengths[0]
    limit = min(max_size, policy.max_batch_size)
    for index in range(1, len(lengths)):
        if len(chosen) >= limit or computed >= policy.enough_tokens:
            break
        length = lengths[index]
        new_longest = max(longest, length)
        new_total = total + length
        new_computed = new_total if policy.is_packed else new_longest * (len(chosen) + 1)
        fits = new_computed <= policy.token_budget
        if fits and new_computed - new_total <= policy.max_padding * new_computed:
            chosen.append(index)
            longest, total, computed = new_longest, new_total, new_computed
    return chosen


def fair_order(waiting: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Yield (request, window) index pairs: the first window of each request, then the second of each, ...

    waiting: number of waiting windows of each request, oldest request first. At most `limit` pairs.
    """
    emitted = 0
    depth = 0
    remaining = range(len(waiting))
    while remaining:
        for request in remaining:
            if emitted == limit:
                return
            emitted += 1
            yield request, depth
        depth += 1
        remaining = [request for request in remaining if waiting[request] > depth]  # type: ignore[assignment]
