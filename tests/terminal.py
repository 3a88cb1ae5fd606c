"""Runs `nerve` on a pseudo-terminal, and takes styles out of what it drew."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# What would change colours, sizes and pagers.
_OF_THIS_MACHINE = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES", "PAGER", "LESS")


class Seen(NamedTuple):
    """What the terminal got, what a piped stdout got, and the exit status."""

    terminal: str
    piped: str
    status: int


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of `nerve`."""
    return [sys.executable, "-m", "nerve", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a terminal with colours, without what this machine would change."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THIS_MACHINE}
    return {**kept, "TERM": "xterm-256color", **more}


def on_terminal(
    *arguments: str | Path,
    streams: Sequence[str] = ("out",),
    typed: bytes = b"",
    rows: int = 24,
    columns: int = 120,
    **more: str,
) -> Seen:
    """Run a command to its end with some of its streams ("in", "out", "err") on a terminal of that size.

    Of the others stdin and stderr are empty, stdout is a pipe. more: variables of its environment.
    """
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.write(main, typed)
    process = subprocess.Popen(
        command(*arguments),
        stdin=terminal if "in" in streams else subprocess.DEVNULL,
        stdout=terminal if "out" in streams else subprocess.PIPE,
        stderr=terminal if "err" in streams else subprocess.DEVNULL,
        env=environment(**more),
    )
    os.close(terminal)
    piped = process.stdout.read() if process.stdout is not None else b""
    got = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:  # Linux: the last process has closed the terminal
            break
        if not block:
            break
        got += block
    os.close(main)
    if process.stdout is not None:
        process.stdout.close()
    return Seen(got.decode(), piped.decode(), process.wait())


def without_styles(drawn: str) -> str:
    """Remove the escape sequences of styles, and a terminal's line ends."""
    return re.sub(r"\x1b\[[0-9;]*m", "", drawn).replace("\r\n", "\n")
