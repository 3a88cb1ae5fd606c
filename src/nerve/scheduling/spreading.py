"""Tells whether a lone call should use all cores, from what requests meet when they come (pure: no clock, no threads).

A call on all cores ends sooner than one on a core of its own, but computes a tenth to a third more. While requests come
one after the other that costs nothing. The closer they come together, the more of them find a call running, and
wait for cores that the call before them could have left free.
"""

from __future__ import annotations

# Share of the requests that come while a call runs, from which on calls keep to one core. Where one call after the
# other has all cores, that share is their utilization. By the formulas of the queues M/D/1 and M/D/2, requests at
# random moments take as long on two cores together as on one of two at a utilization of 0.57 where a call on both takes
# 1 / 1.5 of the time, and of 0.75 where it takes 1 / 1.8. Both were measured (docs/decisions/0006).
_CROWDED = 0.7
# Weight of the newest request.
_SMOOTHING = 0.02


class Spreading:
    """Watches the requests of one lane.

    is_possible: there are more cores than one for a call.
    """

    __slots__ = ("_is_possible", "_share")

    def __init__(self, is_possible: bool) -> None:
        self._is_possible = is_possible
        self._share = 0.0  # of the requests, smoothed, that came while a call ran

    def note_arrival(self, *, is_running: bool) -> None:
        """Take note of a request. is_running: it finds a call that has not ended."""
        self._share += _SMOOTHING * (is_running - self._share)

    @property
    def is_worthwhile(self) -> bool:
        """True when a call with which nothing else runs or waits may have all cores."""
        return self._is_possible and self._share < _CROWDED
