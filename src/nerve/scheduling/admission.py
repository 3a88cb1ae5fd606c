"""Tells more work than the model can do from clients that wait for their answers (pure: no clock, no threads).

Clients that each send the next request when they have an answer never have more requests under way than there
are clients, however slow the model is: to refuse one of them gains nothing. Requests that come whether or not the
earlier ones were answered pile up without bound as soon as they are more than the model can do. So the pile
tells which of the two it is: up to `POOL_WINDOWS` windows or `POOL_SECONDS` of work nobody is refused for a wait.
A larger pile is an overload, and while that lasts, waits are held short.
"""

from __future__ import annotations

# Windows under way up to which they may be those of a pool of clients; a request counts for at most so many.
POOL_WINDOWS = 128
MOST_WINDOWS_OF_ONE = 8
# A fast model has answered a pile of that many before anybody minds: this much work may be a pool's, too.
POOL_SECONDS = 0.25
# Wait of a large request, as a multiple of the time that the request itself takes.
PATIENCE = 4.0
# Most by which refusals outweigh requests that need not wait. The overload is over when they no longer do: with
# 15 % too many requests a short queue still runs empty now and then, with 10 % too few it does so all the time.
_MOST_EVIDENCE = 64
# A pause of this length without any work ends an overload at once.
_PAUSE_SECONDS = 0.25


class Admission:
    """Decides who is refused for the wait that it would have.

    max_queue_seconds: longest wait in an overload, of requests that are not large.
    """

    __slots__ = ("_evidence", "_max_queue_seconds")

    def __init__(self, max_queue_seconds: float) -> None:
        self._max_queue_seconds = max_queue_seconds
        self._evidence = 0

    @property
    def is_overload(self) -> bool:
        """True while there is more work than the model can do."""
        return self._evidence > 0

    def is_long(self, ahead_seconds: float, own_seconds: float) -> bool:
        """Tell whether a wait is too long in an overload, for a request that takes `own_seconds` itself."""
        return ahead_seconds > max(self._max_queue_seconds, PATIENCE * own_seconds)

    @staticmethod
    def is_pool(n_windows: int, seconds: float) -> bool:
        """Tell whether what is under way may be that of clients that wait for their answers.

        n_windows: of the requests under way and the new one, of each at most `MOST_WINDOWS_OF_ONE`.
        seconds: of work that is under way.
        """
        return n_windows <= POOL_WINDOWS or seconds <= POOL_SECONDS

    def note_refusal(self) -> None:
        """Take note that a request was refused for its wait; the first one begins an overload."""
        self._evidence = min(_MOST_EVIDENCE, self._evidence + 1) if self._evidence else _MOST_EVIDENCE

    def note_idle(self, seconds: float) -> None:
        """Take note of a request that need not wait; `seconds` ago the model had its last work."""
        self._evidence = self._evidence - 1 if seconds < _PAUSE_SECONDS else 0
