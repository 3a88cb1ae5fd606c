"""What a defect costs: the thing that it happened in, a line in the log, and no more.

A thread that serves all requests of a process must not end with one exception: `survive` is around each of its steps.
What still escapes, from a thread or from a callback that nobody waits for, is logged without its message, which could
quote a text.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING

from nerve.errors import stack_of

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# A step that fails again and again is logged once in so many seconds.
_QUIET_SECONDS = 5.0
_logged_at: dict[str, float] = {}


def survive(step: Callable[[], object], what: str) -> bool:
    """Do a step, whatever it raises; returns whether it was done.

    what: where the defect was, for the log: "in the canary".
    """
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - whoever calls this must go on
        log_defect(error, what)
        return False
    return True


def log_defect(error: BaseException, what: str) -> None:
    """Write where a defect happened; see `survive`. Never raises, not even for want of memory."""
    try:
        now = time.monotonic()
        if now - _logged_at.get(what, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            _logged_at[what] = now
            log.error("a defect %s: %s", what, stack_of(error))
    except BaseException:  # noqa: BLE001, S110 - there is nowhere left to say it
        pass


def log_what_escapes() -> None:
    """Log what ends a thread of this process, or is raised where nothing can catch it."""

    def escaped_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
            log_defect(
                found.exc_value, f"in thread {found.thread.name if found.thread else '?'}, which has ended"
            )

    def escaped(found: sys.UnraisableHookArgs) -> None:
        if found.exc_value is not None:
            log_defect(found.exc_value, "that nobody waits for")

    threading.excepthook = escaped_thread
    sys.unraisablehook = escaped
