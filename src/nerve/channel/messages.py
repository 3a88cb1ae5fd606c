"""What fronts and the engine write to each other: jobs and news that nobody waits any more; scores and refusals.

A message is a head and a body, of a multiple of 8 bytes, in the order of bytes of this machine.
T = tokens of all windows of a job, L = labels.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from nerve import errors
from nerve.errors import InferenceFailed, NerveError, Overloaded
from nerve.types import TokenScores, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nerve.scheduling.batching import Job

# Bytes of the message, kind, number of the job, deadline (CLOCK_MONOTONIC, which all processes share), 1 for logits,
# windows. Then the lengths of the windows and all token ids, int32.
_JOB = struct.Struct("=IIQdII")
# Bytes, kind, number, seconds in the queue and computing, labels (0 without logits), nothing. Then label ids, int64
# (T,); scores, float32 (T,); logits, float32 (T, L). Or a `_Refusal` as JSON.
_SCORES = struct.Struct("=IIQddII")
_SUBMIT, _CANCEL = 1, 2
_DONE, _REFUSED = 3, 4
_ALIGNMENT = 8


class Submitted(NamedTuple):
    """A job as the engine sees it; windows is None for one that nobody waits for any more."""

    number: int
    windows: list[Window] | None
    needs_logits: bool
    deadline: float


class Answered(NamedTuple):
    """The outcome of a job as its front sees it: either `error` or `body`, see `read_scores`."""

    number: int
    error: NerveError | None
    queue_seconds: float
    inference_seconds: float
    n_labels: int
    body: memoryview


class _Refusal(msgspec.Struct):
    kind: str
    message: str
    retry_after_seconds: float = 0.0
    reason: str = ""


class Inbox:
    """Cuts a stream into messages; keeps the part of one that has not come whole."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._n_missing = 0

    def cut(self, content: bytes) -> Iterator[memoryview]:
        """Yield the messages that are whole with what has come now."""
        if self._parts:
            self._parts.append(content)
            self._n_missing -= len(content)
            if self._n_missing > 0:
                return
            content = b"".join(self._parts)
            self._parts = []
        view = memoryview(content)
        while len(view) >= _ALIGNMENT:
            n_bytes = int.from_bytes(view[:4], sys.byteorder)
            if n_bytes < _JOB.size or n_bytes % _ALIGNMENT:
                raise ValueError("no message begins here")
            if n_bytes > len(view):
                self._n_missing = n_bytes - len(view)
                self._parts = [bytes(view)]
                return
            yield view[:n_bytes]
            view = view[n_bytes:]
        if view:
            self._n_missing = _ALIGNMENT - len(view)
            self._parts = [bytes(view)]


def write_job(number: int, job: Job) -> bytes:
    """Return the message that submits a job."""
    windows = job.windows
    body = [len(window.ids) for window in windows]
    for window in windows:
        body += window.ids
    if len(body) % 2:
        body.append(0)
    n_bytes = _JOB.size + 4 * len(body)
    head = _JOB.pack(n_bytes, _SUBMIT, number, job.deadline, job.needs_logits, len(windows))
    return head + array("i", body).tobytes()  # of a list, in half the time of growing it


def write_cancel(number: int) -> bytes:
    """Return the message that nobody waits for a job any more."""
    return _JOB.pack(_JOB.size, _CANCEL, number, 0.0, 0, 0)


def read_job(message: memoryview) -> Submitted:
    """Read what a front has written. Raises `ValueError` for what it cannot have written."""
    _, kind, number, deadline, needs_logits, n_windows = _JOB.unpack_from(message)
    if kind != _SUBMIT:
        return Submitted(number, None, False, deadline)
    values = np.frombuffer(message, np.int32, offset=_JOB.size)
    if n_windows == 1:
        return Submitted(number, [Window(values[1 : 1 + values[0]], 0)], bool(needs_logits), deadline)  # type: ignore[arg-type]
    ends = n_windows + np.cumsum(values[:n_windows])
    if n_windows < 1 or ends[-1] > len(values):
        raise ValueError("windows of a job do not fit its message")
    windows = [
        Window(values[end - n : end], 0)  # type: ignore[arg-type] # an array does as well as a list
        for end, n in zip(ends.tolist(), values[:n_windows].tolist(), strict=True)
    ]
    return Submitted(number, windows, bool(needs_logits), deadline)


def write_scores(number: int, job: Job) -> bytes:
    """Return the message with the outcome of a job."""
    if job.error is not None:
        return write_refusal(number, job.error)
    results: Sequence[TokenScores] = job.results  # type: ignore[assignment] # it has ended without an error
    parts = [result.label_ids.astype(np.int64, copy=False).tobytes() for result in results]
    parts += [result.scores.tobytes() for result in results]
    n_labels = 0
    if job.needs_logits:
        logits = [result.logits for result in results if result.logits is not None]
        n_labels = logits[0].shape[-1]
        parts += [np.ascontiguousarray(one, np.float32).tobytes() for one in logits]
    body = b"".join(parts)
    body += bytes(-len(body) % _ALIGNMENT)
    n_bytes = _SCORES.size + len(body)
    head = _SCORES.pack(n_bytes, _DONE, number, job.queue_seconds, job.inference_seconds, n_labels, 0)
    return head + body


def write_refusal(number: int, error: NerveError) -> bytes:
    """Return the message that a job has failed, or is refused."""
    refusal = _Refusal(type(error).__name__, str(error))
    if isinstance(error, Overloaded):
        refusal.retry_after_seconds, refusal.reason = error.retry_after_seconds, error.reason
    body = msgspec.json.encode(refusal)
    body += b" " * (-len(body) % _ALIGNMENT)
    return _SCORES.pack(_SCORES.size + len(body), _REFUSED, number, 0.0, 0.0, 0, 0) + body


def read_answer(message: memoryview) -> Answered:
    """Read what the engine has written."""
    _, kind, number, queued, computed, n_labels, _ = _SCORES.unpack_from(message)
    body = message[_SCORES.size :]
    error = _read_error(body) if kind == _REFUSED else None
    return Answered(number, error, queued, computed, n_labels, body)


def read_scores(answer: Answered, windows: Sequence[Window]) -> list[TokenScores]:
    """Return the scores of each window of a job."""
    lengths = [len(window.ids) for window in windows]
    total = sum(lengths)
    label_ids = np.frombuffer(answer.body, np.int64, total)  # (T,)
    scores = np.frombuffer(answer.body, np.float32, total, offset=8 * total)  # (T,)
    logits = None
    if answer.n_labels:
        flat = np.frombuffer(answer.body, np.float32, total * answer.n_labels, offset=12 * total)
        logits = flat.reshape(total, answer.n_labels)  # (T, L)
    if len(lengths) == 1:
        return [TokenScores(label_ids, scores, logits)]
    found, start = [], 0
    for n in lengths:
        part = slice(start, start + n)
        found.append(TokenScores(label_ids[part], scores[part], None if logits is None else logits[part]))
        start += n
    return found


def _read_error(body: memoryview) -> NerveError:
    refusal = msgspec.json.decode(body, type=_Refusal)
    if refusal.kind == Overloaded.__name__:
        return Overloaded(refusal.message, refusal.retry_after_seconds, refusal.reason)
    kind = getattr(errors, refusal.kind, InferenceFailed)
    error: NerveError = kind(refusal.message)
    return error
