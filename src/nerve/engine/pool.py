"""A small thread pool for what would hold up others where it arises: longer texts, longer answers."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

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
        self._n_waiting = 0
        self._last_seconds = 1.0  # of the work that ended last

    def check(self) -> None:
        """Raise `Overloaded` when too much waits."""
        if self._n_waiting >= _MOST_WAITING:
            raise Overloaded(
                "too many large requests wait; send the request again later",
                self._last_seconds,
                reason="pool",
            )

    def run(
        self, work: Callable[[], T], then: Callable[[T], None], fail: Callable[[Exception], None]
    ) -> Future[None] | None:
        """Run `work` and give its result to `then`, or its error to `fail`, on the same thread.

        Once the pool is closed all that happens here and now: what was admitted is answered. Work that has
        not begun is dropped when the returned future is cancelled.
        """

        def run() -> None:
            started = time.monotonic()
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                fail(error)
                return
            except BaseException:  # a panic in a Rust library is one
                fail(RuntimeError("the work broke off"))
                raise
            self._last_seconds = time.monotonic() - started
            try:
                then(result)
            except BaseException:
                with contextlib.suppress(BaseException):
                    fail(
                        RuntimeError("what follows the work broke off")
                    )  # does nothing where it was answered
                raise

        try:
            future = self._executor.submit(run)
        except RuntimeError:  # closed
            run()
            return None
        with self._lock:
            self._n_waiting += 1
        future.add_done_callback(self._end)
        return future

    def close(self) -> None:
        """Finish what was given and end the threads. Blocks."""
        self._executor.shutdown()

    def _end(self, future: Future[None]) -> None:
        with self._lock:
            self._n_waiting -= 1
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("a defect on the thread pool: %s", stack_of(error))


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
