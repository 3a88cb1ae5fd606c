"""The threads that serve one queue, and the lock around it.

A `Job` is the windows of one request. Threads take batches across jobs (`queue` decides which), run them, and hand
finished jobs to `deliver`, once per batch. Batches form from what arrived meanwhile: an idle thread takes what
waits at once, unless the queue says that clients which were just answered are about to send again.

Threads: the methods and properties may be called from any thread. `run` and `deliver` are called from the lane's
threads; an exception in `deliver` is logged and does not end the thread. An idle thread parks on a queue of its own
(a wait in C, cheaper than a condition variable), after a last look under the lock: whenever windows wait, a thread
was woken or is about to look, or waits for a bounded time and will look then.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, ParamSpec

from nerve.errors import Unavailable, stack_of
from nerve.scheduling.batching import cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nerve.errors import Overloaded
    from nerve.scheduling.batching import Batch, Job
    from nerve.scheduling.queue import Queue
    from nerve.scheduling.threads import EngineThread
    from nerve.types import TokenScores, Window

log = logging.getLogger(__name__)

P = ParamSpec("P")

# After a defect of the lane itself, which may come again at once.
_PAUSE_SECONDS = 0.1
# For the calls that run while the interpreter ends. One on a device that hangs may never return.
_LEAVE_SECONDS = 5.0

_lanes: weakref.WeakSet[Lane] = weakref.WeakSet()


class Lane:
    """Serves a queue with threads of its own.

    run: computes windows, `(windows, needs_logits, spread) -> one TokenScores each`. `spread`: nothing else runs or
        waits here, or is likely to, so that the call may use the cores of all threads. Once it has raised
        `DeviceFailed`, all that was admitted is delivered with that error, and nothing more is admitted.
    deliver: called with the jobs that finished, all those of one batch together.
    threads: they run batches; closed at the end.
    on_batch: called after each batch with its windows, tokens, padding, seconds, and threads that it stands for.
    niceness: lowers the priority of the threads by so much, 0 to 19 (Linux).
    has_cores: tells whether a call may use the cores of all threads: nothing else computes on them.
    """

    def __init__(
        self,
        jobs: Queue,
        run: Callable[[Sequence[Window], bool, bool], list[TokenScores]],
        deliver: Callable[[list[Job]], None],
        threads: Sequence[EngineThread],
        on_batch: Callable[[int, int, int, float, int], None] | None = None,
        niceness: int = 0,
        has_cores: Callable[[], bool] = lambda: True,
    ) -> None:
        self._queue = jobs
        self._run = run
        self._deliver = deliver
        self._threads = threads
        self._on_batch = on_batch
        self._niceness = niceness
        self._has_cores = has_cores
        self._lock = threading.Lock()
        self._parked: list[queue.SimpleQueue[None]] = []  # of the threads that wait, each one's own
        self._n_gathering = 0  # of these, those that wait for a bounded time
        self._is_draining = False
        _lanes.add(self)
        for thread in threads:
            thread.post(self._work)

    @property
    def queued_tokens(self) -> int:
        """Tokens of windows that wait."""
        return self._queue.tokens

    @property
    def queued_requests(self) -> int:
        """Jobs of which windows wait."""
        return len(self._queue)

    def is_idle(self) -> bool:
        """Tell whether no call runs."""
        return self._queue.n_busy == 0

    @property
    def n_calls(self) -> int:
        """Batches that have succeeded so far."""
        return self._queue.n_calls

    def why_full(self, deadline: float, n_tokens: int = 1) -> Overloaded | None:
        """Return why any job with this deadline (`time.monotonic()`) and `n_tokens` would be refused now, or None."""
        if not len(self._queue):
            return None
        with self._lock:
            return self._queue.why_full(time.monotonic(), deadline, n_tokens)

    def submit(self, job: Job) -> None:
        """Admit a job whole, or raise `Overloaded`, `Unavailable` or `DeviceFailed`."""
        with self._lock:
            now = time.monotonic()
            refusal = self._queue.admit(job, now)
            if refusal is None and not (self._n_gathering and self._queue.awaited(now)):
                self._wake_one()
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # its traceback holds this frame, which would hold it

    def cancel(self, job: Job) -> None:
        """Drop the waiting windows of a job that nobody waits for.

        It may still be delivered, when some of its windows are running. Does nothing to a job that was
        never admitted.
        """
        with self._lock:
            self._queue.forget(job)

    def fail(self, reason: str) -> None:
        """Deliver `DeviceFailed` to all that waits, and admit nothing more. What runs may never end."""
        with self._lock:
            finished = self._queue.abandon(reason)
        if finished:
            self._report(self._deliver, finished)

    def drain(self) -> None:
        """Refuse new jobs, finish the admitted ones, end the threads. Blocks."""
        with self._lock:
            self._queue.close()
            self._is_draining = True
            while self._parked:
                self._wake_one()
        for thread in self._threads:
            thread.close()

    def leave(self) -> None:
        """Deliver `Unavailable` to all that waits, and admit nothing more; what runs goes on."""
        with self._lock:
            finished = self._queue.abandon("the interpreter ends", Unavailable)
        if finished:
            self._report(self._deliver, finished)

    def _wake_one(self) -> None:
        """Wake the thread that parked last, if any; the lock is held. Others look again by themselves.

        Its core is warm. With the threads in turns, lone calls took twice the time now and then, as if the threads of
        a call on all cores had met on one of them (docs/decisions/0007).
        """
        if self._parked:
            self._parked.pop().put(None)

    def _work(self) -> None:
        """Serve until told to end and nothing waits; a defect breaks off a turn, not the thread."""
        if self._niceness and sys.platform == "linux":  # elsewhere niceness belongs to whole processes
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                thread = threading.get_native_id()
                before = os.getpriority(os.PRIO_PROCESS, thread)  # of the process, which may be nice itself
                os.setpriority(os.PRIO_PROCESS, thread, before + self._niceness)
        own: queue.SimpleQueue[None] = queue.SimpleQueue()
        while True:
            try:
                self._serve(own)
                return
            except BaseException as error:  # noqa: BLE001 - without this thread no later job would run
                log.error("a defect on an engine thread: %s", stack_of(error))
                time.sleep(_PAUSE_SECONDS)

    def _serve(self, own: queue.SimpleQueue[None]) -> None:
        """Run batches, and park on `own` while there are none."""
        since = time.monotonic()
        while True:
            while (batch := self._take_batch()) is not None:
                since = self._run_batch(batch, since)
            with self._lock:
                now = time.monotonic()
                n_awaited = self._queue.awaited(now) if len(self._queue) else 0
                if len(self._queue) and not n_awaited:  # since the look above
                    continue
                if self._is_draining:
                    return
                self._parked.append(own)
                self._n_gathering += n_awaited > 0
            if n_awaited:
                self._gather(own, n_awaited, self._queue.seconds_to_wait(now))
            else:
                own.get()
            since = time.monotonic()

    def _gather(self, own: queue.SimpleQueue[None], n_awaited: int, seconds: float) -> None:
        """Wait, parked, until enough of the awaited windows have come, or `seconds` have passed."""
        with contextlib.suppress(queue.Empty):
            own.get(timeout=seconds)
        with self._lock:
            self._n_gathering -= 1
            is_late = own in self._parked  # nobody woke this thread
            if is_late:
                self._parked.remove(own)
            self._queue.note_wait(n_awaited, came=not is_late)
        with contextlib.suppress(queue.Empty):
            own.get_nowait()  # woken between the two

    def _take_batch(self) -> Batch | None:
        """Take the next batch off the queue; None when there is nothing to do."""
        with self._lock:
            now = time.monotonic()
            expired = self._queue.expire(now)
            batch = self._queue.choose(now, has_cores=self._has_cores())
            if batch is not None and len(self._queue):
                self._wake_one()  # another thread may go on with the rest
        if expired:
            self._report(self._deliver, expired)
        return batch

    def _run_batch(self, batch: Batch, since: float) -> float:
        """Run a batch and settle its jobs; returns when the model was done with it.

        since: when this thread was done with the batch before, or woke up.
        """
        windows = batch.windows
        outcome: list[TokenScores] | Exception
        started = time.monotonic()
        try:
            outcome = self._run(windows, batch.needs_logits, batch.spread)
        except Exception as error:  # noqa: BLE001 - whatever the device raises must reach its waiters
            log.error("a batch of %d windows failed: %s", len(windows), stack_of(error))
            outcome = error
        now = time.monotonic()
        with self._lock:
            finished = self._queue.settle(batch, outcome, started, now, since)
        if self._on_batch is not None and not isinstance(outcome, Exception):
            n_padded = cost([len(window.ids) for window in windows], self._queue.policy)
            n_threads = len(self._threads) if batch.spread else 1
            n_tokens = batch.n_tokens
            self._report(
                self._on_batch, len(windows), n_tokens, n_padded - n_tokens, now - started, n_threads
            )
        if finished:
            self._report(self._deliver, finished)
            with self._lock:
                self._queue.note_sent(time.monotonic())
        return now

    @staticmethod
    def _report(callback: Callable[P, None], *arguments: P.args, **keywords: P.kwargs) -> None:
        """Call `deliver` or `on_batch`; a thread that died of their defects would stall every later job."""
        try:
            callback(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - a thread that died of it would stall every later job
            log.error("a defect in %s: %s", getattr(callback, "__qualname__", callback), stack_of(error))


@atexit.register
def leave_all(lanes: Iterable[Lane] = _lanes) -> None:
    """Leave lanes, all at once, and wait for what runs on them: for the interpreter's end.

    A program need not drain them, and one that is interrupted twice cannot. Python ends a thread that comes back from
    a call after the interpreter, which C++ answers by aborting the process.
    """
    left = list(lanes)
    for lane in left:
        lane.leave()
    until = time.monotonic() + _LEAVE_SECONDS
    while not all(lane.is_idle() for lane in left) and time.monotonic() < until:
        time.sleep(_PAUSE_SECONDS / 10)


os.register_at_fork(after_in_child=_lanes.clear)  # it has no thread that could end a call
