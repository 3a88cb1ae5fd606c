"""Tells how long the model takes, from the calls it has made so far (pure: no clock, no threads)."""

from __future__ import annotations

# Weight of the newest call in the smoothed rate.
_SMOOTHING = 0.1
# Most that one call counts for, as a multiple of the time it should have taken: a process that was stopped
# for a while has not become slow for good.
_MOST_DELAY = 8.0


class Rates:
    """The rate of all threads together, in tokens a second, smoothed."""

    __slots__ = ("_mean_seconds", "_mean_tokens")

    def __init__(self) -> None:
        self._mean_tokens = 0.0
        self._mean_seconds = 0.0

    @property
    def is_measured(self) -> bool:
        """True when there was a call."""
        return self._mean_tokens > 0

    def seconds_for(self, n_tokens: float) -> float:
        """Return how long all threads together take for these tokens; 0 while nothing was measured."""
        return n_tokens * self._mean_seconds / self._mean_tokens if self._mean_tokens else 0.0

    def note_call(self, n_tokens: int, seconds: float, n_beside: int) -> None:
        """Take note of a call.

        seconds: of the call and what comes between calls.
        n_beside: calls of this kind that can run side by side.
        """
        seconds = max(seconds, 1e-9) / n_beside
        if self._mean_tokens:
            seconds = min(seconds, _MOST_DELAY * self.seconds_for(n_tokens))
        self._mean_tokens = _smooth(self._mean_tokens, n_tokens)
        self._mean_seconds = _smooth(self._mean_seconds, seconds)


def _smooth(old: float, new: float) -> float:
    return old + _SMOOTHING * (new - old) if old else new
