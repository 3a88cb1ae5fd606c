"""One way to drop a request, whatever step it is at: decoding, tokenizing, in the queue, making its answer.

Each step notes how it is dropped before it begins, and does not begin once the request was dropped.

Threads: any may call anything. `begin` writes first and reads then, `set` reads last: whatever their order is, one of
the two sees the other, so that no step is missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancel:
    """Drops what one request does at the moment. `is_set`: nobody waits for the request any more."""

    __slots__ = ("_drop", "is_set")

    def __init__(self) -> None:
        self._drop: Callable[[], object] | None = None
        self.is_set = False

    def begin(self, drop: Callable[[], object]) -> bool:
        """Note how the next step is dropped, in place of the one before; False when it must not begin any more."""
        self._drop = drop
        if self.is_set:
            self._drop = None
            return False
        return True

    def set(self) -> None:
        """Drop the request, for good."""
        self.is_set = True
        drop, self._drop = self._drop, None
        if drop is not None:
            drop()

    def end(self) -> None:
        """Let go of the last step: it holds what holds this."""
        self._drop = None
