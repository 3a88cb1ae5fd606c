"""A Ray cluster answers: one model for each core, or for each GPU, loaded once; needs the extra `ray`.

The process that runs the command reads and writes; the cluster gets texts and gives answers, so nothing but the
checkpoint must be reachable from its nodes. A worker that is lost takes no text with it: what it had not answered goes
to another, and a new one is started in its place. One thread uses all of it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.config import Device
from nerve.corpus.answers import Facts, Task, answer_here, facts_of, labels_of
from nerve.corpus.batches import batches_of, in_order
from nerve.corpus.records import Answer, Refused
from nerve.errors import NerveError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from nerve.config import Config

# The text, what was found as JSON, and how often which label; or why it was refused.
_Packed = tuple[str | None, bytes, dict[str, int]] | str

log = logging.getLogger(__name__)

# A batch has enough texts that the model finds many of one length, and little enough that a lost one costs little.
_TEXTS_PER_BATCH = 512
_CHARACTERS_PER_BATCH = 64_000
# Batches that a worker has: one that it answers, and the next ones.
_PER_WORKER = 3
# Batches on their way or waiting for their turn to be written, for each worker.
_AHEAD = 6
# A text that ends its worker as often is a bad row.
_MOST_DEATHS = 3
_LOOK_SECONDS = 1.0
_KNOCK_SECONDS = 10.0
_TELL_SECONDS = 60.0


def import_ray() -> Any:
    """Return the module. Raises `ModuleNotFoundError` where it is not installed; the nodes need it, too."""
    import ray  # noqa: PLC0415 - an extra
    import ray.exceptions  # noqa: PLC0415

    return ray


def _knock(address: str | None) -> None:
    """Raise `NerveError` where nobody listens: Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NerveError(f"cannot reach the Ray cluster {address}: {reason}") from None


class Worker:
    """What runs on a node: one model, which answers one batch after the other."""

    def load(self, config: Config, threads: int, device: str) -> Facts:
        """Load the model; returns what it says of itself. Raises `NerveError`s."""
        from nerve.api import load_classifier, override  # noqa: PLC0415 - on the node

        changed: dict[str, dict[str, Any]] = {"cpu": {"threads": threads}, "model": {"device": device}}
        self._classifier = load_classifier(override(config, changed))
        return facts_of(self._classifier)

    def answer(self, task: Task, texts: list[str]) -> list[_Packed]:
        """Answer a batch, the shortest texts first, so that texts of one length are computed together."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        answers: list[Any] = [None] * len(texts)
        asked = (texts[index] for index in order)
        for index, answer in zip(order, answer_here(self._classifier, task, asked), strict=True):
            answers[index] = _pack(answer, task.wants_found)
        return answers


def _pack(answer: Answer | Refused, wants_found: bool) -> _Packed:
    """Return an answer as it travels: what was found as JSON, which is what is written mostly."""
    if isinstance(answer, Refused):
        return answer.reason
    found = msgspec.json.encode(answer.found) if wants_found else b"[]"
    return answer.text, found, dict(labels_of(answer))


def _unpack(packed: _Packed) -> Answer | Refused:
    if isinstance(packed, str):
        return Refused(packed)
    text, found, labels = packed
    return Answer(text, msgspec.Raw(found), labels)


class _Sent:
    """A batch on its way."""

    def __init__(self, cluster: Cluster, task: Any, texts: list[str]) -> None:
        self.task = task
        self.texts = texts
        self.n_deaths = 0
        self.answers: list[Answer | Refused] | None = None
        self.parts: list[_Sent] = []
        self._cluster = cluster

    def result(self) -> list[Answer | Refused]:
        """See `Pending`."""
        while self.answers is None:
            if self.parts:
                return [answer for part in self.parts for answer in part.result()]
            self._cluster.look()
        return self.answers

    def cancel(self) -> None:
        """See `Pending`."""
        self._cluster.forget(self)


class _Seat:
    """A worker, or one that is being started."""

    def __init__(self, actor: Any, loaded: Any) -> None:
        self.actor = actor
        self.loaded = loaded
        self.is_ready = False
        self.sent: dict[Any, _Sent] = {}


class Cluster:
    """The workers of a cluster; see the module.

    address: as `ray.init` takes it; None for the cluster that this machine belongs to, or else one on this machine.
    Raises `NerveError` where there is none, or a model cannot be loaded.
    """

    def __init__(self, address: str | None, config: Config) -> None:
        self._ray = ray = import_ray()
        self._config = config
        self._was_open = ray.is_initialized()
        if not self._was_open:
            _knock(address)
            own = {"include_dashboard": False} if address in {None, "local"} else {}
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                raise NerveError(f"cannot reach the Ray cluster {address or ''}: {error}".strip()) from None
        resources = ray.cluster_resources()
        self._uses_gpus = config.model.device is not Device.CPU and resources.get("GPU", 0) >= 1
        if config.model.device is Device.CUDA and not self._uses_gpus:
            raise NerveError("model.device: the Ray cluster has no GPU; start its nodes with --num-gpus")
        self.n_workers = max(1, int(resources.get("GPU" if self._uses_gpus else "CPU", 1)))
        self._seats: list[_Seat] = []
        self._backlog: deque[_Sent] = deque()
        self._facts: Facts | None = None
        self._told = time.monotonic()
        for _ in range(self.n_workers):
            self._start()

    @property
    def facts(self) -> Facts:
        """What the model says of itself; waits until one is loaded."""
        while self._facts is None:
            self.look()
        return self._facts

    def answer(self, task: Task, texts: Iterable[str]) -> Generator[Answer | Refused, None, None]:
        """Answer every text, in order."""
        there = self._ray.put(task)
        batches = batches_of(texts, _TEXTS_PER_BATCH, _CHARACTERS_PER_BATCH)
        yield from in_order(batches, lambda batch: self._send(there, batch), lambda: _AHEAD * self.n_workers)

    def look(self) -> None:
        """Wait a moment for something to come back, and hand out what waits."""
        refs = [seat.loaded for seat in self._seats if not seat.is_ready]
        refs += [ref for seat in self._seats for ref in seat.sent]
        done, _ = self._ray.wait(refs, num_returns=1, timeout=_LOOK_SECONDS, fetch_local=True)
        for seat in list(self._seats):
            for ref in done:
                if ref == seat.loaded or ref in seat.sent:
                    self._take(seat, ref)
        self._hand_out()
        self._tell()

    def forget(self, sent: _Sent) -> None:
        """Drop a batch that nobody waits for."""
        with contextlib.suppress(ValueError):
            self._backlog.remove(sent)

    def close(self) -> None:
        """End the workers, and leave the cluster."""
        for seat in self._seats:
            self._ray.kill(seat.actor)
        if not self._was_open:
            self._ray.shutdown()

    def _send(self, task: Any, texts: list[str]) -> _Sent:
        sent = _Sent(self, task, texts)
        self._backlog.append(sent)
        self._hand_out()
        return sent

    def _start(self) -> None:
        kind = {"num_cpus": 1, "num_gpus": 1} if self._uses_gpus else {"num_cpus": 1}
        actor = self._ray.remote(Worker).options(**kind, scheduling_strategy="SPREAD").remote()
        device = "cuda" if self._uses_gpus else "cpu"
        self._seats.append(_Seat(actor, actor.load.remote(self._config, 1, device)))

    def _take(self, seat: _Seat, ref: Any) -> None:
        """Take what came back; or, where it is lost with its worker, have it done again."""
        errors = self._ray.exceptions
        try:
            value = self._ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, NerveError) else error
            raise NerveError(f"a node of the cluster: {cause}") from None
        except errors.RayError as error:
            self._lose(seat, error)
            return
        if ref == seat.loaded:
            seat.is_ready = True
            self._facts = value
        else:
            seat.sent.pop(ref).answers = [_unpack(packed) for packed in value]

    def _lose(self, seat: _Seat, error: Exception) -> None:
        if seat not in self._seats:
            return
        log.warning("a worker was lost (%s); what it had is answered by others", type(error).__name__)
        self._seats.remove(seat)
        with contextlib.suppress(Exception):
            self._ray.kill(seat.actor)
        # The oldest is the one that it had begun; the others only waited behind it.
        for index, sent in reversed(list(enumerate(seat.sent.values()))):
            sent.n_deaths += index == 0
            self._backlog.appendleft(sent)
        if self._backlog and self._backlog[0].n_deaths >= _MOST_DEATHS:
            self._isolate(self._backlog.popleft())
        self._start()

    def _isolate(self, sent: _Sent) -> None:
        """Give up a text that ends whoever answers it, and answer the others of its batch one by one."""
        if len(sent.texts) == 1:
            sent.answers = [Refused(f"the process that answered it died {sent.n_deaths} times")]
            return
        singles = [_Sent(self, sent.task, [text]) for text in sent.texts]
        self._backlog.extendleft(reversed(singles))
        sent.parts = singles

    def _hand_out(self) -> None:
        free = [seat for seat in self._seats if seat.is_ready and len(seat.sent) < _PER_WORKER]
        while self._backlog and free:
            seat = min(free, key=lambda seat: len(seat.sent))
            sent = self._backlog.popleft()
            seat.sent[seat.actor.answer.remote(sent.task, sent.texts)] = sent
            if len(seat.sent) >= _PER_WORKER:
                free.remove(seat)

    def _tell(self) -> None:
        """Say from time to time that nobody can answer."""
        now = time.monotonic()
        if any(seat.is_ready for seat in self._seats):
            self._told = now
        elif now - self._told > _TELL_SECONDS:
            self._told = now
            log.warning("no worker is ready: the nodes load the model, or have no free core")
