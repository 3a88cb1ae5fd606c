"""Log lines as text for people, or as JSON lines for collectors; the same for nerve and for Granian.

A line about a request says which: `log.error(..., extra={"request_id": ...})`.
"""

from __future__ import annotations

import datetime
import logging
import logging.config
import select
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from nerve.config import LogFormat

if TYPE_CHECKING:
    from nerve.config import ServerConfig

_TEXT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
# Milliseconds that a line waits for a full pipe to be read. Its readers are quick, or stand still.
_PATIENCE_MS = 250
# Characters that are written at once: at most PIPE_BUF (4,096) bytes, which a pipe takes whole where it takes any.
_PIECE = 1024
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

    A pipe whose reader stands still (a collector, a terminal after Ctrl-S) would hold the thread that writes, and with
    the handler's lock every other one that logs: no request would be answered, and SIGTERM would do nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._n_lost = 0
        self._rest = ""  # what ends a line that was cut

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. The first that does not fit waits a moment, further ones not at all."""
        try:
            if not self._may_write(0 if self._n_lost else _PATIENCE_MS):
                self._n_lost += 1
                return
            if self._n_lost:
                lost, self._n_lost = self._n_lost, 0
                self._write(self.format(_told(f"{lost} lines of the log were lost: nobody read it")))
            self._write(self.format(record))
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)

    def _write(self, line: str) -> None:
        text = self._rest + line + self.terminator
        self._rest = ""
        for start in range(0, len(text), _PIECE):
            if start and not self._may_write(
                _PATIENCE_MS
            ):  # the rest of a long line; the next one begins anew
                self._n_lost += 1
                self._rest = self.terminator
                return
            self.stream.write(text[start : start + _PIECE])
            self.flush()

    def _may_write(self, milliseconds: int) -> bool:
        """Tell whether a piece can be written within a time without waiting for a reader."""
        try:
            file = self.stream.fileno()
        except (AttributeError, OSError, ValueError):  # no file, as in tests
            return True
        poll = select.poll()
        poll.register(file, select.POLLOUT)
        return bool(poll.poll(milliseconds))


def _told(message: str) -> logging.LogRecord:
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
