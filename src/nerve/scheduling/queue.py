"""Decides over the work of one lane: who is admitted, what runs next, what is dropped.

Plain state and decisions: no lock, no thread and no clock. `lane` calls all of this under its lock, gives the
time (`time.monotonic()`), and does what was decided. So every rule can be tested by calling it.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from nerve.errors import DeadlineExceeded, DeviceFailed, InferenceFailed, Unavailable
from nerve.scheduling.batching import Batch, fair_order, fills_batch, take
from nerve.scheduling.measured import Gathering, Rates, Spreading
from nerve.scheduling.pressure import Pressure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.errors import Overloaded, PredictError
    from nerve.scheduling.batching import BatchPolicy, Job
    from nerve.types import TokenScores

# Windows looked at when a batch is formed, as a multiple of the largest batch: enough to find equal
# lengths, bounded so that a long queue does not make each step slower.
_LOOKAHEAD = 4


class Queue:
    """The jobs of one lane that wait or run.

    A job is admitted whole or refused whole. Its windows may run in several batches.

    policy: limits of a batch.
    max_tokens: most tokens that wait; a job of any size is admitted when nothing waits.
    max_seconds: longest wait, by the measured rate, with which a job is still admitted.
    n_threads: threads that run batches.
    may_spread: a batch can use the cores of all these threads.
    gathers: a batch may wait a moment for clients that were just answered (`measured.Gathering`).
    """

    def __init__(
        self,
        policy: BatchPolicy,
        max_tokens: int,
        max_seconds: float = math.inf,
        n_threads: int = 1,
        may_spread: bool = False,
        gathers: bool = False,
    ) -> None:
        self.policy = policy
        self.n_threads = n_threads
        self.rates = Rates()
        self.tokens = 0  # of windows that wait
        self._turn_tokens = 0  # of the first waiting window of each job
        self.n_calls = 0  # batches that have succeeded
        self._max_tokens = max_tokens
        self._max_seconds = max_seconds
        self._spreading = Spreading(may_spread)
        self._gathering = Gathering()
        self._gathers = gathers
        self._jobs: deque[Job] = deque()  # those of which windows wait; the first is served next
        self._n_waiting = 0  # windows
        self._running_tokens = 0
        self._n_running = 0  # windows
        self.n_busy = 0  # threads that run a batch; read without the lock, too
        self._closed: PredictError | None = None  # why nothing is admitted any more

    def __len__(self) -> int:
        """Return the number of jobs of which windows wait."""
        return len(self._jobs)

    # Admission.

    def admit(self, job: Job, now: float) -> PredictError | None:
        """Take a job in, or return why it is refused; None when it is admitted."""
        if self._closed is not None:
            return type(self._closed)(str(self._closed))
        own_seconds = self.rates.seconds_for(job.n_tokens)
        refusal = self.why_full(now, job.deadline, job.n_tokens, len(job.windows), own_seconds)
        if refusal is not None:
            return refusal
        job.submitted_at = now
        self._jobs.append(job)
        self.tokens += job.n_tokens
        self._turn_tokens += job.turn_tokens
        self._n_waiting += len(job.windows)
        self._gathering.note_arrival(len(job.windows))
        self._spreading.note_arrival(is_running=self.n_busy > 0)
        return None

    def why_full(
        self, now: float, deadline: float, n_tokens: int = 1, n_windows: int = 1, own_seconds: float = 0.0
    ) -> Overloaded | None:
        """Return why a job that takes `own_seconds` itself would be refused, or None; see `Pressure`."""
        if not self._jobs:
            return None
        return self.pressure().why_full(
            self._max_tokens, self._max_seconds, deadline - now, n_tokens, n_windows, own_seconds
        )

    def pressure(self) -> Pressure:
        """Return how full it is."""
        return Pressure(
            len(self._jobs),
            self.tokens,
            self._turn_tokens,
            self._running_tokens,
            self.rates.seconds_for(1),
            self.rates.measured_seconds,
        )

    def close(self) -> None:
        """Admit nothing more."""
        if self._closed is None:
            self._closed = Unavailable("the server is shutting down; send the request to another one")

    # What runs next.

    def expire(self, now: float) -> list[Job]:
        """Drop jobs whose deadline has passed; return those of which nothing runs any more, to be delivered."""
        expired = []
        while late := [job for job in self._candidates() if job.deadline <= now]:
            for job in late:
                self.forget(job)
                job.error = DeadlineExceeded(
                    "the deadline passed while the request waited in the queue; send it again with more time"
                )
                if not job.n_running:
                    expired.append(job)
        return expired

    def choose(self, now: float, *, has_cores: bool = True) -> Batch | None:
        """Take the windows of the next batch; None when none should run now. The caller runs it and calls `settle`.

        has_cores: the batch may use the cores of all threads, if nothing else of this queue runs or waits.
        """
        if not self._jobs or self.awaited(now):
            return None
        expected = self._gathering.expected(now)
        pairs = self._choose_windows(expected)
        chosen = list({id(job): job for job, _ in pairs}.values())
        self._turn_tokens -= sum(job.turn_tokens for job in chosen)
        for job, window_index in pairs:
            job.waiting.remove(window_index)
            job.n_running += 1
            n_tokens = len(job.windows[window_index].ids)
            self.tokens -= n_tokens
            self._running_tokens += n_tokens
            if job.queue_seconds < 0:
                job.queue_seconds = now - job.submitted_at
        self._turn_tokens += sum(job.turn_tokens for job in chosen)
        self._n_waiting -= len(pairs)
        self._n_running += len(pairs)
        self.n_busy += 1
        for job in chosen:
            self._jobs.remove(job)
        self._jobs.extend(job for job in chosen if job.waiting)  # their turn is over
        is_alone = has_cores and self.n_busy == 1 and not self._jobs and not expected
        return Batch(pairs, spread=is_alone and self._spreading.is_worthwhile)

    def awaited(self, now: float) -> int:
        """Return the windows that the next batch should wait for; 0 when it has its even share of all."""
        expected = self._gathering.expected(now)
        if not expected or self._closed is not None:
            return 0
        n_all = self._n_waiting + self._n_running + expected
        is_enough = self._n_waiting * self.n_threads >= n_all
        return 0 if is_enough or fills_batch(self._n_waiting, self.tokens, self.policy) else expected

    def seconds_to_wait(self, now: float) -> float:
        """Return how long the awaited windows may take."""
        return self._gathering.seconds_left(now)

    def note_wait(self, n_awaited: int, *, came: bool) -> None:
        """Take note that a wait is over. n_awaited: windows when it began. came: enough of them did."""
        self._gathering.note_wait(n_awaited, came=came)

    def note_sent(self, now: float) -> None:
        """Take note that the answers of a batch have been sent."""
        self._gathering.note_sent(now)

    def _candidates(self) -> list[Job]:
        """Return the jobs that the next batch is chosen from."""
        return list(islice(self._jobs, _LOOKAHEAD * self.policy.max_batch_size))

    def _choose_windows(self, expected: int) -> list[tuple[Job, int]]:
        """Return the (job, window index) pairs of the next batch; expected: windows that should come yet."""
        jobs = self._candidates()
        order = fair_order([len(job.waiting) for job in jobs], _LOOKAHEAD * self.policy.max_batch_size)
        candidates = [(jobs[j], jobs[j].waiting[depth]) for j, depth in order]
        # All windows of a batch share one set of outputs, so requests with and without logits do not mix.
        needs_logits = candidates[0][0].needs_logits
        candidates = [pair for pair in candidates if pair[0].needs_logits is needs_logits]
        # Leave the other threads their share.
        share = math.ceil((len(candidates) + self._n_running + expected) / self.n_threads)
        chosen = take([len(job.windows[w].ids) for job, w in candidates], self.policy, share)
        return [candidates[index] for index in chosen]

    # What has run, or will not run any more.

    def settle(
        self,
        batch: Batch,
        outcome: Sequence[TokenScores] | Exception,
        started: float,
        now: float,
        since: float,
    ) -> list[Job]:
        """Write the scores of a batch, or its failure, into its jobs; return the jobs to be delivered.

        started: of the batch. since: when the thread that ran it was done with the batch before, or woke up.
        """
        self.n_busy -= 1
        self._running_tokens -= batch.n_tokens
        self._n_running -= len(batch.pairs)
        if isinstance(outcome, Exception):
            finished = self._settle_failure(batch, outcome, now)
        else:
            finished = self._settle_scores(batch, outcome, now, since)
        if self._gathers:
            self._gathering.note_answers(now, sum(len(job.windows) for job in finished), now - started)
        return finished

    def _settle_scores(
        self, batch: Batch, outcome: Sequence[TokenScores], now: float, since: float
    ) -> list[Job]:
        self.n_calls += 1
        self.rates.note_call(batch.n_tokens, now - since, 1 if batch.spread else self.n_threads)
        for (job, window_index), scores in zip(batch.pairs, outcome, strict=True):
            job.n_running -= 1
            job.results[window_index] = scores
        return self._finished(batch, now)

    def _settle_failure(self, batch: Batch, failure: Exception, now: float) -> list[Job]:
        for job, _ in batch.pairs:
            job.n_running -= 1
            if job.error is None:
                self.forget(job)
                if isinstance(failure, DeviceFailed):
                    job.error = DeviceFailed(str(failure))
                else:
                    job.error = InferenceFailed("the model could not compute this request")
                job.error.__cause__ = failure
        finished = self._finished(batch, now)
        return finished + self.abandon(str(failure)) if isinstance(failure, DeviceFailed) else finished

    @staticmethod
    def _finished(batch: Batch, now: float) -> list[Job]:
        """Return the jobs of a batch of which nothing runs or waits any more."""
        finished = []
        for job in {id(job): job for job, _ in batch.pairs}.values():
            if not job.n_running and not job.waiting:
                job.inference_seconds = now - job.submitted_at - job.queue_seconds
                finished.append(job)
        return finished

    def abandon(self, reason: str, error: type[DeviceFailed] | type[Unavailable] = DeviceFailed) -> list[Job]:
        """Fail all that waits and admit nothing more; return the jobs to be delivered. What runs may never end."""
        self._closed = error(reason)
        waiting = list(self._jobs)
        for job in waiting:
            self.forget(job)
            job.error = error(reason)
        return [job for job in waiting if not job.n_running]

    def forget(self, job: Job) -> None:
        """Drop the waiting windows of a job. Does nothing to a job that was never admitted."""
        if job.waiting and job.submitted_at:
            self.tokens -= sum(len(job.windows[w].ids) for w in job.waiting)
            self._turn_tokens -= job.turn_tokens
            self._n_waiting -= len(job.waiting)
            job.waiting.clear()
            self._jobs.remove(job)
