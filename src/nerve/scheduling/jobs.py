"""What waits for the model and what it computes at a time: jobs, and batches of their windows."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.errors import NerveError
    from nerve.types import TokenScores, Window


class Job:
    """The windows of one request on their way through the engine.

    After it was delivered, either `error` is set or `results` holds the scores of every window.
    `queue_seconds` is the time until its first window ran, `inference_seconds` the time from there until
    its last one was done. `waiter` belongs to whoever submitted the job; `deliver` finds it there.
    """

    __slots__ = (
        "deadline",
        "error",
        "inference_seconds",
        "n_running",
        "n_tokens",
        "needs_logits",
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

    def scores(self) -> list[TokenScores]:
        """Return the scores of every window; raises the job's error if it failed."""
        if self.error is not None:
            raise self.error
        return [result for result in self.results if result is not None]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call of the model computes: windows as (job, window index) pairs.

    spread: nothing else runs or waits. packed: what `pack` made of the windows, or None.
    """

    pairs: list[tuple[Job, int]]
    spread: bool = False
    packed: Any = None

    @property
    def windows(self) -> list[Window]:
        """The windows, in order."""
        return [job.windows[window_index] for job, window_index in self.pairs]
