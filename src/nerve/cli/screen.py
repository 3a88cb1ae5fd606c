"""A console whose lines go through a pager once there are more than the terminal shows.

Lines are held back until the screen is full, which starts the pager; or until the end, or for a second, after which
they are printed as they come: whoever watches a pipe must see them.
"""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from nerve.cli.display import PlainConsole
from nerve.config import pager

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOLD_SECONDS = 1.0


@contextmanager
def open_screen(*, paged: bool) -> Iterator[PlainConsole]:
    """Give the block a console on stdout, with a pager where `paged`, one is there, and stdout is a terminal."""
    plain = PlainConsole()
    command = pager() if paged and plain.is_terminal else None
    if command is None:
        yield plain
        return
    held = _Held(command, plain.width, plain.height)
    try:
        yield PlainConsole(file=held, like=plain)
    finally:
        held.end()


class _Held(io.StringIO):
    """A stream that holds back what is written until it is clear where to."""

    def __init__(self, command: tuple[list[str], dict[str, str]], width: int, height: int) -> None:
        super().__init__()
        self._command, self._environment = command
        self._width, self._left = width, height - 1
        self._held: list[str] = []
        self._pager: subprocess.Popen[str] | None = None
        self._is_direct = False
        self._lock = threading.RLock()
        self._timer = threading.Timer(_HOLD_SECONDS, self._give_up)
        self._timer.daemon = True

    def write(self, text: str) -> int:
        """Take text. Raises `BrokenPipeError` when the reader has left the pager."""
        with self._lock:
            if self._pager is not None and self._pager.stdin is not None:
                self._pager.stdin.write(text)
            elif self._is_direct:
                sys.stdout.write(text)
            else:
                self._hold(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what was passed on."""
        with self._lock:
            if self._pager is not None and self._pager.stdin is not None:
                self._pager.stdin.flush()
            elif self._is_direct:
                sys.stdout.flush()

    def end(self) -> None:
        """Print what is still held, or wait until the reader leaves the pager."""
        with self._lock:
            self._timer.cancel()
            if self._pager is None:
                self._print_held()
                return
        if self._pager.stdin is not None:
            with suppress(BrokenPipeError):
                self._pager.stdin.close()
        while True:
            try:
                self._pager.wait()
            except KeyboardInterrupt:
                continue  # it is the pager's: the terminal is still its own
            return

    def _hold(self, text: str) -> None:
        if not self._held:
            self._timer.start()
        self._held.append(text)
        self._left -= sum(map(self._rows, text.split("\n")[:-1]))
        if self._left >= 0:
            return
        self._timer.cancel()
        self._pager = subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, encoding="utf-8", errors="replace"
        )
        if self._pager.stdin is not None:
            self._pager.stdin.write("".join(self._held))

    def _rows(self, line: str) -> int:
        """Return how many rows of the terminal a line takes."""
        return max(1, -(-cell_len(Text.from_ansi(line).plain) // self._width))

    def _give_up(self) -> None:
        with self._lock:
            if self._pager is None:
                self._print_held()

    def _print_held(self) -> None:
        self._is_direct = True
        sys.stdout.write("".join(self._held))
        sys.stdout.flush()
        self._held.clear()
