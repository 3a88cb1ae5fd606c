"""Tells how long the model takes, from the calls it has made so far (pure: no clock, no threads)."""

from __future__ import annotations

# Weight of the newest call in the smoothed rate.
_SMOOTHING = 0.1
# What remains of the best rate of one call with each later call.
_DECAY = 0.99
# So many calls in a row must have computed for less than that before one counts as quick: a model may be slow on some
# texts. CPU time counts, because a call that lost its core for a while says nothing of the model.
_QUICK_CALLS = 100
_SLOW_SECONDS = 0.005
# Most that one call counts for, as a multiple of the time it should have taken: a process that was stopped
# for a while has not become slow for good.
_MOST_DELAY = 8.0


class Rates:
    """Two rates, in tokens a second: of all threads together, smoothed; of one call, the best of late."""

    __slots__ = ("_call_rate", "_mean_seconds", "_mean_tokens", "_n_quick")

    def __init__(self) -> None:
        self._mean_tokens = 0.0
        self._mean_seconds = 0.0
        self._call_rate = 0.0  # what a call takes on a thread whose caches are warm
        self._n_quick = 0  # calls in a row that were not slow

    @property
    def is_measured(self) -> bool:
        """True when there was a call."""
        return self._mean_tokens > 0

    def seconds_for(self, n_tokens: float) -> float:
        """Return how long all threads together take for these tokens; 0 while nothing was measured."""
        return n_tokens * self._mean_seconds / self._mean_tokens if self._mean_tokens else 0.0

    def is_quick(self, n_tokens: int, limit_seconds: float) -> bool:
        """Tell whether such a call takes less than `limit_seconds`, and none of the last hundred was slow."""
        return self._n_quick >= _QUICK_CALLS and 0 < n_tokens < limit_seconds * self._call_rate

    def note_call(self, n_tokens: int, cpu_seconds: float, seconds: float, n_beside: int) -> None:
        """Take note of a call.

        cpu_seconds: that the call computed, on its own thread.
        seconds: of the call and what comes between calls.
        n_beside: calls of this kind that can run side by side.
        """
        self._n_quick = self._n_quick + 1 if cpu_seconds < _SLOW_SECONDS else 0
        self._call_rate = max(_DECAY * self._call_rate, n_tokens / max(cpu_seconds, 1e-9))
        seconds = max(seconds, 1e-9) / n_beside
        if self._mean_tokens:
            seconds = min(seconds, _MOST_DELAY * self.seconds_for(n_tokens))
        self._mean_tokens = _smooth(self._mean_tokens, n_tokens)
        self._mean_seconds = _smooth(self._mean_seconds, seconds)


def _smooth(old: float, new: float) -> float:
    return old + _SMOOTHING * (new - old) if old else new
