"""A progress bar on stderr, over texts."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
