"""A lane whose model runs in another process: what an engine submits goes there, and its scores come back.

One thread (`nerve-answers`) waits for scores and delivers them, and notices that the other process has ended. Then
what is under way fails, nothing more is admitted, and the thread waits for the next one.

Threads: any may call the methods of `FrontLane`.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve.channel.messages import Inbox, read_answer, read_scores, write_cancel, write_job
from nerve.channel.segment import accept_segment
from nerve.errors import DeviceFailed, PredictError, Unavailable, stack_of
from nerve.scheduling.pressure import Pressure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nerve.channel.segment import Segment
    from nerve.errors import Overloaded
    from nerve.scheduling.batching import Job

log = logging.getLogger(__name__)

# While jobs wait for room in the engine's memory, it is looked at so often.
_RETRY_SECONDS = 0.002
_ENDED = "the process that runs the model has ended, and another one starts; send the request again later"


class Link:
    """A connection to the engine: its memory, and what it has said of its model. Raises `OSError` when it ends."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(path))
            self.greeting, self.segment = accept_segment(self.socket)
        except BaseException:
            self.socket.close()
            raise
        self.inbox = Inbox()
        self.unsent: deque[bytes] = deque()

    def close(self) -> None:
        """Let go of the engine's memory."""
        self.socket.close()
        self.segment.close()


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a model runs.

    link: to the engine. connect: waits for the next engine when that one has ended; raises `OSError` to give up.
    """

    link: Link
    connect: Callable[[], Link]


class FrontLane:
    """Takes jobs as `Lane` does.

    deliver: called with the jobs that have ended.
    on_state: told whether there is an engine, when that changes.
    max_tokens, max_seconds: limits of the queue.
    """

    def __init__(
        self,
        remote: Remote,
        deliver: Callable[[list[Job]], None],
        on_state: Callable[[bool], None],
        max_tokens: int,
        max_seconds: float,
    ) -> None:
        self._link: Link | None = remote.link
        self._connect = remote.connect
        self._deliver = deliver
        self._on_state = on_state
        self._max_tokens = max_tokens
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._pending: dict[int, Job] = {}
        self._n_jobs = 0
        self._closed: PredictError | None = None
        self._is_empty = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._serve, name="nerve-answers", daemon=True)
        self._thread.start()

    # Those who submit.

    queued_tokens = 0  # the engine counts what waits
    queued_requests = 0

    @property
    def n_calls(self) -> int:
        """Batches that the engine has run."""
        link = self._link
        return int(link.segment.status[0]) if link is not None else 0

    def is_idle(self) -> bool:
        """Tell whether nothing is under way from here."""
        return not self._pending

    def why_full(self, deadline: float, n_tokens: int = 1) -> Overloaded | None:
        """Return why any job with this deadline and `n_tokens` would be refused, as the engine told last; or None."""
        link = self._link
        if link is None or not link.segment.status[1]:
            return None
        pressure = Pressure(*link.segment.status[1 : 1 + len(Pressure._fields)])
        return pressure.why_full(self._max_tokens, self._max_seconds, deadline - time.monotonic(), n_tokens)

    def submit(self, job: Job) -> None:
        """Send a job to the engine; raises `Unavailable`. The engine may refuse it later, as it delivers."""
        with self._lock:
            link = self._link
            if self._closed is not None:
                raise type(self._closed)(str(self._closed))
            if link is None:
                raise Unavailable(_ENDED)
            self._n_jobs += 1
            job.number = self._n_jobs
            job.submitted_at = time.monotonic()
            self._pending[job.number] = job
            self._send(link, write_job(job.number, job))

    def cancel(self, job: Job) -> None:
        """Tell the engine that nobody waits for a job."""
        with self._lock:
            if self._pending.pop(job.number, None) is not None and self._link is not None:
                self._send(self._link, write_cancel(job.number))
            self._is_empty.notify_all()

    def fail(self, reason: str) -> None:
        """Fail what is under way, and admit nothing more."""
        with self._lock:
            self._closed = DeviceFailed(reason)
            failed = self._take_all()
        self._end(failed, DeviceFailed(reason))

    def drain(self) -> None:
        """Refuse new jobs, wait for those under way. Blocks."""
        with self._is_empty:
            self._closed = self._closed or Unavailable(
                "the server is shutting down; send the request to another one"
            )
            self._is_empty.wait_for(lambda: not self._pending)

    def _send(self, link: Link, content: bytes) -> None:
        """Write a message, or what fits of it; the lock is held."""
        link.unsent.append(content)
        self._flush(link)
        if link.unsent:
            os.eventfd_write(
                link.segment.to_front, 1
            )  # the thread that sends the rest may sleep without a limit

    def _flush(self, link: Link) -> None:
        n_written = 0
        while link.unsent:
            content = link.unsent[0]
            n_now = link.segment.jobs.write(content)
            n_written += n_now
            if n_now < len(content):
                link.unsent[0] = content[n_now:]
                break
            link.unsent.popleft()
        if n_written:
            os.eventfd_write(link.segment.to_engine, 1)

    # Those who wait.

    def _serve(self) -> None:
        link = self._link
        while link is not None:
            try:
                self._receive_all(link)
            except Exception as error:  # noqa: BLE001 - without this thread nobody would be answered
                log.error("a defect while scores were received: %s", stack_of(error))
            with self._lock:
                self._link = None
                failed = self._take_all()
                link.close()
            log.error("the process that runs the model has ended; %d requests are lost", len(failed))
            self._on_state(False)
            self._end(failed, Unavailable(_ENDED))
            link = self._next_link()

    def _next_link(self) -> Link | None:
        try:
            link = self._connect()
        except OSError:
            log.error("the server process is gone; no model will come")
            return None
        with self._lock:
            self._link = link
        log.info("there is a process that runs the model again")
        self._on_state(True)
        return link

    def _receive_all(self, link: Link) -> None:
        """Deliver what comes until the engine ends."""
        waiting = select.poll()
        waiting.register(link.segment.to_front, select.POLLIN)
        waiting.register(link.socket, select.POLLIN)
        has_ended = False
        while not has_ended:
            ready = dict(waiting.poll(1000 * _RETRY_SECONDS if link.unsent else None))
            has_ended = link.socket.fileno() in ready
            if link.segment.to_front in ready:
                os.eventfd_read(link.segment.to_front)
            if link.unsent:
                with self._lock:
                    self._flush(link)
            jobs = self._receive(link.segment, link.inbox)
            if jobs:
                self._hand_over(jobs)

    def _receive(self, segment: Segment, inbox: Inbox) -> list[Job]:
        jobs = []
        for message in inbox.cut(segment.scores.read()):
            answer = read_answer(message)
            with self._lock:
                job = self._pending.pop(answer.number, None)
                if self._closed is not None:  # `drain` may wait for it
                    self._is_empty.notify_all()
            if job is None:
                continue
            if answer.error is None:
                job.results = list(read_scores(answer, job.windows))
                job.queue_seconds, job.inference_seconds = answer.queue_seconds, answer.inference_seconds
            elif isinstance(answer.error, DeviceFailed):  # of that process, which ends; this one stays
                job.error = Unavailable(_ENDED)
            else:
                job.error = answer.error
            jobs.append(job)
        return jobs

    def _take_all(self) -> list[Job]:
        jobs = list(self._pending.values())
        self._pending.clear()
        self._is_empty.notify_all()
        return jobs

    def _end(self, jobs: list[Job], error: PredictError) -> None:
        for job in jobs:
            job.error = type(error)(str(error))
        if jobs:
            self._hand_over(jobs)

    def _hand_over(self, jobs: list[Job]) -> None:
        try:
            self._deliver(jobs)
        except Exception as error:  # noqa: BLE001 - what comes later belongs to others
            log.error("a defect while jobs were delivered: %s", stack_of(error))
