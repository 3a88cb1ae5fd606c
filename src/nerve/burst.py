"""Runs the quick jobs of requests that arrived together as one call of the model.

A call of onnxruntime and the few of numpy after it cost some 50 us whatever they compute, more than all of a quick
model's own work. The server's thread begins the requests whose bodies are there one after another; a job that would be
run on that thread is kept until they are begun, and then all of them run as one padded batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from nerve.batching import cost
from nerve.errors import PredictError

if TYPE_CHECKING:
    from nerve.batching import BatchPolicy
    from nerve.jobs import Job
    from nerve.scheduler import Scheduler

# Calls a function once the requests are begun whose bodies have arrived by now, and tells whether it will.
Defer = Callable[[Callable[[], None]], bool]

# Jobs of one call: with 16 the cost of a call is no longer what counts, and the first is not kept long.
_MOST_JOBS = 16
# Seconds that a call may take, by the measured rate: the server's thread answers nobody meanwhile.
_MOST_SECONDS = 0.001


class Burst:
    """The jobs that are kept at present; any thread may call its methods.

    lane: runs them.
    deliver: told of those that the lane refuses.
    policy: limits of a call. Its padding may be exceeded where the call is quick all the same.
    limit_seconds: a call is quick when it takes less.
    """

    def __init__(
        self, lane: Scheduler, deliver: Callable[[list[Job]], None], policy: BatchPolicy, limit_seconds: float
    ) -> None:
        self._lane = lane
        self._deliver = deliver
        self._policy = policy
        self._most_jobs = min(_MOST_JOBS, policy.max_batch_size)
        self._limit_seconds = limit_seconds
        self._lock = threading.Lock()
        self._jobs: list[tuple[Job, float]] = []  # with the `time.monotonic()` since when each is kept

    def add(self, job: Job, defer: Defer | None) -> bool:
        """Run a job of one window on this thread, now or when `defer` says; False when its call is not quick.

        Its waiter is told, which may be before this returns. Without `defer` it runs now, with those that are kept.
        """
        if not self._lane.is_quick(job.n_tokens, self._limit_seconds):
            return False
        with self._lock:
            jobs = self._jobs
            joins = self._can_join(job, jobs)
            if not joins:
                former, self._jobs = jobs, (jobs := [])
            jobs.append((job, time.monotonic()))
        if not joins:
            self._run(former)
        if (
            len(jobs) >= self._most_jobs
            or defer is None
            or (not joins and not defer(partial(self._run, jobs)))
        ):
            self._run(jobs)
        return True

    def _can_join(self, job: Job, jobs: list[tuple[Job, float]]) -> bool:
        """Tell whether a call with this job, too, costs no more than one more call; the lock is held."""
        if not jobs or jobs[0][0].needs_logits is not job.needs_logits:
            return False
        lengths = [job.n_tokens, *(other.n_tokens for other, _ in jobs)]
        n_computed = cost(lengths, self._policy)
        n_padding = n_computed - sum(lengths)
        is_dense = n_padding <= self._policy.max_padding * n_computed
        seconds = _MOST_SECONDS if is_dense else self._limit_seconds
        return n_computed <= self._policy.token_budget and self._lane.is_quick(n_computed, seconds)

    def _run(self, jobs: list[tuple[Job, float]]) -> None:
        """Run what was kept together, unless that was done; where it cannot be run here, queue it."""
        with self._lock:
            if self._jobs is jobs:
                self._jobs = []
            taken = [(job, since) for job, since in jobs if job.waiter is not None]  # else it was cancelled
            jobs.clear()  # whoever calls later has nothing to do
        if not taken or self._lane.run_here(taken):
            return
        refused = []
        for job, _ in taken:
            try:
                self._lane.submit(job)
            except PredictError as error:
                job.error = error.with_traceback(None)  # which holds all of them, in a cycle
                refused.append(job)
        if refused:
            self._deliver(refused)
