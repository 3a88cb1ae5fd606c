"""What a queue has measured: how fast its calls are, and how requests come (pure: no clock, no threads)."""

from __future__ import annotations

import math

# A call is half forgotten after so many seconds of calls, but never faster than after `_LEAST_CALLS` calls: by a few
# short ones, of which one was held up, the rate would be a hundred times too low.
_HALF_LIFE_SECONDS = 0.7
_LEAST_CALLS = 7
_LEAST_DECAY = 0.5 ** (1 / _LEAST_CALLS)
# Most that one call counts for, as a multiple of the time it should have taken, or in seconds where that is more: a
# process that was stopped for a while has not become slow for good.
_MOST_DELAY = 8.0
_MOST_DELAY_SECONDS = 0.1


class Rates:
    """The rate of all threads together, in tokens a second, of the last calls.

    measured_seconds: that all calls have taken until now, for all threads together.
    """

    __slots__ = ("_seconds", "_tokens", "measured_seconds")

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self.measured_seconds = 0.0

    @property
    def is_measured(self) -> bool:
        """True when there was a call."""
        return self._tokens > 0

    def seconds_for(self, n_tokens: float) -> float:
        """Return how long all threads together take for these tokens; 0 while nothing was measured."""
        return n_tokens * self._seconds / self._tokens if self._tokens else 0.0

    def note_call(self, n_tokens: int, seconds: float, n_beside: int) -> None:
        """Take note of a call.

        seconds: of the call and what comes between calls.
        n_beside: calls of this kind that can run side by side.
        """
        seconds = max(seconds, 1e-9) / n_beside
        kept = max(_LEAST_DECAY, math.exp2(-seconds / _HALF_LIFE_SECONDS))
        if self._tokens:
            seconds = min(seconds, max(_MOST_DELAY * self.seconds_for(n_tokens), _MOST_DELAY_SECONDS))
        self._tokens = kept * self._tokens + n_tokens
        self._seconds = kept * self._seconds + seconds
        self.measured_seconds += seconds


# Share of the requests that come while a call runs, from which on calls keep to one core. Where one call after the
# other has all cores, that share is their utilization. By the formulas of the queues M/D/1 and M/D/2, requests at
# random moments take as long on two cores together as on one of two at a utilization of 0.57 where a call on both takes
# 1 / 1.5 of the time, and of 0.75 where it takes 1 / 1.8. Both were measured (docs/decisions/0006).
_CROWDED = 0.7
# Weight of the newest request.
_CROWD_SMOOTHING = 0.02


class Spreading:
    """Tells whether a lone call should use all cores, from what requests meet when they come.

    A call on all cores ends sooner than one on a core of its own, but computes a tenth to a third more. While requests
    come one after the other that costs nothing. The closer they come together, the more of them find a call running,
    and wait for cores that the call before them could have left free.

    is_possible: there are more cores than one for a call.
    """

    __slots__ = ("_is_possible", "_share")

    def __init__(self, is_possible: bool) -> None:
        self._is_possible = is_possible
        self._share = 0.0  # of the requests, smoothed, that came while a call ran

    def note_arrival(self, *, is_running: bool) -> None:
        """Take note of a request. is_running: it finds a call that has not ended."""
        self._share += _CROWD_SMOOTHING * (is_running - self._share)

    @property
    def is_worthwhile(self) -> bool:
        """True when a call with which nothing else runs or waits may have all cores."""
        return self._is_possible and self._share < _CROWDED


# Most of the call before it that a wait may take.
_SHARE = 0.1
# A shorter wait is not worth its wake-up; in a longer one nobody comes who comes at once.
_LEAST_SECONDS = 0.0002
_MOST_SECONDS = 0.002
# Longest that answers may take to be sent: while they are, those who have theirs are expected already.
_SENDING_SECONDS = 0.01
# Share of the expected windows, smoothed over the waits, from which on the next ones are likely to come.
_LIKELY = 0.5
_WAIT_SMOOTHING = 0.2
# Calls after a wait until there is another one where nobody is likely to come.
_PATIENCE = 16


class Gathering:
    """Tells how long a thread should wait for the clients that it has just answered to send again.

    Clients that each send their next request when they have an answer send it within a moment. A thread that takes what
    waits when its call ends takes the first of them alone, and leaves the others to calls of their own. It may wait for
    them, but only where clients were seen to send again: requests that come at their own pace would only lose time.
    What happened during a wait shows it; without one, clients of the same machine get a core too late to be seen. So
    now and then a thread waits where nobody is likely to come, to see.
    """

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
        self._share += _WAIT_SMOOTHING * (share - self._share)
        self._n_calls = 0
        if not came:
            self._missing = 0

    def expected(self, now: float) -> int:
        """Return the windows that should come yet."""
        return self._missing if now < self._end else 0

    def seconds_left(self, now: float) -> float:
        """Return how long they may take."""
        return max(0.0, self._end - now)
