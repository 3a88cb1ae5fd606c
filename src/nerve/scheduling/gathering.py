"""Tells how long a thread should wait for the clients that it has just answered to send again (pure: no clock).

Clients that each send their next request when they have an answer send it within a moment. A thread that takes what
waits when its call ends takes the first of them alone, and leaves the others to calls of their own. It may wait for
them, but only where clients were seen to send again: requests that come at their own pace would only lose time.
What happened during a wait shows it; without one, clients of the same machine get a core too late to be seen. So now
and then a thread waits where nobody is likely to come, to see.
"""

from __future__ import annotations

# Most of the call before it that a wait may take.
_SHARE = 0.1
# A shorter wait is not worth its wake-up; in a longer one nobody comes who comes at once.
_LEAST_SECONDS = 0.0002
_MOST_SECONDS = 0.002
# Longest that answers may take to be sent: while they are, those who have theirs are expected already.
_SENDING_SECONDS = 0.01
# Share of the expected windows, smoothed over the waits, from which on the next ones are likely to come.
_LIKELY = 0.5
_SMOOTHING = 0.2
# Calls after a wait until there is another one where nobody is likely to come.
_PATIENCE = 16


class Gathering:
    """Counts the windows that were answered and are to be followed by as many new ones."""

    __slots__ = ("_end", "_missing", "_n_calls", "_seconds", "_share")

    def __init__(self) -> None:
        self._share = 1.0  # of the expected windows, that came
        self._n_calls = 0  # since the last wait
        self._missing = 0
        self._seconds = 0.0
        self._end = 0.0  # when those that are missing are not expected any more

    def note_answers(self, now: float, n_windows: int, call_seconds: float) -> None:
        """Take note of the windows of requests that were finished by a call, before they are sent."""
        self._n_calls += 1
        seconds = min(_MOST_SECONDS, _SHARE * call_seconds)
        if seconds < _LEAST_SECONDS or (self._share < _LIKELY and self._n_calls <= _PATIENCE):
            return
        self._missing = self.expected(now) + n_windows
        self._seconds = seconds
        self._end = now + _SENDING_SECONDS

    def note_sent(self, now: float) -> None:
        """Take note that all answers of a call have been sent."""
        if self._missing:
            self._end = min(self._end, now + self._seconds)

    def note_arrival(self, n_windows: int) -> None:
        """Take note of a request."""
        self._missing = max(0, self._missing - n_windows)

    def note_wait(self, n_expected: int, *, came: bool) -> None:
        """Take note of a wait that is over.

        n_expected: windows that were expected when it began. came: enough of them did.
        """
        share = 1.0 if came else 1 - min(1.0, self._missing / n_expected)
        self._share += _SMOOTHING * (share - self._share)
        self._n_calls = 0
        if not came:
            self._missing = 0

    def expected(self, now: float) -> int:
        """Return the windows that should come yet."""
        return self._missing if now < self._end else 0

    def seconds_left(self, now: float) -> float:
        """Return how long they may take."""
        return max(0.0, self._end - now)
