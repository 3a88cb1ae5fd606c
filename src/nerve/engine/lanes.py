"""Opens the lanes of an engine: a queue with threads of its own each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.channel.front import FrontLane
from nerve.scheduling.lane import Lane
from nerve.scheduling.queue import Queue
from nerve.scheduling.threads import EngineThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.models.model import Model
    from nerve.scheduling.batching import Job

# Engine threads on the CPU run at lower priority than the threads that talk to clients (docs/decisions/0008),
# and those of the bulk lane at a lower one still, by so much: about an eighth of a contended core is left to these.
NICENESS = 10
_BULK_NICENESS = 9
_MOST_NICENESS = 19


def open_lanes(
    model: Model,
    max_queue_tokens: int,
    max_queue_seconds: float,
    deliver: Callable[[list[Job]], None],
    on_batch: Callable[[int, int, int, float, int], None] | None,
    niceness: int,
    on_state: Callable[[bool], None],
) -> tuple[Lane | FrontLane, Lane | FrontLane]:
    """Return the lane of short requests and that of large ones; on a GPU, and for one elsewhere, they are one.

    max_queue_tokens, max_queue_seconds: of each queue. deliver, on_batch, niceness: as for `Lane`, of the first.
    on_state: as for `FrontLane`.
    """

    def open_lane(
        lane_niceness: int, *, may_spread: bool, gathers: bool, has_cores: Callable[[], bool] = lambda: True
    ) -> Lane:
        return Lane(
            Queue(model.policy, max_queue_tokens, max_queue_seconds, model.n_threads, may_spread, gathers),
            model.backend.run,
            deliver,
            [model.thread]
            if model.thread
            else [EngineThread(f"nerve-engine-{k}") for k in range(model.n_threads)],
            on_batch,
            lane_niceness,
            has_cores,
        )

    if model.remote is not None:
        front = FrontLane(model.remote, deliver, on_state, max_queue_tokens, max_queue_seconds)
        return front, front
    if not model.shares_cores:
        lane = open_lane(0, may_spread=model.can_spread, gathers=False)
        return lane, lane
    bulk = open_lane(min(_MOST_NICENESS, niceness + _BULK_NICENESS), may_spread=False, gathers=False)
    # A short call on all cores would leave a batch job of many requests none.
    lane = open_lane(niceness, may_spread=model.can_spread, gathers=True, has_cores=bulk.is_idle)
    return lane, bulk
