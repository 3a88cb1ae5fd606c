"""Progress bars on stderr: over texts, and over a given time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import RenderableType


@contextmanager
def progress_bar(total: int | None) -> Iterator[Callable[[], None]]:
    """Draw a bar while the block runs; what it gives is called once per text. total: None if unknown."""
    columns = (
        TextColumn("texts"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("texts", total=total)
        yield lambda: progress.advance(task)


@contextmanager
def time_bar(seconds: float, *, visible: bool) -> Iterator[Callable[[str], None]]:
    """Draw a bar that fills in about `seconds`; what it gives names what is being done."""
    columns = (
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn(f"of about {seconds:.0f} s"),
        TextColumn("{task.description}", markup=False),
    )
    # Drawing costs some milliseconds of the interpreter; what is measured meanwhile should not see it.
    progress = _TimeProgress(
        *columns, console=Console(stderr=True), refresh_per_second=1, disable=not visible
    )
    with progress:
        task = progress.add_task("", total=seconds)
        yield lambda name: progress.update(task, description=name)


class _TimeProgress(Progress):
    """A bar whose progress is the time that has passed."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Bring the bars up to date (rich calls this for every drawing)."""
        for task in self.tasks:
            task.completed = min(task.total or 0.0, task.elapsed or 0.0)
        return super().get_renderables()
