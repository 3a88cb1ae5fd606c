"""How far long work is: a bar on a terminal, lines in the log anywhere else.

    with progress("texts", total, show=sys.stderr.isatty()) as task:
        for ... :
            task.advance()

Whatever can take more than a second reports here: downloads, an int8 graph, `nerve tune`, the rows of a corpus. Work
that is done within a second shows nothing. Lines go to the logger `PROGRESS_LOGGER` with level INFO: the server's log
has them, `nerve.load` is silent unless its caller asks logging for them, and the command line prints them.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from nerve.observability import PROGRESS_LOGGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import RenderableType
    from rich.progress import Task as BarTask

log = logging.getLogger(PROGRESS_LOGGER)

# A bar that appears for an instant is noise.
_BAR_AFTER_SECONDS = 1.0
# Moments of lines: few, so that a log of hours stays readable.
_LINES_AFTER_SECONDS = (5.0, 15.0, 30.0, 60.0)
_LINES_EVERY_SECONDS = 60.0
# Columns of a terminal from which on a bar has room for the speed of a download.
_WIDE = 80
_CLOCK_CELLS = 8
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


class Unit(enum.Enum):
    """What is counted."""

    ITEMS = enum.auto()
    BYTES = enum.auto()


class Task:
    """How far one piece of work is; `progress` makes it. Its methods may be called from any thread, often."""

    def __init__(self, title: str, total: float | None, unit: Unit) -> None:
        self.title = title
        self.total = total
        self.done = 0.0
        self._passed = 0.0
        self._unit = unit
        self._begun = time.monotonic()
        self._lines = iter(_LINES_AFTER_SECONDS)
        self._next_line = next(self._lines)
        self._lock = threading.Lock()

    def advance(self, amount: float = 1) -> None:
        """Say that so much more is done."""
        with self._lock:
            self.done += amount
        self._changed()

    def pass_over(self, amount: float) -> None:
        """Say that so much is done, by an earlier try: it tells nothing of the time that is left."""
        with self._lock:
            self.done += amount
            self._passed += amount
        self._changed()

    def resume(self, done: float, total: float | None) -> None:
        """Say how much an earlier try has left, and of how much, where that is known."""
        with self._lock:
            self.done = self._passed = done
            self.total = total or self.total
        self._changed()

    def move_to(self, done: float, total: float | None = None) -> None:
        """Say how much is done in all, and of how much if that is known by now."""
        with self._lock:
            self.done = done
            self.total = total or self.total
        self._changed()

    def describe(self, title: str) -> None:
        """Say what is being done now."""
        self.title = title
        self._changed()

    def finish(self) -> None:
        """Say that the work has ended (`progress` calls this)."""

    def _changed(self) -> None:
        """Write a line when it is time for one."""
        seconds = time.monotonic() - self._begun
        with self._lock:
            if seconds < self._next_line:
                return
            self._next_line = next(self._lines, seconds + _LINES_EVERY_SECONDS)
        log.info("%s", self._line(seconds))

    def _line(self, seconds: float) -> str:
        """Return how far it is, as `texts: 1,200 of 5,000, 24 %, 0:00:38 left`."""
        if self.total is None:
            return f"{self.title}: {self._amount(self.done)} in {_clock(seconds)}"
        said = f"{self.title}: {self._amount(self.done)} of {self._amount(self.total)}"
        if 0 < self.done < self.total:
            said += f", {self.done / self.total:.0%}"
        if self._passed < self.done < self.total:
            left = seconds * (self.total - self.done) / (self.done - self._passed)
            said += f", {_clock(left)} left"
        return said

    def _amount(self, value: float) -> str:
        if self._unit is Unit.BYTES:
            return next(
                (f"{value / size:.1f} {name}" for name, size in _UNITS if value >= size), f"{value:.0f} B"
            )
        return f"{value:,.0f}"


class _Bar(Task):
    """Work that is drawn, once it has taken a second."""

    def __init__(
        self,
        title: str,
        total: float | None,
        unit: Unit,
        console: Console | None,
        drawn: Progress | None = None,
    ) -> None:
        super().__init__(title, total, unit)
        console = console or Console(stderr=True)
        self._progress = drawn or Progress(*_columns(unit, total, console.width), console=console)
        self._task = self._progress.add_task(title, total=total)
        self._timer = threading.Timer(_BAR_AFTER_SECONDS, self._progress.start)
        self._timer.daemon = True
        self._timer.start()

    def _changed(self) -> None:
        self._progress.update(self._task, completed=self.done, total=self.total, description=self.title)

    def finish(self) -> None:
        """Leave the bar as it stands, and the cursor below it."""
        self._timer.cancel()
        self._timer.join()
        if self._progress.live.is_started:
            self._progress.stop()


@contextmanager
def progress(
    title: str,
    total: float | None = None,
    unit: Unit = Unit.ITEMS,
    *,
    show: bool,
    console: Console | None = None,
) -> Iterator[Task]:
    """Give the block a `Task` to say how far it is.

    total: None while nobody knows. show: draw a bar on stderr (or `console`), which must be a terminal; else lines.
    """
    task = _Bar(title, total, unit, console) if show else Task(title, total, unit)
    try:
        yield task
    finally:
        task.finish()


def announce(what: str) -> None:
    """Log what begins and takes long, where nobody can say how far it is: a call that holds the interpreter, say."""
    log.info("%s", what)


@contextmanager
def time_progress(
    seconds: float, *, show: bool, console: Console | None = None
) -> Iterator[Callable[[str], None]]:
    """Draw a bar that fills in about `seconds`; what it gives names what is being done.

    Without a bar: a line each, once the work has proved to be long.
    """
    if not show:
        yield partial(_tell, time.monotonic() + _LINES_AFTER_SECONDS[0])
        return
    # Drawing costs some milliseconds of the interpreter; what is measured meanwhile should not see it.
    console = console or Console(stderr=True)
    drawn = _TimeProgress(*_time_columns(seconds, console.width), console=console, refresh_per_second=1)
    task = _Bar("", seconds, Unit.ITEMS, console, drawn)
    try:
        yield task.describe
    finally:
        task.finish()


def _tell(begin: float, name: str) -> None:
    """Write a line, from a moment on."""
    if time.monotonic() >= begin:
        log.info("%s", name)


class _TimeProgress(Progress):
    """A bar whose progress is the time that has passed."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Bring the bars up to date (rich calls this for every drawing)."""
        for task in self.tasks:
            task.completed = min(task.total or 0.0, task.elapsed or 0.0)
        return super().get_renderables()


class _Title(ProgressColumn):
    """What is done, cut where it is too long for its place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = max(1, width)

    def render(self, task: BarTask) -> Text:
        """Draw it (rich calls this)."""
        title = Text(task.description)
        title.truncate(self._width, overflow="ellipsis")
        return title


class _Amount(ProgressColumn):
    """`1,200/5,000`, or `1,200` while the end is unknown."""

    def render(self, task: BarTask) -> Text:
        """Draw it (rich calls this)."""
        of = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{of}", style="progress.download")


class _Clock(TimeRemainingColumn):
    """The time left, or while nobody knows it, and at the end, the time since the beginning."""

    def __init__(self) -> None:
        super().__init__(elapsed_when_finished=True)

    def render(self, task: BarTask) -> Text:
        """Draw it (rich calls this)."""
        return super().render(task) if task.total is not None else Text(_clock(task.elapsed or 0.0))


def _columns(unit: Unit, total: float | None, width: int) -> list[ProgressColumn]:
    """Return what fits into `width` cells: the numbers first, then the title, then the bar."""
    counts: list[ProgressColumn] = [DownloadColumn() if unit is Unit.BYTES else _Amount()]
    taken = _CLOCK_CELLS + (12 if unit is Unit.BYTES else 2 * len(f"{total or 10_000:,.0f}") + 2)
    if unit is Unit.BYTES and width >= _WIDE:
        counts.append(TransferSpeedColumn())
        taken += 11
    return [*_title_and_bar(width - taken), *counts, _Clock()]


def _time_columns(seconds: float, width: int) -> list[ProgressColumn]:
    of = f"of {seconds:.0f} s"
    title, *bar = _title_and_bar(width - _CLOCK_CELLS - len(of) - 1)
    return [*bar, TimeElapsedColumn(), TextColumn(of), title]


def _title_and_bar(width: int) -> list[ProgressColumn]:
    bar = min(40, width // 5)
    return [_Title(width - 1)] if bar < 4 else [_Title(width - bar - 2), BarColumn(bar_width=bar)]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
