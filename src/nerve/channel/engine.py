"""The loop of the process that owns a device: takes jobs of all fronts, runs their windows together, sends scores.

One thread does it all, since a device has one owner: read what has come, let the queue choose, run, write what is
finished. Between steps nothing waits for another thread, and with nothing to do it sleeps until a front wakes it. A
second thread (`greet`) meets fronts that connect and notices those that end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve.channel.messages import Inbox, read_job, write_scores
from nerve.channel.segment import make_status, map_status, offer_segment
from nerve.errors import DeviceFailed, stack_of
from nerve.scheduling.batching import Job, cost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.channel.segment import Segment
    from nerve.scheduling.batching import Batch
    from nerve.scheduling.queue import Queue
    from nerve.types import TokenScores, Window

log = logging.getLogger(__name__)

# While scores wait for room in the memory of a front that does not read, it is looked at so often.
_RETRY_SECONDS = 0.005
# After a defect of the loop itself, which may come again at once.
_PAUSE_SECONDS = 0.1


class _Front:
    """One front, as the engine has it. Used by the loop alone, but for `is_gone`."""

    def __init__(self, segment: Segment, connection: socket.socket) -> None:
        self.segment = segment
        self._connection = connection
        self.is_gone = False
        self.jobs: dict[int, Job] = {}  # by number
        self._inbox = Inbox()
        self._unsent = b""

    @property
    def has_unsent(self) -> bool:
        """Tell whether scores wait for room."""
        return bool(self._unsent)

    def receive(self) -> list[tuple[int, Job | None]]:
        """Return what has come: jobs by number, None for one that nobody waits for any more."""
        content = self.segment.jobs.read()
        if not content:
            return []
        found: list[tuple[int, Job | None]] = []
        for message in self._inbox.cut(content):
            submitted = read_job(message)
            job = None
            if submitted.windows is not None:
                job = Job(submitted.windows, submitted.needs_logits, submitted.deadline)
                job.number = submitted.number
            found.append((submitted.number, job))
        return found

    def leave(self) -> None:
        """Let the front see that it is served no more, and give its memory back."""
        self.is_gone = True
        with contextlib.suppress(OSError):  # it has ended by itself
            self._connection.shutdown(socket.SHUT_RDWR)
        self.segment.close()

    def send(self, content: bytes) -> bool:
        """Write messages, and wake the front; what there is no room for waits. Returns whether all was written."""
        if self.is_gone:
            return True
        content = self._unsent + content if self._unsent else content
        n_written = self.segment.scores.write(content)
        self._unsent = content[n_written:]
        if n_written:
            os.eventfd_write(self.segment.to_front, 1)
        return not self._unsent


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop calls, on its thread.

    on_batch: after each batch, with its windows, tokens, padding, seconds, and 1. on_queue: with tokens and jobs that
        wait.
    on_failure: when the device has failed for good, after all have been told.
    probe: when nothing came for `probe_seconds`; raises when the model does not compute. None for never.
    """

    on_batch: Callable[[int, int, int, float, int], None]
    on_queue: Callable[[int, int], None]
    on_failure: Callable[[str], None]
    probe: Callable[[], object]
    probe_seconds: float | None


class EngineLoop:
    """Serves all fronts with one queue.

    run: computes windows, as `Backend.run`; called on the thread that calls `serve`.
    listener: where fronts connect. greeting: what they are told of the model.
    """

    def __init__(
        self,
        jobs: Queue,
        run: Callable[[Sequence[Window], bool, bool], list[TokenScores]],
        listener: socket.socket,
        greeting: bytes,
        hooks: Hooks,
    ) -> None:
        self._queue = jobs
        self._run = run
        self._listener = listener
        self._greeting = greeting
        self._hooks = hooks
        self._event = os.eventfd(0)
        self._waiting = select.poll()
        self._waiting.register(self._event, select.POLLIN)
        self._status_file = make_status()
        self._status = map_status(self._status_file)
        self._fronts: tuple[_Front, ...] = ()
        self._owners: dict[Job, _Front] = {}
        self._lock = threading.Lock()  # of `_fronts`
        self._is_blocked = False  # scores wait for room
        self._is_closing = False
        self.busy_since: float | None = None  # `time.monotonic()` at which the call that runs began

    def close(self) -> None:
        """End `serve` once no front is left. Any thread may call this."""
        self._is_closing = True
        os.eventfd_write(self._event, 1)

    # Fronts that come and go; on a thread of its own.

    def greet(self) -> None:
        """Meet fronts that connect, and notice those that end; returns never."""
        waiting = selectors.DefaultSelector()
        waiting.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.data is None:
                    self._meet(waiting)
                else:
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr] # a socket
                    key.data.is_gone = True
                    os.eventfd_write(self._event, 1)

    def _meet(self, waiting: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # no descriptor is left; the front waits
            log.warning("a front cannot be greeted now: %s", error.strerror)
            time.sleep(_PAUSE_SECONDS)
            return
        try:
            front = _Front(
                offer_segment(connection, self._greeting, self._status_file, self._event), connection
            )
        except OSError as error:
            log.warning("a front has left while it was greeted: %s", error.strerror)
            connection.close()
            return
        with self._lock:
            self._fronts = (*self._fronts, front)
        waiting.register(connection, selectors.EVENT_READ, front)

    # The loop.

    def serve(self) -> None:
        """Serve until `close` and the last front has left; a defect breaks off a turn, not the loop."""
        while True:
            try:
                if self._turn():
                    return
            except BaseException as error:  # noqa: BLE001 - without this thread no later job would run
                log.error("a defect in the engine's loop: %s", stack_of(error))
                self.busy_since = None
                time.sleep(_PAUSE_SECONDS)

    def _turn(self) -> bool:
        """Take what has come and run one batch, or sleep; returns whether to end."""
        self._receive()
        since = time.monotonic()
        expired = self._queue.expire(since)
        if expired:
            self._answer(expired)
        batch = self._queue.choose(since)
        if batch is not None:
            self._run_batch(batch, since)
            return False
        self._tell()
        if self._is_closing and not self._fronts:
            return True
        self._sleep()
        return False

    def _receive(self) -> None:
        self._is_blocked = False
        for front in self._fronts:
            if front.is_gone:
                self._drop(front)
                continue
            try:
                found = front.receive()
            except (ValueError, IndexError) as error:
                log.error("a front writes what is no message; it is not served any more: %s", stack_of(error))
                self._drop(front)
                continue
            refused = []
            for number, job in found:
                if job is None:
                    self._cancel(front, number)
                    continue
                job.error = self._queue.admit(job, time.monotonic())
                if job.error is None:
                    front.jobs[number] = job
                    self._owners[job] = front
                else:
                    refused.append(write_scores(number, job))
            if refused or front.has_unsent:
                self._is_blocked |= not front.send(b"".join(refused))

    def _cancel(self, front: _Front, number: int) -> None:
        job = front.jobs.pop(number, None)
        if job is not None:
            self._queue.forget(job)
            self._owners.pop(job, None)

    def _drop(self, front: _Front) -> None:
        """Forget a front and its jobs; what runs of them ends without effect."""
        with self._lock:
            self._fronts = tuple(one for one in self._fronts if one is not front)
        for number in list(front.jobs):
            self._cancel(front, number)
        front.leave()
        log.info("a front has left; %d are served", len(self._fronts))

    def _run_batch(self, batch: Batch, since: float) -> None:
        windows = batch.windows
        outcome: list[TokenScores] | Exception
        started = self.busy_since = time.monotonic()
        try:
            outcome = self._run(windows, batch.needs_logits, batch.spread)
        except Exception as error:  # noqa: BLE001 - whatever the device raises must reach its waiters
            log.error("a batch of %d windows failed: %s", len(windows), stack_of(error))
            outcome = error
        now = time.monotonic()
        self.busy_since = None
        finished = self._queue.settle(batch, outcome, started, now, since)
        self._answer(finished)
        if isinstance(outcome, DeviceFailed):
            self._hooks.on_failure(str(outcome))
        if not isinstance(outcome, Exception):
            n_tokens = batch.n_tokens
            policy = self._queue.policy
            n_padded = n_tokens if policy.is_packed else cost([len(window.ids) for window in windows], policy)
            self._hooks.on_batch(len(windows), n_tokens, n_padded - n_tokens, now - started, 1)
            self._tell()

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Send the outcome of finished jobs, all those of one front together."""
        outgoing: dict[_Front, list[bytes]] = {}
        for job in jobs:
            front = self._owners.pop(job, None)
            if front is None:
                continue  # nobody waits for it any more
            del front.jobs[job.number]
            outgoing.setdefault(front, []).append(write_scores(job.number, job))
        for front, messages in outgoing.items():
            self._is_blocked |= not front.send(b"".join(messages))

    def _tell(self) -> None:
        """Let fronts know how full the queue is, so that they refuse early, and that calls end."""
        pressure = self._queue.pressure()
        self._status[0] = self._queue.n_calls
        for index, value in enumerate(pressure, 1):
            self._status[index] = value
        self._hooks.on_queue(self._queue.tokens, len(self._queue))

    def _sleep(self) -> None:
        """Wait for a front; now and then see whether the model still computes."""
        seconds = _RETRY_SECONDS if self._is_blocked else self._hooks.probe_seconds
        if seconds is None or self._waiting.poll(1000 * seconds):
            os.eventfd_read(self._event)
            return
        if self._is_blocked:
            return
        self.busy_since = time.monotonic()
        try:
            self._hooks.probe()
        except Exception as error:  # noqa: BLE001 - whatever it is, requests fare no better
            log.error("the model does not compute any more: %s", stack_of(error))
            self._hooks.on_failure("the model does not compute any more")
        self.busy_since = None
