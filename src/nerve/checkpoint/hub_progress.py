"""Shows how far a download of huggingface_hub is as all other work is shown: a bar, or lines where none can be drawn.

The library makes one object of a class of tqdm's interface for each file and calls `update` as bytes arrive; with
hf_xet from other threads, and with a negative number where it begins again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from nerve.observability.progress import Unit, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nerve.observability.progress import Task


@contextmanager
def reported(title: str, *, show: bool) -> Iterator[type]:
    """Give the block a class for `tqdm_class`; what is reported to it goes on under `title`.

    show: draw a bar on stderr, unless HF_HUB_DISABLE_PROGRESS_BARS forbids it; else lines.
    """
    with progress(title, unit=Unit.BYTES, show=show and not are_progress_bars_disabled()) as task:

        class Reporter(_Reporter):
            """Reports to the task of this block."""

            _task = task

        yield Reporter


class _Reporter:
    """What the library uses of tqdm's interface."""

    _task: Task

    def __init__(self, *_: object, total: float | None = None, initial: float = 0, **_more: object) -> None:
        self._task.resume(initial, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, amount: float | None = 1) -> None:
        """Say that so many bytes more are here."""
        self._task.advance(amount or 0)

    def update_transfer(self, amount: float | None = 1) -> None:
        """Take the bytes on the wire, which are not shown: hf_xet needs fewer than the file has."""

    def set_postfix_str(self, *_: object, **_more: object) -> None:
        """Take the library's own words on speed, which are not shown."""

    set_transfer_postfix_str = set_transfer_speed = refresh = close = set_postfix_str
