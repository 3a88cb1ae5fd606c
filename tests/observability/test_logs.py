from __future__ import annotations

import datetime
import json
import logging
import os
import sys

import pytest

from nerve.config import LogFormat, LogLevel, ServerConfig
from nerve.observability.logs import JsonFormatter, ServerHandler, TextFormatter, logging_settings


@pytest.mark.parametrize("message", ["plain", 'quotes " and \\', "two\nlines", "Ünïcödé 😀", "\x00\x1b[31m"])
def test_json_line_is_one_object_on_one_line(message: str) -> None:
    """Whatever is logged, a collector reads one JSON object per line."""
    record = logging.LogRecord("nerve.http.app", logging.WARNING, "f", 1, "%s", (message,), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    decoded = json.loads(line)
    assert decoded["message"] == message
    assert (decoded["level"], decoded["logger"], decoded["pid"]) == (
        "warning",
        "nerve.http.app",
        record.process,
    )
    assert datetime.datetime.fromisoformat(decoded["time"]).tzinfo is not None


def test_json_line_carries_the_stack() -> None:
    """An exception is a field of the line, not more lines."""
    try:
        raise RuntimeError("x")
    except RuntimeError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "RuntimeError" in json.loads(line)["stack"]


def test_request_id_is_a_field_or_the_end_of_the_line() -> None:
    """A collector can select by request, a person sees it; other lines say nothing of one."""
    record = logging.LogRecord("nerve.http.app", logging.ERROR, "f", 1, "failed", (), None)
    assert "request_id" not in json.loads(JsonFormatter().format(record))
    assert TextFormatter().format(record).endswith(": failed")
    record.request_id = "abc"
    assert json.loads(JsonFormatter().format(record))["request_id"] == "abc"
    assert TextFormatter().format(record).endswith(": failed [abc]")


@pytest.mark.parametrize(
    ("log_format", "formatter"),
    [(LogFormat.JSON, "json"), (LogFormat.TEXT, "text"), (LogFormat.AUTO, "json")],
)
def test_format_and_level_follow_the_config(log_format: LogFormat, formatter: str) -> None:
    """`auto` is JSON where standard error is no terminal; Granian's loggers follow ours."""
    settings = logging_settings(ServerConfig(log_format=log_format, log_level=LogLevel.ERROR))
    assert settings["handlers"]["stderr"]["formatter"] == formatter
    assert {logger["level"] for logger in settings["loggers"].values()} == {"ERROR"}


def test_a_log_that_nobody_reads_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that do not fit into a pipe are lost and counted; what fits is whole, a long line that was cut ends."""
    reading, writing = os.pipe()
    handler = ServerHandler()

    def log(message: str) -> None:
        handler.emit(logging.LogRecord("n", logging.INFO, "f", 1, message, (), None))

    def read() -> list[str]:
        return os.read(reading, 1 << 20).decode().splitlines()

    with os.fdopen(reading, "rb"), os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for number in range(300):
            log(f"{number} " + "x" * 1000)
        kept = read()
        assert 10 < len(kept) < 300
        assert [line.split()[0] for line in kept] == [str(number) for number in range(len(kept))]
        log("again")
        assert read() == [f"{300 - len(kept)} lines of the log were lost: nobody read it", "again"]
        log("é" * 1_000_000)
        log("lost")
        assert len(read()) == 1
        log("at last")
        assert read()[-2:] == ["2 lines of the log were lost: nobody read it", "at last"]
