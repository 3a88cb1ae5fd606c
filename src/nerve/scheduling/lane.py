"""Owns the queue and the engine threads: admission, fair order, batches, drops, drain.

A `Job` is the windows of one request; it is admitted whole or refused whole. Engine threads take
batches across jobs (`batching` decides which windows), call `run`, and hand finished jobs to `deliver`,
once per batch. Batches form from what arrived meanwhile. An idle engine thread takes what waits at once, unless it has
just answered clients that are known to send again within a moment (`returns`).

Threads: `submit`, `cancel` and the properties may be called from any thread. `run` and `deliver` are
called from engine threads; an exception in `deliver` is logged and does not end the thread. An idle
engine thread parks on a queue of its own (a C-level wait, cheaper than a condition variable), after a last look
under the lock: whenever windows wait, a thread was woken or is about to look, or gathers and will look in time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import sys
import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, ParamSpec

from nerve.errors import (
    DeadlineExceeded,
    DeviceFailed,
    InferenceFailed,
    Overloaded,
    PredictError,
    Unavailable,
    stack_of,
)
from nerve.scheduling.admission import MOST_WINDOWS_OF_ONE, POOL_WINDOWS, Admission
from nerve.scheduling.batching import BatchPolicy, cost, fair_order, fills_batch, take
from nerve.scheduling.jobs import Batch, Job
from nerve.scheduling.rates import Rates
from nerve.scheduling.returns import Returns
from nerve.scheduling.spreading import Spreading
from nerve.scheduling.threads import EngineThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.types import TokenScores, Window

log = logging.getLogger(__name__)

P = ParamSpec("P")

# Windows looked at when a batch is formed, as a multiple of the largest batch: enough to find equal
# lengths, bounded so that a long queue does not make each step slower.
_LOOKAHEAD = 4
# Jobs beyond which the wait is told from the sum of their tokens, without a look at each.
_MANY_JOBS = 128
_MAX_RETRY_AFTER_SECONDS = 60.0


class Scheduler:
    """Turns a `run` function into a queue with admission and fair batches.

    run: computes windows, `(windows, needs_logits, spread) -> one TokenScores each`; `spread` tells that
        nothing else runs or waits here, or is likely to, so that the call may use the cores of all engine threads.
    deliver: told of jobs that finished, all those of one batch together.
    max_queue_tokens: most tokens that wait.
    max_queue_seconds: longest wait, by the measured rate, with which a job is still admitted in an overload
        (`admission`).
    on_batch: told of each model call: windows, tokens, padding, seconds, engine threads that it stands for.
    niceness: how far the engine threads step back behind the other threads of the process, 0 to 19.
    may_spread: calls can do that.
    gathers: a thread may wait for clients that it has just answered.
    thread: the one thread that `run` must be called on; it is closed at the end. None: `n_threads` new ones.
    pack: prepares windows for `run`, which gets its result as `packed`. While one call runs, the next is
        chosen and packed on a thread of its own, but only when so much waits that nothing that comes later
        could join it. For one engine thread.

    Once `run` has raised `DeviceFailed`, all that was admitted is delivered with that error, and nothing more
    is admitted.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - wired in one place, by name
        self,
        run: Callable[..., list[TokenScores]],
        deliver: Callable[[list[Job]], None],
        policy: BatchPolicy,
        max_queue_tokens: int,
        n_threads: int = 1,
        on_batch: Callable[[int, int, int, float, int], None] | None = None,
        niceness: int = 0,
        may_spread: bool = False,
        gathers: bool = False,
        thread: EngineThread | None = None,
        max_queue_seconds: float = math.inf,
        pack: Callable[[Sequence[Window]], Any] | None = None,
    ) -> None:
        self._run = run
        self._deliver = deliver
        self._policy = policy
        self._max_queue_tokens = max_queue_tokens
        self._admission = Admission(max_queue_seconds) if max_queue_seconds < math.inf else None
        self._on_batch = on_batch
        self._niceness = niceness
        self._spreading = Spreading(may_spread)
        self._gathers = gathers
        self._returns = Returns()
        self._n_gathering = 0  # threads
        self._lock = threading.Lock()
        self._parked: list[queue.SimpleQueue[None]] = []  # of the threads that wait, each one's own
        self._is_draining = False
        self._jobs: deque[Job] = deque()  # jobs with waiting windows, next to be served first
        self._queued_tokens = 0
        self._n_waiting = 0  # windows
        self._running_tokens = 0
        self._n_running = 0  # windows
        self._n_busy = 0
        self._last_end = 0.0  # `time.monotonic()` of the last call's end
        self._n_calls = 0
        self._refusal: PredictError | None = None  # why nothing is admitted any more
        self._rates = Rates()
        self._threads = [thread] if thread else [EngineThread(f"nerve-engine-{k}") for k in range(n_threads)]
        self._pack = pack
        self._packer = EngineThread("nerve-packer") if pack is not None else None
        self._ahead: Batch | None = None  # chosen and packed while another one ran
        for engine_thread in self._threads:
            engine_thread.post(self._work)

    @property
    def queued_tokens(self) -> int:
        """Tokens of windows that wait."""
        return self._queued_tokens

    @property
    def queued_requests(self) -> int:
        """Jobs of which windows wait."""
        return len(self._jobs)

    @property
    def n_calls(self) -> int:
        """Model calls that have succeeded so far."""
        return self._n_calls

    @property
    def is_idle(self) -> bool:
        """True when a window submitted now would not have to wait for a call."""
        return not self._jobs and self._n_busy < len(self._threads)

    def is_full(self, n_tokens: int = 1) -> bool:
        """Tell whether a job of at most `n_tokens` tokens would be refused for certain."""
        if not self._jobs:
            return False
        with self._lock:
            return self._queued_tokens >= self._max_queue_tokens or self._must_wait_long(n_tokens, 1)

    def submit(self, job: Job) -> None:
        """Admit a job whole, or raise `Overloaded`, `Unavailable` or `DeviceFailed`.

        A job of any size is admitted when nothing waits.
        """
        with self._lock:
            if self._refusal is not None:
                raise type(self._refusal)(str(self._refusal))
            job.submitted_at = time.monotonic()
            self._note_idle(job.submitted_at)
            does_fit = not self._jobs or self._queued_tokens + job.n_tokens <= self._max_queue_tokens
            if does_fit and not self._must_wait_long(job.n_tokens, len(job.windows)):
                self._jobs.append(job)
                self._queued_tokens += job.n_tokens
                self._n_waiting += len(job.windows)
                self._returns.note_arrival(len(job.windows))
                self._spreading.note_arrival(is_running=self._n_busy > 0)
                if not self._n_gathering or not self._awaited(job.submitted_at):
                    self._wake_one()
                return
            job.submitted_at = 0.0
        raise self.refuse() if does_fit else self._overloaded(is_full=True)

    def cancel(self, job: Job) -> None:
        """Drop the waiting windows of a job that nobody waits for.

        It may still be delivered, when some of its windows are running. Does nothing to a job that was
        never admitted.
        """
        with self._lock:
            if job.submitted_at:
                self._forget(job)

    def fail(self, reason: str) -> None:
        """Deliver `DeviceFailed` to all that waits, and admit nothing more. What runs may never end."""
        with self._lock:
            finished = self._abandon(reason)
        if finished:
            self._report(self._deliver, finished)

    def drain(self) -> None:
        """Refuse new jobs, finish the admitted ones, end the threads. Blocks."""
        with self._lock:
            if self._refusal is None:
                self._refusal = Unavailable("the server is shutting down; send the request to another one")
            self._is_draining = True
            while self._parked:
                self._wake_one()
        for thread in self._threads:
            thread.close()
        if self._packer is not None:
            self._packer.close()

    def _wake_one(self) -> None:
        """Wake the thread that parked last, if any; the lock is held. Others look again by themselves.

        Its core is warm. With the threads in turns, lone calls took twice the time now and then, as if the threads of
        a call on all cores had met on one of them (docs/design.md, "CPU threads").
        """
        if self._parked:
            self._parked.pop().put(None)

    def refuse(self) -> Overloaded:
        """Return what a job that would be refused is to be told: how long the queue needs to drain.

        The first refusal for a wait is the begin of an overload: the waiting jobs that are no better off are
        refused with it.
        """
        refused: list[Job] = []
        with self._lock:
            is_full = self._queued_tokens >= self._max_queue_tokens
            if self._admission is not None and not is_full:
                refused = self._take_off(self._admission) if not self._admission.is_overload else []
                self._admission.note_refusal()
            error = self._overloaded(is_full=is_full)
        for job in refused:
            job.error = self._overloaded(is_full=False)
        if refused:
            self._report(self._deliver, refused)
        return error

    def _overloaded(self, *, is_full: bool) -> Overloaded:
        """Return a refusal; `is_full`: the tokens that wait are the reason, and not the time they take."""
        seconds = self._rates.seconds_for(self._queued_tokens)
        return Overloaded(
            f"the queue is full: {self._queued_tokens} tokens wait, {seconds:.2f} s of work at the present rate; "
            "send the request again later",
            retry_after_seconds=min(seconds, _MAX_RETRY_AFTER_SECONDS) if self._rates.is_measured else 1.0,
            reason="queue_tokens" if is_full else "queue_wait",
        )

    def _must_wait_long(self, n_tokens: int, n_windows: int) -> bool:
        """Tell whether a job must be refused for its wait; the lock is held.

        Of each waiting job, no more windows come before a job's last one than the job has itself
        (`fair_order`).
        """
        admission = self._admission
        if not self._jobs or admission is None:
            return False
        own = self._rates.seconds_for(n_tokens)
        seconds = self._rates.seconds_for(self._running_tokens + self._queued_tokens)
        if not admission.is_long(seconds, own):
            return False
        if not admission.is_overload:
            return not admission.is_pool(self._count_windows() + min(n_windows, MOST_WINDOWS_OF_ONE), seconds)
        if len(self._jobs) > _MANY_JOBS:
            return True
        waiting = sum(len(job.windows[w].ids) for job in self._jobs for w in islice(job.waiting, n_windows))
        return admission.is_long(self._rates.seconds_for(self._running_tokens + waiting), own)

    def _count_windows(self) -> int:
        """Return the windows under way, as `Admission.is_pool` counts them; the lock is held."""
        if len(self._jobs) > POOL_WINDOWS:
            return len(self._jobs)
        return self._n_running + sum(min(len(job.waiting), MOST_WINDOWS_OF_ONE) for job in self._jobs)

    def _take_off(self, admission: Admission) -> list[Job]:
        """Take the jobs off the queue that would wait too long; those that were begun stay. The lock is held."""
        taken = []
        ahead = self._running_tokens
        for job in list(self._jobs):
            is_begun = len(job.waiting) < len(job.windows)
            if is_begun or not admission.is_long(
                self._rates.seconds_for(ahead), self._rates.seconds_for(job.n_tokens)
            ):
                ahead += sum(len(job.windows[w].ids) for w in job.waiting)
            else:
                self._forget(job)
                taken.append(job)
        return taken

    def _note_idle(self, now: float) -> None:
        """Take note that a job need not wait, if that is so; the lock is held."""
        if (admission := self._admission) is not None and admission.is_overload and self.is_idle:
            admission.note_idle(now - self._last_end if not self._n_busy else 0.0)

    def _work(self) -> None:
        """Serve until told to end and nothing waits."""
        if self._niceness and sys.platform == "linux":  # elsewhere niceness belongs to whole processes
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        own: queue.SimpleQueue[None] = queue.SimpleQueue()
        since = time.monotonic()
        while True:
            while batch := self._take_batch():
                since = self._run_batch(batch, since)
            with self._lock:
                now = time.monotonic()
                n_expected = self._awaited(now) if self._jobs else 0
                if (self._jobs and not n_expected) or self._ahead is not None:  # since the look above
                    continue
                if self._is_draining:
                    return
                self._parked.append(own)
                self._n_gathering += n_expected > 0
            if n_expected:
                self._gather(own, n_expected, self._returns.seconds_left(now))
            else:
                own.get()
            since = time.monotonic()

    def _gather(self, own: queue.SimpleQueue[None], n_expected: int, seconds: float) -> None:
        """Wait, parked, until enough of the expected windows have come, or `seconds` have passed."""
        with contextlib.suppress(queue.Empty):
            own.get(timeout=seconds)
        with self._lock:
            self._n_gathering -= 1
            is_late = own in self._parked  # nobody woke this thread
            if is_late:
                self._parked.remove(own)
            self._returns.note_wait(n_expected, came=not is_late)
        with contextlib.suppress(queue.Empty):
            own.get_nowait()  # woken between the two

    def _awaited(self, now: float) -> int:
        """Return the windows that a call should wait for, 0 when it has its even share; the lock is held."""
        expected = self._returns.expected(now)
        if not expected or self._is_draining:
            return 0
        n_all = self._n_waiting + self._n_running + expected
        is_enough = self._n_waiting * len(self._threads) >= n_all
        return 0 if is_enough or fills_batch(self._n_waiting, self._queued_tokens, self._policy) else expected

    def _take_batch(self) -> Batch | None:
        """Take the windows of the next model call off the queue; None when there is nothing to do."""
        expired: list[Job] = []
        with self._lock:
            if self._ahead is not None:
                ahead, self._ahead = self._ahead, None
                self._n_busy += 1
                return ahead
            now = time.monotonic()
            while late := [job for job in self._candidates() if job.deadline <= now]:
                expired += self._expire(late)
            batch = self._choose(now) if self._jobs and not self._awaited(now) else []
            if batch:
                self._n_busy += 1
                if self._jobs:
                    self._wake_one()  # another thread may go on with the rest
            is_alone = self._n_busy == 1 and not (self._jobs or self._returns.expected(now))
            spread = is_alone and self._spreading.is_worthwhile
        if expired:
            self._report(self._deliver, expired)
        return Batch(batch, spread) if batch else None

    def _begin_ahead(self) -> threading.Event | None:
        """Have the next batch chosen and packed while this one runs, if it is full already."""
        pack, policy = self._pack, self._policy
        if pack is None or self._packer is None:
            return None
        if self._queued_tokens < policy.token_budget and len(self._jobs) < policy.max_batch_size:
            return None
        done = threading.Event()

        def choose_and_pack() -> None:
            with self._lock:
                pairs = self._choose(time.monotonic()) if self._jobs else []  # they may have been cancelled
            if not pairs:
                return
            batch = Batch(pairs)
            try:
                batch = Batch(pairs, packed=pack(batch.windows))
            except Exception as error:  # noqa: BLE001 - `run` meets it again, and its batch fails of it
                log.debug("a batch was not packed ahead: %s", stack_of(error))
            with self._lock:
                self._ahead = batch

        def prepare() -> None:
            try:
                choose_and_pack()
            finally:  # a thread waits
                done.set()

        self._packer.post(prepare)
        return done

    def _candidates(self) -> list[Job]:
        """Return the jobs that the next batch is chosen from; the lock is held."""
        return list(islice(self._jobs, _LOOKAHEAD * self._policy.max_batch_size))

    def _expire(self, late: list[Job]) -> list[Job]:
        """Drop jobs whose deadline has passed; return those of which nothing runs any more."""
        for job in late:
            self._forget(job)
            job.error = DeadlineExceeded("the deadline passed while the request waited in the queue")
        return [job for job in late if not job.n_running]

    def _choose(self, now: float) -> list[tuple[Job, int]]:
        jobs = self._candidates()
        limit = _LOOKAHEAD * self._policy.max_batch_size
        order = list(fair_order([len(job.waiting) for job in jobs], limit))
        candidates = [(jobs[j], jobs[j].waiting[depth]) for j, depth in order]
        # All windows of a call share one set of outputs, so requests with and without logits do not mix.
        needs_logits = candidates[0][0].needs_logits
        candidates = [pair for pair in candidates if pair[0].needs_logits is needs_logits]
        # Leave the other threads their share.
        n_all = len(candidates) + self._n_running + self._returns.expected(now)
        share = math.ceil(n_all / len(self._threads))
        chosen = take([len(job.windows[w].ids) for job, w in candidates], self._policy, share)
        batch = [candidates[index] for index in chosen]
        for job, window_index in batch:
            job.waiting.remove(window_index)
            job.n_running += 1
            n_tokens = len(job.windows[window_index].ids)
            self._queued_tokens -= n_tokens
            self._n_waiting -= 1
            self._running_tokens += n_tokens
            self._n_running += 1
            if job.queue_seconds < 0:
                job.queue_seconds = now - job.submitted_at
        head = self._jobs.popleft()
        if head.waiting:
            self._jobs.append(head)  # its turn is over: many windows must not hold up other requests
        for job in {id(job): job for job, _ in batch}.values():
            if not job.waiting and job is not head:
                self._jobs.remove(job)
        return batch

    def _run_batch(self, batch: Batch, since: float) -> float:
        """Run a batch and settle its jobs; returns when the model was done with it.

        since: when this thread was done with the batch before, or woke up.
        """
        windows = batch.windows
        ahead = self._begin_ahead()
        started = time.monotonic()
        results: list[TokenScores] = []
        failure: Exception | None = None
        more = {} if batch.packed is None else {"packed": batch.packed}
        try:
            results = self._run(windows, batch.pairs[0][0].needs_logits, batch.spread, **more)
        except Exception as error:  # noqa: BLE001 - whatever the device raises must reach its waiters
            log.error("a batch of %d windows failed: %s", len(windows), stack_of(error))
            failure = error
        now = time.monotonic()
        if ahead is not None:
            ahead.wait()
        seconds = now - started
        lengths = [len(window.ids) for window in windows]
        n_tokens = sum(lengths)
        with self._lock:
            self._n_busy -= 1
            self._last_end = now
            self._running_tokens -= n_tokens
            self._n_running -= len(windows)
            if failure is None:
                self._n_calls += 1
                n_beside = 1 if batch.spread else len(self._threads)
                self._rates.note_call(n_tokens, now - since, n_beside)
            finished = self._settle(batch.pairs, results, failure, now)
            if isinstance(failure, DeviceFailed):
                finished += self._abandon(str(failure))
            if self._gathers:
                self._returns.note_answers(now, sum(len(job.windows) for job in finished), seconds)
        if self._on_batch is not None and failure is None:
            n_padded = cost(lengths, self._policy)
            n_threads = len(self._threads) if batch.spread else 1
            self._report(self._on_batch, len(windows), n_tokens, n_padded - n_tokens, seconds, n_threads)
        if finished:
            self._report(self._deliver, finished)
            with self._lock:
                self._returns.note_sent(time.monotonic())
        return now

    @staticmethod
    def _report(callback: Callable[P, None], *arguments: P.args, **keywords: P.kwargs) -> None:
        """Call `deliver` or `on_batch`; a thread that died of their defects would stall every later job."""
        try:
            callback(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - a thread that died of it would stall every later job
            log.error("a defect in %s: %s", getattr(callback, "__qualname__", callback), stack_of(error))

    def _settle(
        self, batch: list[tuple[Job, int]], results: list[TokenScores], failure: Exception | None, now: float
    ) -> list[Job]:
        """Write results or failures into the jobs of a batch; return the jobs that are finished."""
        finished = []
        for position, (job, window_index) in enumerate(batch):
            job.n_running -= 1
            if failure is None:
                job.results[window_index] = results[position]
            elif job.error is None:
                self._forget(job)
                if isinstance(failure, DeviceFailed):
                    job.error = DeviceFailed(str(failure))
                else:
                    job.error = InferenceFailed("the model could not compute this request")
                job.error.__cause__ = failure
            if not job.n_running and not job.waiting:
                job.inference_seconds = now - job.submitted_at - job.queue_seconds
                finished.append(job)
        return finished

    def _abandon(self, reason: str) -> list[Job]:
        """Fail all that waits, admit nothing more; return the jobs of which nothing runs. The lock is held."""
        self._refusal = failure = DeviceFailed(reason)
        finished = []
        if self._ahead is not None:
            finished = self._settle(self._ahead.pairs, [], failure, time.monotonic())
            self._ahead = None
        waiting = list(self._jobs)
        for job in waiting:
            self._forget(job)
            job.error = DeviceFailed(reason)
        return finished + [job for job in waiting if not job.n_running]

    def _forget(self, job: Job) -> None:
        """Take a job's waiting windows off the queue; the lock is held."""
        if job.waiting:
            self._queued_tokens -= sum(len(job.windows[w].ids) for w in job.waiting)
            self._n_waiting -= len(job.waiting)
            job.waiting.clear()
            self._jobs.remove(job)
