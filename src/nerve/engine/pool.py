"""A small thread pool for what would hold up others where it arises: longer texts, longer answers."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

from nerve.errors import Overloaded, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 2
# Work that may wait before a text that is not tokenized yet is refused: its tokens are not counted, so the queue
# cannot refuse it. Work on requests that were admitted is never refused.
_MOST_WAITING = 64


class Pool:
    """Runs work on threads of its own; any thread may call its methods.

    Raises `RuntimeError` when the threads cannot be started: later, that would look like a pool that is closed.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="nerve-pool")
        _start_all(self._executor)
        self._lock = threading.Lock()
        self._n_waiting = 0  # tasks that have not ended
        self._last_seconds = 1.0  # of the work that ended last

    def check(self) -> None:
        """Raise `Overloaded` when too much waits."""
        if self._n_waiting >= _MOST_WAITING:
            raise Overloaded(
                f"{_MOST_WAITING} large requests wait for a thread, the most that may; send the request again later",
                self._last_seconds,
                reason="pool",
            )

    def run(
        self,
        work: Callable[[], T],
        then: Callable[[T], object],
        fail: Callable[[Exception], object],
        begin: Callable[[Callable[[], object]], bool] = lambda drop: True,
    ) -> Task[T] | None:
        """Run `work` and give its result to `then`, or its error to `fail`, on the same thread.

        Once the pool is closed all that happens here and now: what was admitted is answered. Work that has
        not begun is dropped when the returned task is cancelled. begin: is given what drops the work, and tells
        whether it may begin (`Cancel.begin`).
        """
        task = Task(self, work, then, fail)
        if not begin(task.cancel):
            return None
        with self._lock:
            self._n_waiting += 1
        try:
            self._executor.submit(task.run)
        except RuntimeError:  # closed
            task.run()
            return None
        return task

    def close(self) -> None:
        """Finish what was given and end the threads. Blocks."""
        self._executor.shutdown()

    def note_end(self, seconds: float | None = None) -> None:
        """Take note that a task has ended, or was dropped; seconds: that its work took."""
        with self._lock:
            self._n_waiting -= 1
            if seconds is not None:
                self._last_seconds = seconds


class Task(Generic[T]):
    """Work of the pool. Once it is dropped it holds nothing, though it waits for its turn as before."""

    __slots__ = ("_parts", "_pool")

    def __init__(
        self,
        pool: Pool,
        work: Callable[[], T],
        then: Callable[[T], object],
        fail: Callable[[Exception], object],
    ) -> None:
        self._pool = pool
        self._parts = [(work, then, fail)]  # a list, because its `pop` is atomic

    def cancel(self) -> bool:
        """Drop the work; False when it has begun, or was dropped before."""
        try:
            self._parts.pop()
        except IndexError:
            return False
        self._pool.note_end()
        return True

    def run(self) -> None:
        """Do the work, unless it was dropped."""
        try:
            work, then, fail = self._parts.pop()
        except IndexError:
            return
        try:
            self._do(work, then, fail)
        except BaseException as error:  # noqa: BLE001 - nobody looks at what the executor keeps of it
            log.error("a defect on the thread pool: %s", stack_of(error))

    def _do(
        self, work: Callable[[], T], then: Callable[[T], object], fail: Callable[[Exception], object]
    ) -> None:
        seconds = None
        started = time.monotonic()
        try:
            result = work()
            seconds = time.monotonic() - started
            then(result)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            if seconds is not None:  # it is a defect of `then`
                log.error("a defect on the thread pool: %s", stack_of(error))
            fail(error)
        except BaseException:  # a panic of a Rust library, say
            fail(RuntimeError("the work on a thread of the pool broke off"))
            raise
        finally:
            self._pool.note_end(seconds)


def _start_all(executor: ThreadPoolExecutor) -> None:
    """Start every thread of an executor, which would start each when it is needed."""
    together = threading.Barrier(_THREADS + 1)
    try:
        for _ in range(_THREADS):
            executor.submit(together.wait)
        together.wait()
    except BaseException:
        together.abort()
        raise
