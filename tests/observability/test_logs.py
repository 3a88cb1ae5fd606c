from __future__ import annotations

import datetime
import io
import json
import logging
import os
import pty
import select
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nerve.config import LogFormat, LogLevel, ServerConfig
from nerve.observability import logs
from nerve.observability.logs import JsonFormatter, ServerHandler, TextFormatter, logging_settings

if TYPE_CHECKING:
    from collections.abc import Callable


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


def log(handler: ServerHandler, message: str) -> None:
    """Write a line."""
    handler.emit(logging.LogRecord("n", logging.INFO, "f", 1, message, (), None))


def socket_ends() -> tuple[int, int]:
    """Return what `os.pipe` does, of a socket: that is what journald gives."""
    reading, writing = socket.socketpair()
    return reading.detach(), writing.detach()


@pytest.mark.parametrize("ends", [os.pipe, socket_ends])
def test_a_log_that_nobody_reads_holds_nobody(
    ends: Callable[[], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that do not fit are lost and counted; what fits is whole, a long line that was cut ends."""
    reading, writing = ends()
    handler = ServerHandler()

    def read() -> list[str]:
        return os.read(reading, 1 << 20).decode().splitlines()

    with os.fdopen(reading, "rb"), os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for number in range(300):
            log(handler, f"{number} " + "x" * 1000)
        kept = read()
        assert 10 < len(kept) < 300
        assert [line.split()[0] for line in kept] == [str(number) for number in range(len(kept))]
        log(handler, "again")
        assert read() == [f"{300 - len(kept)} lines of the log were lost: nobody read it", "again"]
        log(handler, "é" * 1_000_000)
        log(handler, "lost")
        assert len(read()) == 1
        log(handler, "at last")
        assert read()[-2:] == ["2 lines of the log were lost: nobody read it", "at last"]


def test_a_line_for_which_the_told_one_leaves_no_room_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has room for one page: the line that tells of lost ones takes a part of it, the next does not fit."""
    reading, writing = os.pipe()
    handler = ServerHandler()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for number in range(300):
            log(handler, f"{number:<{select.PIPE_BUF - 1}}")
        os.read(reading, select.PIPE_BUF)
        log(handler, "😀" * (select.PIPE_BUF // 4 - 1))
        rest = os.read(reading, 1 << 20).decode(errors="replace").splitlines()
        assert rest[-2].endswith(" lines of the log were lost: nobody read it")
        assert rest[-1].startswith("😀")
        log(handler, "again")
        assert os.read(reading, 1 << 20).decode(errors="replace").splitlines()[-2:] == [
            "1 lines of the log were lost: nobody read it",
            "again",
        ]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="a terminal is opened anew by /proc")
def test_a_terminal_that_stands_still_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal is "ready" with room for one byte; a longer line would wait for its reader."""
    reading, writing = pty.openpty()
    handler = ServerHandler()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for number in range(1000):
            log(handler, f"{number} " + "x" * 130)
        read = b""
        while b"again\r\n" not in read:
            log(handler, "again")
            while select.select([reading], [], [], 0.05)[0]:
                read += os.read(reading, 1 << 16)
        lines = read.decode().splitlines()
        kept = [int(line.split()[0]) for line in lines if line.endswith("x" * 130)]
        assert kept[:10] == list(range(10))
        assert len(kept) < 1000
        assert " lines of the log were lost: nobody read it" in read.decode()
        assert os.get_blocking(writing)


@pytest.mark.parametrize(("n_characters", "is_file"), [(3000, False), (10_000, True)])
def test_long_lines_of_several_writers_do_not_mix(
    n_characters: int, is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JSON line with a stack stays one line beside those of other workers, in a pipe and in a file."""
    monkeypatch.setattr(logs, "_PATIENCE_SECONDS", 600)
    file = tmp_path / "log"
    reading, writing = (os.open(file, os.O_CREAT), os.open(file, os.O_WRONLY)) if is_file else os.pipe()

    def log_all(letter: str) -> None:
        handler = ServerHandler()
        for _ in range(300):
            log(handler, letter * n_characters)

    with os.fdopen(reading) as read:
        with os.fdopen(writing, "w") as stream, ThreadPoolExecutor() as pool:
            monkeypatch.setattr(sys, "stderr", stream)
            done = [pool.submit(log_all, letter) for letter in "abc"]
            lines = [] if is_file else [read.readline() for _ in range(900)]
            for one in done:
                one.result()
        lines += read
    assert sorted(lines) == sorted(f"{letter * n_characters}\n" for letter in "abc" for _ in range(300))


def test_what_is_no_file_gets_its_lines_in_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar stands before the terminal, a test before nothing; a program may have no stderr at all."""
    handler = ServerHandler()
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO(), write_through=True)):
        monkeypatch.setattr(sys, "stderr", stream)
        log(handler, "line")
        stream.seek(0)
        assert stream.read() == "line\n"
    monkeypatch.setattr(sys, "stderr", None)
    log(handler, "line")
