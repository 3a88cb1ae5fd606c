"""Clients that wait for their answers are never refused; a stream that does not wait is held short."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerve.scheduling.admission import POOL_SECONDS, POOL_WINDOWS, Admission

LIMIT = 0.025  # seconds; `batching.max_queue_ms` as shipped


@dataclass
class Line:
    """One server with a queue, in simulated time; every request is one window and takes `service` seconds.

    It asks an `Admission` as `Queue` does, and takes waiting requests off when an overload begins.
    """

    service: float
    admission: Admission = field(default_factory=lambda: Admission(LIMIT))
    waiting: deque[tuple[float, int]] = field(default_factory=deque)  # (arrival, tag)
    busy_until: float = -1.0
    waits: list[tuple[float, float]] = field(default_factory=list)  # (arrival, wait) of what was answered
    refusals: list[float] = field(default_factory=list)  # when
    ends: list[tuple[float, int]] = field(default_factory=list)  # a heap: (end, tag) of what runs
    last_end: float = 0.0

    def run_until(self, now: float) -> list[tuple[float, int]]:
        """Serve until `now`; returns (end, tag) of what was answered."""
        done = []
        while self.ends and self.ends[0][0] <= now:
            end, tag = heapq.heappop(self.ends)
            self.last_end = end
            done.append((end, tag))
            if self.waiting:
                arrival, tag = self.waiting.popleft()
                self.waits.append((arrival, end - arrival))
                heapq.heappush(self.ends, (end + self.service, tag))
        return done

    def arrive(self, now: float, tag: int) -> bool:
        """Offer a request; tells whether it was admitted."""
        if not self.ends:
            if self.admission.is_overload:
                self.admission.note_idle(now - self.last_end)
            self.waits.append((now, 0.0))
            heapq.heappush(self.ends, (now + self.service, tag))
            return True
        n_ahead = len(self.waiting) + 1
        seconds = n_ahead * self.service
        is_long = self.waiting and self.admission.is_long(seconds, self.service)
        if is_long and (self.admission.is_overload or not self.admission.is_pool(n_ahead + 1, seconds)):
            if not self.admission.is_overload:
                kept = max(1, int(max(LIMIT, 4 * self.service) / self.service))
                while len(self.waiting) > kept:
                    self.waiting.pop()
                    self.refusals.append(now)
            self.admission.note_refusal()
            self.refusals.append(now)
            return False
        self.waiting.append((now, tag))
        return True


def stream(line: Line, rate: float, start: float, end: float, seed: int) -> None:
    """Offer a Poisson stream of `rate` requests a second that waits for nothing."""
    rng = random.Random(seed)
    now = start
    while (now := now + rng.expovariate(rate)) < end:
        line.run_until(now)
        line.arrive(now, 0)


@settings(max_examples=25, deadline=None)
@given(
    n_clients=st.integers(1, POOL_WINDOWS),
    service=st.floats(0.0001, 0.5),
    think=st.floats(0.0, 1.0),
    ramp=st.floats(0.0, 2.0),
    seed=st.integers(0, 1000),
)
def test_pool_of_clients_is_never_refused(
    n_clients: int, service: float, think: float, ramp: float, seed: int
) -> None:
    """As many clients as 128, at once or one after the other, with pauses or without, on any machine."""
    rng = random.Random(seed)
    line = Line(service)
    arrivals = [(rng.uniform(0, ramp), client) for client in range(n_clients)]
    heapq.heapify(arrivals)
    for _ in range(20 * n_clients):
        while not arrivals or (line.ends and line.ends[0][0] <= arrivals[0][0]):
            for end, client in line.run_until(line.ends[0][0]):
                heapq.heappush(arrivals, (end + rng.uniform(0, think * service * n_clients), client))
        now, client = heapq.heappop(arrivals)
        assert line.arrive(now, client)


@settings(max_examples=20, deadline=None)
@given(service=st.floats(0.0002, 0.005), seed=st.integers(0, 1000))
def test_pool_of_any_size_is_not_refused_by_a_fast_model(service: float, seed: int) -> None:
    """More clients than 128 are a pool, too, while a quarter of a second answers them all."""
    n_clients = max(POOL_WINDOWS, int(POOL_SECONDS / service) - 2)
    line = Line(service)
    for client in range(n_clients):
        assert line.arrive(0.0, client)
    for _ in range(3 * n_clients):
        ((end, client),) = line.run_until(line.ends[0][0])
        assert line.arrive(end, client)


@settings(max_examples=20, deadline=None)
@given(service=st.floats(0.0005, 0.01), factor=st.floats(1.5, 10.0), seed=st.integers(0, 1000))
def test_overload_is_held_short(service: float, factor: float, seed: int) -> None:
    """Once a stream has shown itself, no wait is above the limit, nothing idles, and few have waited long."""
    line = Line(service)
    seconds = 20.0
    stream(line, factor / service, 0.0, seconds, seed)
    begin = line.refusals[0]
    limit = max(LIMIT, 4 * service)
    late = [wait for arrival, wait in line.waits if arrival > begin]
    assert max(late) <= limit + service
    assert sum(wait > limit + service for _, wait in line.waits) <= 1.3 * begin / service + 2
    pool = max(POOL_WINDOWS, POOL_SECONDS / service)
    assert begin <= 1.5 * pool * service / (factor - 1) + 0.5
    assert len(line.waits) >= 0.97 * seconds / service


@settings(max_examples=20, deadline=None)
@given(service=st.floats(0.001, 0.01), seed=st.integers(0, 1000))
def test_slight_overload_stays_one(service: float, seed: int) -> None:
    """At 15 % too much the queue runs empty at times; that does not let it grow to a pool's size again."""
    line = Line(service)
    stream(line, 1.15 / service, 0.0, 60.0, seed)
    late = [wait for arrival, wait in line.waits if line.refusals and arrival > line.refusals[0]]
    assert sum(wait > LIMIT + 5 * service for wait in late) <= 0.02 * len(late)


@settings(max_examples=20, deadline=None)
@given(service=st.floats(0.001, 0.01), share=st.floats(0.1, 0.8), seed=st.integers(0, 1000))
def test_overload_ends(service: float, share: float, seed: int) -> None:
    """With less than the model can do, refusals end soon; and after a pause a pool is a pool again."""
    line = Line(service)
    stream(line, 3 / service, 0.0, 10.0, seed)
    assert line.admission.is_overload
    stream(line, share / service, 10.0, 20.0, seed)
    assert not line.admission.is_overload
    assert not [when for when in line.refusals if when > 18.0]
    stream(line, 3 / service, 20.0, 25.0, seed)
    assert line.admission.is_overload
    line.run_until(26.0)
    assert all(line.arrive(26.0, client) for client in range(POOL_WINDOWS))


@pytest.mark.parametrize(
    ("ahead", "own", "is_long"),
    [(0.02, 0.001, False), (0.03, 0.001, True), (0.9, 0.3, False), (1.3, 0.3, True)],
)
def test_large_request_has_more_patience(ahead: float, own: float, is_long: bool) -> None:
    """A wait of four times its own time is not long for a request, whatever the limit."""
    assert Admission(LIMIT).is_long(ahead, own) is is_long
