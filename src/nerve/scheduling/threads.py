"""A thread that does what it is told, one thing after the other.

CUDA graphs, and what onnxruntime keeps beside them, belong to the thread that captured them. So a session
on the GPU is created, warmed up and run on one `EngineThread`: the loader calls it, and the scheduler
then puts its own loop there.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, TypeVar

from nerve.errors import stack_of

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

T = TypeVar("T")


class EngineThread:
    """A daemon thread that runs what is posted, in order. Any thread may call its methods."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def post(self, work: Callable[[], None]) -> None:
        """Have `work` done there. What it raises is logged, and the thread goes on."""
        self._work.put(work)

    def call(self, work: Callable[[], T]) -> T:
        """Have `work` done there and return its result, or raise what it raised. Blocks."""
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001 - it is raised again where it belongs
                errors.append(error)
            done.set()

        self.post(run)
        done.wait()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """Finish what was posted and end the thread. Blocks."""
        self._work.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - what is posted later is others' work
                log.error("a defect on %s: %s", threading.current_thread().name, stack_of(error))
            del work  # what it holds is not kept until the next one comes
