"""The large-request process: a second process of a worker, for the Python work of large requests.

Python's interpreter lock is one for all threads of a process, and some steps of a large text hold it long: the
`tokenizers` library frees its encoding, a body of megabytes is decoded. On a thread each of them would stall all
requests. So they are done in a process of its own: the worker sends the body as it came, gets the ids of the windows
as one buffer, and sends the scores for the encoded answer.

The process is started by the first large request, begins at once to load the tokenizer, and ends with the
worker: it reads from sockets, and leaves when they are closed. When it dies, the requests it had fail, and the
next one starts another.

Threads: `begin` and `finish` block, and may be called from any thread; at most `CHANNELS` calls run at a time.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.engine.large_requests import LargeRequests, LargeSetup, Outline, split_windows
from nerve.errors import PredictError, stack_of
from nerve.types import TokenScores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.engine.codec import Codec
    from nerve.types import Window

log = logging.getLogger(__name__)

CHANNELS = 2
# Lower priority than the worker's other threads, as in the bulk lane.
_NICENESS = 19
_COMMAND = "import sys; from nerve.engine.large_process import serve; serve([int(fd) for fd in sys.argv[1:]])"
_END_SECONDS = 5.0
# Sent and received in a step, from which on its memory is given back: trimming takes 7 ms for each MB of text.
_TRIM_BYTES = 1_000_000

Part = bytes | bytearray | memoryview


class LargeProcessFailed(RuntimeError):
    """The process died, or met a defect; the log has more."""


class LargeProcess:
    """The worker's end: starts the process when it is needed, and calls it."""

    def __init__(self, setup: LargeSetup) -> None:
        self._setup = setup
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._is_closed = False

    def begin(self, body: bytes | bytearray, codec: Codec) -> tuple[Outline, bytes, list[Window]]:
        """Decode and tokenize a body: its outline, what `finish` needs, and its windows.

        Raises `PredictError`s, or `LargeProcessFailed`.
        """
        outline, (context, ids) = self._call(("begin", codec), [body])
        return outline, context, split_windows(np.frombuffer(ids, np.int32), outline.window_lengths)

    def finish(self, context: bytes, scores: Sequence[TokenScores], codec: Codec) -> bytes:
        """Make the encoded answer from the scores of all windows. Raises `LargeProcessFailed`."""
        shapes, parts = _pack(scores)
        _, (answer,) = self._call(("finish", codec, shapes), [context, *parts])
        return answer

    def close(self) -> None:
        """End the process; no call may run any more."""
        with self._lock:
            self._is_closed = True
            process, self._process = self._process, None
        if process is not None:
            process.close()

    def _call(self, head: tuple[object, ...], parts: Sequence[Part]) -> tuple[Any, list[bytes]]:
        process = self._running()
        channel = process.channels.get()
        try:
            _send(channel, head, parts)
            answer, parts_back = _receive(channel)
        except (EOFError, OSError):
            self._discard(process)
            raise LargeProcessFailed("the process for large requests has died") from None
        except BaseException:
            self._discard(process)  # the channel may stand in the middle of a message
            raise
        finally:
            process.channels.put(channel)  # of a dead process, too: whoever waits for it fails
        if isinstance(answer, PredictError):
            raise answer
        if isinstance(answer, _Defect):
            log.error("a defect in the process for large requests: %s", answer.stack)
            raise LargeProcessFailed("a defect in the process for large requests")
        return answer, parts_back

    def _running(self) -> _Process:
        with self._lock:
            if self._is_closed:
                raise LargeProcessFailed("the process for large requests is closed")
            if self._process is None:
                self._process = _Process(self._setup)
            return self._process

    def _discard(self, process: _Process) -> None:
        with self._lock:
            if self._process is process:
                self._process = None
                log.error("the process for large requests has died; the next large request starts another")
        process.kill()


class _Process:
    """One life of the process, and the channels to it that no call uses."""

    def __init__(self, setup: LargeSetup) -> None:
        pairs = [socket.socketpair() for _ in range(CHANNELS)]
        theirs = [there.fileno() for _, there in pairs]
        # A process group of its own: an interrupt at the terminal is for the server, which drains.
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            pass_fds=theirs,
            process_group=0,
        )
        self.channels: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._all = [Connection(here.detach()) for here, _ in pairs]
        for _, there in pairs:
            there.close()
        self._all[0].send_bytes(pickle.dumps(setup))
        for channel in self._all:
            self.channels.put(channel)

    def kill(self) -> None:
        """End it at once. Calls that still wait on its channels fail."""
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """End it when no call runs; at once if it does not end by itself."""
        for channel in self._all:
            channel.close()
        try:
            self._child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


class _Defect:
    """Stands for an exception in the process that is not the client's doing."""

    def __init__(self, stack: str) -> None:
        self.stack = stack


def serve(descriptors: Sequence[int]) -> None:
    """Be the process: answer on each of the sockets until one of them is closed. Does not return."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    channels = [Connection(descriptor) for descriptor in descriptors]
    try:
        setup: LargeSetup = pickle.loads(channels[0].recv_bytes())  # noqa: S301 - the worker made it
        requests = LargeRequests(setup)
    except EOFError:
        os._exit(0)
    ended = threading.Event()
    for channel in channels:
        threading.Thread(target=_answer, args=(channel, requests, ended), daemon=True).start()
    ended.wait()
    os._exit(0)  # what still runs has nobody to answer


def _answer(channel: Connection, requests: LargeRequests, ended: threading.Event) -> None:
    try:
        while True:
            if _answer_one(channel, requests) > _TRIM_BYTES:
                _trim()
    except (EOFError, OSError):
        pass  # the worker has closed its end, or died
    except Exception as error:  # noqa: BLE001 - lack of memory, say
        print(f"the process for large requests ends: {stack_of(error)}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        ended.set()  # whatever it was: the worker would wait for ever on a channel that nobody serves


def _answer_one(channel: Connection, requests: LargeRequests) -> int:
    """Do one step; returns the bytes that it received and sent, none of which are held any more."""
    head, parts = _receive(channel)
    answer: Outline | PredictError | _Defect | None
    try:
        answer, parts_back = _run(requests, head, parts)
    except PredictError as error:
        answer, parts_back = error.with_traceback(None), []
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker must be answered
        answer, parts_back = _Defect(stack_of(error)), []
    _send(channel, answer, parts_back)
    return sum(memoryview(part).nbytes for part in (*parts, *parts_back))


def _trim() -> None:
    """Give freed memory back to the system: glibc would keep 1 GB after a text of 8 MB, and trims it in 50 ms."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # other C libraries have none
        trim(0)


def _run(
    requests: LargeRequests, head: tuple[Any, ...], parts: Sequence[bytes]
) -> tuple[Outline | None, list[Part]]:
    if head[0] == "begin":
        outline, context, ids = requests.begin(parts[0], head[1])
        return outline, [context, ids.data]
    _, codec, shapes = head
    return None, [requests.finish(parts[0], _unpack(shapes, parts[1:]), codec)]


def _pack(scores: Sequence[TokenScores]) -> tuple[list[tuple[Any, ...]], list[Part]]:
    """Return the buffers of the arrays of all windows, and the types and shapes to make arrays of them again."""
    arrays = [
        np.ascontiguousarray(array)
        for part in scores
        for array in (part.label_ids, part.scores, part.logits)
        if array is not None
    ]
    return [(array.dtype.str, array.shape) for array in arrays], [array.data for array in arrays]


def _unpack(shapes: Sequence[tuple[Any, ...]], parts: Sequence[bytes]) -> list[TokenScores]:
    arrays = [
        np.frombuffer(part, kind).reshape(shape) for (kind, shape), part in zip(shapes, parts, strict=True)
    ]
    width = 3 if len(shapes) > 2 and len(shapes[2][1]) == 2 else 2  # logits have two axes
    return [
        TokenScores(arrays[k], arrays[k + 1], arrays[k + 2] if width == 3 else None)
        for k in range(0, len(arrays), width)
    ]


def _send(channel: Connection, head: object, parts: Sequence[Part]) -> None:
    channel.send_bytes(pickle.dumps((head, len(parts))))
    for part in parts:
        channel.send_bytes(part)


def _receive(channel: Connection) -> tuple[Any, list[bytes]]:
    head, n_parts = pickle.loads(channel.recv_bytes())  # noqa: S301 - the other end is this program, too
    return head, [channel.recv_bytes() for _ in range(n_parts)]
