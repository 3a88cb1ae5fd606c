"""Log lines as text for people, or as JSON lines for collectors; the same for nerve and for Granian.

A line about a request says which: `log.error(..., extra={"request_id": ...})`.
"""

from __future__ import annotations

import datetime
import io
import logging
import logging.config
import os
import select
import stat
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from nerve.config import LogFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nerve.config import ServerConfig

_TEXT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
# Seconds that a line waits for a reader. Readers are quick, or stand still.
_PATIENCE_SECONDS = 0.25
# Seconds between its tries. Not poll: a terminal is ready as well where it has room for less than it is given.
_PAUSE_SECONDS = 0.001
# What a line can tell of its request, in fields of their own.
_FIELDS = (
    *("request_id", "method", "route", "status", "duration_ms", "response_bytes", "texts", "tokens"),
    *("read_ms", "tokenize_ms", "queue_ms", "inference_ms", "aggregate_ms", "encode_ms", "reason"),
)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that moment: beside a progress bar, to where lines stand above the bar."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    @property
    def stream(self) -> TextIO:
        """Where to write."""
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Take what logging sets, which is stderr, too."""


class ServerHandler(StderrHandler):
    """Writes as `StderrHandler` does, but waits for nobody: lines that cannot be written are lost, and counted.

    A pipe or a terminal whose reader stands still (a collector, Ctrl-S) would hold the thread that writes, and with the
    handler's lock every other one that logs: no request would be answered, and SIGTERM would do nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._n_lost = 0
        self._rest = b""  # what ends a line that was cut

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. The first for which there is no room waits a moment, further ones not at all."""
        file = _file_of(self.stream)
        if file is None:
            super().emit(record)
            return
        try:
            told = self._rest + (self._encoded(_told(self._n_lost)) if self._n_lost else b"")
            data = told + self._encoded(record)
            n_written = _write(file, data, waits=not self._n_lost)
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)
            return
        if n_written >= len(told):
            self._n_lost = 0
        if n_written < len(data):
            self._n_lost += 1
        if n_written:
            end = self.terminator.encode()
            self._rest = b"" if data[:n_written].endswith(end) else end

    def _encoded(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + self.terminator).encode(
            self.stream.encoding, self.stream.errors or "strict"
        )


def _file_of(stream: TextIO) -> int | None:
    """Return the descriptor behind a stream; None where lines must go through it: a bar, none, in memory, closed."""
    try:
        return stream.fileno() if isinstance(stream, io.TextIOWrapper) else None
    except (OSError, ValueError):
        return None


def _write(file: int, data: bytes, *, waits: bool) -> int:
    """Write what a file takes within a moment, in one write if it can; returns the number of bytes.

    waits: else the first bytes must fit at once.
    """
    give_up = time.monotonic() + _PATIENCE_SECONDS
    n_written = 0
    with _never_waiting(file) as write:
        while n_written < len(data):
            try:
                n = write(data[n_written:])
            except BlockingIOError:
                n = 0
            n_written += n
            if not n:
                if not (waits or n_written) or time.monotonic() >= give_up:
                    break
                time.sleep(_PAUSE_SECONDS)
    return n_written


@contextmanager
def _never_waiting(file: int) -> Iterator[Callable[[bytes], int]]:
    """Give the block `os.write` to a file that does not wait for its reader, but writes a part, or nothing.

    "Ready" is not enough to ask for: a terminal is ready with room for one byte, and another process may fill a pipe in
    between. And O_NONBLOCK would hold for all processes that have this description of the file. So it is opened anew:
    a pipe then takes up to PIPE_BUF bytes whole or not at all.
    """
    if stat.S_ISREG(os.fstat(file).st_mode):  # nobody to wait for, and a new description begins at the start
        yield partial(os.write, file)
        return
    try:
        own = os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # a socket, as journald's, which is ready with room for much; no permission; no /proc
        yield partial(_write_if_ready, file)
        return
    try:
        yield partial(os.write, own)
    finally:
        os.close(own)


def _write_if_ready(file: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return os.write(file, data[: select.PIPE_BUF]) if poll.poll(0) else 0


def _told(n_lost: int) -> logging.LogRecord:
    message = f"{n_lost} lines of the log were lost: nobody read it"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None)


class TextFormatter(logging.Formatter):
    """One line for people, with the request's id at its end."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Render one record without its stack."""
        line = super().formatMessage(record)
        request_id = getattr(record, "request_id", None)
        return line if request_id is None else f"{line} [{request_id}]"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, pid, and what else there is.

    That is a stack, and the fields of a request.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, object] = {
            "time": msgspec.to_builtins(_utc(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure_logging(server: ServerConfig) -> None:
    """Set logging up for this process."""
    logging.config.dictConfig(logging_settings(server))


def logging_settings(server: ServerConfig) -> dict[str, Any]:
    """Return the `logging.config` dictionary, for this process and for Granian's own set-up."""
    level = server.log_level.value.upper()
    loggers = ("nerve", "_granian")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": {"()": TextFormatter}, "json": {"()": JsonFormatter}},
        "handlers": {
            "stderr": {
                "()": ServerHandler,
                "formatter": "json" if uses_json(server.log_format) else "text",
            }
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {name: {"level": level, "handlers": ["stderr"], "propagate": False} for name in loggers},
    }


def uses_json(log_format: LogFormat) -> bool:
    """Tell whether log lines are JSON; `auto` is text on a terminal."""
    return log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
