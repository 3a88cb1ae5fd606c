"""The work of a lane: jobs, batches of their windows, and the rule which windows share a batch.

A job is the windows of one request, a batch what one call of the model computes. Costs are padded costs: a batch of
B windows whose longest has T tokens computes B x T tokens, unless the graph packs them and computes only their sum.
On a CPU padding costs more than sharing a call gains, so only near-equal lengths are grouped (`max_padding` 0.05); on
a GPU a step costs the same over a wide range, so everything that fits goes.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nerve.errors import NerveError
    from nerve.types import TokenScores, Window


class Job:
    """The windows of one request on their way through the engine.

    After it was delivered, either `error` is set or `results` holds the scores of every window.
    `queue_seconds` is the time until its first window ran, `inference_seconds` the time from there until
    its last one was done. `waiter` belongs to whoever submitted the job; `deliver` finds it there.
    `number` is what it is called between processes (`nerve.channel`).
    """

    __slots__ = (
        "deadline",
        "error",
        "inference_seconds",
        "n_running",
        "n_tokens",
        "needs_logits",
        "number",
        "queue_seconds",
        "results",
        "submitted_at",
        "waiter",
        "waiting",
        "windows",
    )

    def __init__(self, windows: Sequence[Window], needs_logits: bool, deadline: float = math.inf) -> None:
        self.windows = windows
        self.needs_logits = needs_logits
        self.deadline = deadline
        self.n_tokens = sum(len(window.ids) for window in windows)
        self.results: list[TokenScores | None] = [None] * len(windows)
        self.error: NerveError | None = None
        self.queue_seconds = -1.0
        self.inference_seconds = 0.0
        self.submitted_at = 0.0
        self.waiting = deque(range(len(windows)))  # indexes of windows not yet taken
        self.n_running = 0
        self.waiter: Callable[[], None] | None = None
        self.number = 0

    @property
    def turn_tokens(self) -> int:
        """Tokens of the window that is served next; 0 when none waits."""
        return len(self.windows[self.waiting[0]].ids) if self.waiting else 0

    def scores(self) -> list[TokenScores]:
        """Return the scores of every window; raises the job's error if it failed."""
        if self.error is not None:
            raise self.error
        return [result for result in self.results if result is not None]


class Batch:
    """What one call of the model computes.

    pairs: its windows as (job, window index), all of jobs with logits or all without.
    spread: nothing else runs or waits, so the call may use the cores of all threads.
    """

    __slots__ = ("n_tokens", "needs_logits", "pairs", "spread", "windows")

    def __init__(self, pairs: list[tuple[Job, int]], spread: bool = False) -> None:
        self.pairs = pairs
        self.spread = spread
        self.windows: list[Window] = [job.windows[window_index] for job, window_index in pairs]
        self.n_tokens = sum(len(window.ids) for window in self.windows)
        self.needs_logits = pairs[0][0].needs_logits


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
