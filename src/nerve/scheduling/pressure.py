"""How full a queue is, as a value that another process can look at, and what follows for a job."""

from __future__ import annotations

from typing import NamedTuple

from nerve.errors import Overloaded

# Share of the time until its deadline that a job may need by the measured rate: a rate is no promise.
_DEADLINE_SHARE = 0.9
# Longest wait that a rate tells of, as a multiple of the time in which it was measured: by one call of 7 tokens that
# was held up for 30 ms, 14,000 tokens would take a minute. A crowd that has just come takes the cores for some 0.4 s.
_FARTHEST = 20.0
_MAX_RETRY_AFTER_SECONDS = 60.0


class Pressure(NamedTuple):
    """The work of a queue.

    jobs, tokens: that wait. turn_tokens: of the first waiting window of each job. running_tokens: of what runs.
    seconds_per_token: of all threads together; 0 while nothing was measured. measured_seconds: in which it was.
    """

    jobs: float
    tokens: float
    turn_tokens: float
    running_tokens: float
    seconds_per_token: float
    measured_seconds: float

    def why_full(
        self,
        max_tokens: int,
        max_seconds: float,
        seconds_left: float,
        n_tokens: int = 1,
        n_windows: int = 1,
        own_seconds: float = 0.0,
    ) -> Overloaded | None:
        """Return why a job that takes `own_seconds` itself would be refused, or None.

        It is refused when its tokens do not fit, when it would have to wait longer than is allowed, and when it would
        miss its deadline, in `seconds_left`, by the measured rate. When nothing waits, none is.
        """
        if not self.jobs:
            return None
        if self.tokens + n_tokens > max_tokens:
            return self._overloaded(
                "queue_tokens", f"the queue is full (batching.max_queue_tokens = {max_tokens})"
            )
        # Each waiting job is served a window in its turn, so no more of them come before the last window of a job than
        # it has windows.
        ahead = self.running_tokens + min(self.tokens, n_windows * self.turn_tokens)
        farthest = _FARTHEST * self.measured_seconds
        wait = min(ahead * self.seconds_per_token, farthest)
        if wait > max_seconds:
            return self._overloaded("queue_wait", "the wait would be longer than batching.max_queue_ms")
        if min(wait + own_seconds, farthest) > _DEADLINE_SHARE * seconds_left:
            return self._overloaded(
                "queue_deadline", "the answer would come after the deadline of the request"
            )
        return None

    def _overloaded(self, reason: str, why: str) -> Overloaded:
        seconds = self.tokens * self.seconds_per_token
        return Overloaded(
            f"{why}: {self.tokens:.0f} tokens wait, {seconds:.2f} s of work at the present rate; "
            "send the request again later",
            retry_after_seconds=min(seconds, _MAX_RETRY_AFTER_SECONDS) if self.seconds_per_token else 1.0,
            reason=reason,
        )
