"""Every rule of the queue, by calling it: the times are given, and there is no thread, no clock and no model."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerve.errors import (
    DeadlineExceeded,
    DeviceFailed,
    InferenceFailed,
    NerveError,
    Overloaded,
    Unavailable,
)
from nerve.scheduling.batching import Batch, BatchPolicy, Job
from nerve.scheduling.queue import Queue
from nerve.types import TokenScores, Window

RATE = 100.0  # tokens a second that the model computes here, if nothing else is said


class Bench:
    """A queue, the time, and what became of its jobs."""

    def __init__(
        self,
        n_threads: int = 1,
        max_tokens: int = 1000,
        max_batch_size: int = 8,
        token_budget: int = 64,
        is_packed: bool = False,
        **options: Any,
    ) -> None:
        self.policy = BatchPolicy(token_budget, max_batch_size, 1.0, is_packed)
        self.queue = Queue(self.policy, max_tokens, n_threads=n_threads, **options)
        self.now = 1000.0
        self.batches: list[list[int]] = []  # tags of the windows of each batch
        self.began: dict[Batch, float] = {}
        self.delivered: list[Job] = []

    def submit(self, tag: int, n_windows: int = 1, length: int = 4, **options: Any) -> Job:
        """Submit a job whose windows hold nothing but `tag`; raises what it is refused with."""
        job = make_job(tag, n_windows, length, **options)
        refusal = self.queue.admit(job, self.now)
        if refusal is not None:
            raise refusal
        return job

    def begin(self) -> Batch:
        """Take the next batch, as a thread that is free does."""
        self.delivered += self.queue.expire(self.now)
        batch = self.choose()
        assert batch is not None
        return batch

    def choose(self) -> Batch | None:
        """Take the next batch, if one should run now."""
        batch = self.queue.choose(self.now)
        if batch is not None:
            self.began[batch] = self.now
            self.batches.append(tags_of(batch))
        return batch

    def end(self, batch: Batch, seconds: float | None = None, failure: Exception | None = None) -> None:
        """End a batch after so many more seconds, by `RATE` if nothing is said."""
        self.now += batch.n_tokens / RATE if seconds is None else seconds
        outcome = failure or [
            TokenScores(np.array(window.ids), np.ones(len(window.ids), np.float32), None)
            for window in batch.windows
        ]
        began = self.began.pop(batch)
        self.delivered += self.queue.settle(batch, outcome, began, self.now, began)
        self.queue.note_sent(self.now)

    def hold(self, tag: int = 999) -> Batch:
        """Begin a batch of one window, which keeps one thread busy."""
        self.submit(tag)
        return self.begin()

    def run(self) -> None:
        """Run batches one after the other until nothing waits."""
        while len(self.queue):
            self.delivered += self.queue.expire(self.now)
            n_awaited = self.queue.awaited(self.now)
            batch = self.choose()
            if batch is not None:
                self.end(batch)
            elif n_awaited:
                self.now += self.queue.seconds_to_wait(self.now)
                self.queue.note_wait(n_awaited, came=False)

    def measure(self) -> None:
        """Let the rate be known."""
        self.submit(0, length=100)
        self.run()
        self.delivered.clear()


def make_job(
    tag: int, n_windows: int = 1, length: int = 4, needs_logits: bool = False, deadline: float = math.inf
) -> Job:
    """Make a job whose windows hold nothing but `tag`."""
    return Job([Window([tag] * length, k) for k in range(n_windows)], needs_logits, deadline)


def tag_of(job: Job) -> int:
    """Return what the windows of a job hold."""
    return int(job.windows[0].ids[0])


def tags_of(batch: Batch) -> list[int]:
    """Return the tag of each window of a batch."""
    return [int(window.ids[0]) for window in batch.windows]


# --- what runs next -----------------------------------------------------------------------------------


def test_each_window_gets_its_own_scores() -> None:
    """Results go to the window they were computed for, in its job's order."""
    b = Bench(max_batch_size=3)
    jobs = [b.submit(tag, n_windows=tag) for tag in (1, 2, 3)]
    b.run()
    for tag, job in zip((1, 2, 3), jobs, strict=True):
        assert [scores.label_ids.tolist() for scores in job.scores()] == [[tag] * 4] * tag


def test_times_of_a_job() -> None:
    """It waits until its first window runs, and is at work from there until its last one is done."""
    b = Bench(max_batch_size=1)
    held = b.hold()
    job = b.submit(1, n_windows=2)
    b.end(held, seconds=3.0)
    for seconds in (5.0, 7.0):
        b.end(b.begin(), seconds)
    assert b.delivered[-1] is job
    assert job.queue_seconds == pytest.approx(3.0)
    assert job.inference_seconds == pytest.approx(12.0)


def test_arrivals_share_the_next_batch() -> None:
    """A job that meets a free thread runs alone; those that come meanwhile run together."""
    b = Bench()
    held = b.hold(1)
    for tag in (2, 3, 4):
        b.submit(tag)
    assert (len(b.queue), b.queue.tokens) == (3, 12)
    b.end(held)
    b.run()
    assert b.batches == [[1], [2, 3, 4]]
    assert (len(b.queue), b.queue.tokens) == (0, 0)
    assert b.queue.choose(b.now) is None
    assert b.queue.n_calls == 2


def test_short_requests_overtake_one_of_many_windows() -> None:
    """After each of its windows a request goes to the end of the queue."""
    b = Bench(max_batch_size=1)
    b.submit(1, n_windows=20)
    b.submit(2)
    b.submit(3)
    b.run()
    assert [tag_of(job) for job in b.delivered] == [2, 3, 1]
    assert b.batches[:4] == [[1], [2], [3], [1]]


def test_short_request_overtakes_many_of_many_windows() -> None:
    """A batch is the turn of all its jobs: whoever comes later waits for one window of each, not for all of them."""
    b = Bench(max_batch_size=4, max_tokens=10_000)
    for tag in range(16):
        b.submit(tag, n_windows=30)
    b.submit(99)
    b.run()
    assert [99] not in b.batches[:4]
    assert 99 in b.batches[4]
    assert b.batches[:4] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_jobs_with_and_without_logits_do_not_mix() -> None:
    """A batch is for jobs that need logits or for jobs that do not."""
    b = Bench()
    for tag in range(6):
        b.submit(tag, needs_logits=tag % 2 == 1)
    for tags in ([0, 2, 4], [1, 3, 5]):
        batch = b.begin()
        assert tags_of(batch) == tags
        assert batch.needs_logits is (tags[0] % 2 == 1)
        b.end(batch)


def test_even_shares_of_two_threads() -> None:
    """Six windows wait while one runs: the next thread leaves the other one its share of the seven."""
    b = Bench(n_threads=2, token_budget=1000)
    first, _ = b.hold(), b.hold()
    for tag in range(6):
        b.submit(tag)
    b.end(first)
    assert len(b.begin().windows) == 4


def test_windows_of_one_job_are_shared_out() -> None:
    """Several threads that are free take a part of it each."""
    b = Bench(n_threads=2)
    job = b.submit(1, n_windows=4)
    first, second = b.begin(), b.begin()
    assert [len(first.windows), len(second.windows)] == [2, 2]
    b.end(second)
    assert b.delivered == []
    b.end(first)
    assert b.delivered == [job]
    assert len(job.scores()) == 4


def test_packed_batches_are_limited_by_their_sum() -> None:
    """With a packed graph a long and many short windows share a batch."""
    b = Bench(is_packed=True)
    job = Job([Window([1] * n, 0) for n in (40, 8, 8, 8, 1)], needs_logits=False)
    assert b.queue.admit(job, b.now) is None
    assert [batch.n_tokens for batch in (b.begin(), b.begin())] == [64, 1]


# --- admission ----------------------------------------------------------------------------------------


def test_job_is_admitted_whole_or_refused_whole() -> None:
    """A job that does not fit leaves no window in the queue; one that fits is still admitted."""
    b = Bench(max_tokens=10)
    b.hold()
    b.submit(1, n_windows=2, length=3)
    with pytest.raises(Overloaded) as refused:
        b.submit(2, n_windows=5, length=1)
    assert refused.value.reason == "queue_tokens"
    assert "batching.max_queue_tokens = 10): 6 tokens wait" in str(refused.value)
    assert b.queue.tokens == 6
    b.submit(3, length=4)
    b.run()
    assert not any(2 in batch for batch in b.batches)


def test_job_larger_than_the_queue_is_admitted_when_nothing_waits() -> None:
    """A request that could never fit is not refused for ever."""
    b = Bench(max_tokens=10)
    b.hold()
    job = b.submit(1, n_windows=5, length=4)
    b.run()
    assert len(job.scores()) == 5


def test_full_queue_says_so_beforehand() -> None:
    """Whoever asks is told what any job would be; nothing is changed by that, and an empty queue is never full."""
    b = Bench(max_tokens=10)
    b.hold()
    assert b.queue.why_full(b.now, math.inf) is None
    b.submit(1, length=9)
    assert b.queue.why_full(b.now, math.inf) is None
    b.submit(2, length=1)
    for _ in range(2):
        refusal = b.queue.why_full(b.now, math.inf)
        assert refusal is not None
        assert refusal.reason == "queue_tokens"
    b.run()
    assert b.queue.why_full(b.now, math.inf) is None
    assert [job.error for job in b.delivered] == [None] * 2


def test_retry_after_is_the_queue_over_the_measured_rate() -> None:
    """`retry_after_seconds` is what waits over the rate: smoothed tokens by smoothed seconds; at first 1 s."""
    b = Bench(max_tokens=10)
    held = b.hold()
    b.submit(1, length=10)
    with pytest.raises(Overloaded) as unmeasured:
        b.submit(2)
    assert unmeasured.value.retry_after_seconds == 1.0
    b.end(held, seconds=0.2)
    b.end(b.begin(), seconds=0.3)
    kept = 0.5 ** (1 / 7)  # of the first call
    rate = (kept * 4 + 10) / (kept * 0.2 + 0.3)
    b.hold()
    b.submit(3, length=8)
    with pytest.raises(Overloaded) as refused:
        b.submit(4)
    assert refused.value.retry_after_seconds == pytest.approx(8 / rate)


def test_nobody_is_sent_away_for_longer_than_a_minute() -> None:
    """However slow the model is."""
    b = Bench(max_tokens=10)
    b.end(b.hold(), seconds=400.0)
    b.hold()
    b.submit(1, length=10)
    with pytest.raises(Overloaded) as refused:
        b.submit(2)
    assert refused.value.retry_after_seconds == 60.0


def test_one_call_that_was_held_up_does_not_spoil_the_rate() -> None:
    """A process that was stopped for minutes is as fast as before when it goes on."""
    b = Bench()
    for seconds in (*[0.01] * 10, 100.0):
        b.submit(1, length=10)
        b.end(b.begin(), seconds)
    assert b.queue.rates.seconds_for(10) < 0.02


def test_rate_is_that_of_a_second_of_calls() -> None:
    """However many they are: a few that were held up do not stand for the thousands before them."""
    b = Bench()
    for seconds in (*[0.001] * 1000, *[0.008] * 5):
        b.submit(1, length=10)
        b.end(b.begin(), seconds)
    assert 0.001 < b.queue.rates.seconds_for(10) < 0.0011
    for _ in range(2000):  # 16 s in which it is slow
        b.submit(1, length=10)
        b.end(b.begin(), 0.008)
    assert b.queue.rates.seconds_for(10) == pytest.approx(0.008)


@pytest.mark.parametrize(("times", "most_seconds"), [(3, 3.0), (100, 5.0)])
def test_machine_that_becomes_slow_is_known_soon(times: int, most_seconds: float) -> None:
    """Most of it after a few seconds: those in which it was quick are forgotten."""
    b = Bench()
    slow = 0.001 * times
    for seconds in (*[0.001] * 1000, *[slow] * round(most_seconds / slow)):
        b.submit(1, length=10)
        b.end(b.begin(), seconds)
    assert b.queue.rates.seconds_for(10) > slow / 2


def test_rate_of_slow_calls_is_that_of_the_last_ones() -> None:
    """One that takes 20 s does not make those before it forgotten."""
    b = Bench()
    for length in (10, 20):
        b.submit(1, length=length)
        b.end(b.begin(), 20.0)
    kept = 0.5 ** (1 / 7)
    assert b.queue.rates.seconds_for(1) == pytest.approx((kept * 20 + 20) / (kept * 10 + 20))


def test_batch_that_failed_tells_nothing_of_the_rate() -> None:
    """It may have ended at once, or late."""
    b = Bench()
    b.end(b.hold(), failure=RuntimeError())
    assert not b.queue.rates.is_measured
    assert b.queue.n_calls == 0


def test_job_that_would_miss_its_deadline_is_refused() -> None:
    """By the measured rate its answer must come before nine tenths of the time are over, its own work included."""
    b = Bench()
    b.measure()
    b.hold()
    b.submit(1, length=86)  # 0.9 s with what runs
    with pytest.raises(Overloaded) as refused:
        b.submit(2, length=10, deadline=b.now + 1.10)
    assert refused.value.reason == "queue_deadline"
    assert "after the deadline" in str(refused.value)
    assert refused.value.retry_after_seconds == pytest.approx(0.86)
    b.submit(3, length=10, deadline=b.now + 1.12)
    early = b.queue.why_full(b.now, b.now + 1.0)
    assert early is not None
    assert early.reason == "queue_deadline"
    assert b.queue.why_full(b.now, b.now + 1.12) is None
    b.run()
    assert [(tag_of(job), job.error) for job in b.delivered] == [(1, None), (3, None)]


def test_job_that_need_not_wait_is_not_refused_for_its_deadline() -> None:
    """The rate may be wrong: where nothing waits, it is tried."""
    b = Bench()
    b.measure()
    b.hold()
    b.submit(1, length=100, deadline=b.now + 0.01)
    assert len(b.queue) == 1


def test_nobody_is_refused_by_a_rate_that_is_not_known() -> None:
    """Before the first call has ended, only the tokens count."""
    b = Bench(max_seconds=0.001)
    b.hold()
    for tag in range(200):
        b.submit(tag, deadline=b.now + 0.001)
    assert len(b.queue) == 200


@pytest.mark.parametrize(("seconds", "is_refused"), [(0.03, False), (1.3, False), (1.4, True), (2.0, True)])
def test_crowd_is_not_refused_by_one_short_call(seconds: float, is_refused: bool) -> None:
    """Which may have been held up: it tells of a wait at most 20 times as long as it took itself."""
    b = Bench(max_tokens=131_072)
    b.submit(0, length=7)
    b.end(b.begin(), seconds=seconds)
    b.hold()
    b.submit(1, length=14_000)
    assert (b.queue.why_full(b.now, b.now + 30) is not None) is is_refused
    refused = b.queue.admit(make_job(2, length=14_000, deadline=b.now + 30), b.now)
    assert (refused is not None) is is_refused


def test_wait_above_the_configured_one_is_refused() -> None:
    """Whatever the deadline; those that wait already are not touched."""
    b = Bench(max_seconds=1.0)
    b.measure()
    held = b.hold()
    for tag in range(25):
        b.submit(tag)
    with pytest.raises(Overloaded) as refused:
        b.submit(500)  # behind 26 x 4 tokens, 1.04 s
    assert refused.value.reason == "queue_wait"
    assert "batching.max_queue_ms: 100 tokens wait, 1.00 s" in str(refused.value)
    b.end(held)
    b.submit(501)  # the wait is 1 s again
    b.run()
    assert [tag_of(job) for job in b.delivered] == [999, *range(25), 501]
    assert {job.error for job in b.delivered} == {None}


def test_expected_wait_follows_the_fair_order() -> None:
    """A request of many windows delays a short one by one window, and one of many windows by as many of its own."""
    b = Bench(max_seconds=1.0, max_tokens=10_000)
    b.measure()
    held = b.hold()
    b.submit(1, n_windows=100)
    b.submit(3, length=1)
    for n_windows in (20, 24, 100):  # 4 tokens that run, and 5 for each of these windows
        with pytest.raises(Overloaded):
            b.submit(4, n_windows=n_windows, length=1)
    b.submit(2, n_windows=19, length=1)
    b.end(held)
    b.run()
    assert {tag_of(job) for job in b.delivered} == {999, 1, 2, 3}


def test_expected_wait_is_never_above_what_waits() -> None:
    """A request of many windows behind a few short ones waits for these, however many windows it has."""
    b = Bench(max_seconds=1.0, max_tokens=10_000)
    b.measure()
    b.hold()
    for tag in range(10):
        b.submit(tag)
    b.submit(10, n_windows=500)
    assert len(b.queue) == 11


@settings(max_examples=25)
@given(
    n_clients=st.integers(1, 400),
    n_threads=st.integers(1, 3),
    seconds=st.floats(0.001, 20.0),
    think=st.floats(0.0, 1.0),
    ramp=st.floats(0.0, 2.0),
    seed=st.integers(0, 1000),
)
def test_patient_clients_are_never_refused(
    n_clients: int, n_threads: int, seconds: float, think: float, ramp: float, seed: int
) -> None:
    """However many and however slow the model, if it can serve each of them once within the time of a request.

    They come at once or one after the other, with pauses or without. seconds: that one request of each takes.
    """
    rng = random.Random(seed)
    b = Bench(n_threads=n_threads, max_tokens=10**6)
    line = Line(b, rate=4 * n_clients / seconds, answered=lambda now: now + rng.uniform(0, think * seconds))
    for _ in range(n_clients):
        line.come(b.now + rng.uniform(0, ramp * seconds))
    line.run(n_requests=4 * n_clients, patience=30.0)
    assert line.refusals == []
    assert {job.error for job in b.delivered} == {None}


@settings(max_examples=25)
@given(
    n_threads=st.integers(1, 3),
    service=st.floats(0.0005, 0.01),
    factor=st.floats(1.2, 10.0),
    patience=st.floats(0.2, 2.0),
    seed=st.integers(0, 1000),
)
def test_flood_fills_the_queue_up_to_the_deadline(
    n_threads: int, service: float, factor: float, patience: float, seed: int
) -> None:
    """Requests that wait for nothing: what is admitted is answered in time, nothing idles, and the rest is refused."""
    rng = random.Random(seed)
    b = Bench(n_threads=n_threads, max_tokens=10**6, max_batch_size=1)
    line = Line(b, rate=4 / service)
    began = now = b.now
    while now < began + 20 * patience and len(line.arrivals) < 4000:
        now += rng.expovariate(factor / service)
        line.come(now)
    line.run(n_requests=10**6, patience=patience)
    n_unmeasured = 2 * factor * n_threads + 20  # that came before the first call had ended
    late = [job for job in b.delivered if job.error is not None]
    assert len(late) <= n_unmeasured
    assert {error.reason for error in line.refusals} <= {"queue_deadline"}
    n_served = len(b.delivered) - len(late)
    assert n_served >= 0.95 * min((now - began) / service, len(b.delivered) + len(line.refusals)) - n_threads
    line.come(b.now + 1.0)  # after a pause nothing is left of it
    n_refused = len(line.refusals)
    line.run(n_requests=10**6, patience=patience)
    assert len(line.refusals) == n_refused


class Line:
    """A queue in simulated time, whose threads compute `rate` tokens a second together.

    answered: gives the moment of a client's next request from that of its answer; None where there is none.
    """

    def __init__(self, b: Bench, rate: float, answered: Callable[[float], float] | None = None) -> None:
        self.b = b
        self.arrivals: list[float] = []  # a heap
        self.refusals: list[Overloaded] = []
        self._rate = rate
        self._answered = answered
        self._ends: list[tuple[float, int, Batch]] = []  # a heap of what runs
        self._n_batches = 0

    def come(self, when: float) -> None:
        """Let a request come then."""
        heapq.heappush(self.arrivals, when)

    def run(self, n_requests: int, patience: float) -> None:
        """Let so many of the requests come, each with so many seconds until its deadline; serve them all."""
        b = self.b
        while self._ends or (self.arrivals and n_requests):
            if self._ends and not (self.arrivals and n_requests and self.arrivals[0] < self._ends[0][0]):
                end, _, batch = heapq.heappop(self._ends)
                n_delivered = len(b.delivered)
                b.end(batch, max(0.0, end - b.now))
                for _ in b.delivered[n_delivered:] if self._answered else ():
                    self.come(self._answered(b.now))  # type: ignore[misc]
            else:
                b.now = max(b.now, heapq.heappop(self.arrivals))
                n_requests -= 1
                refusal = b.queue.admit(make_job(7, deadline=b.now + patience), b.now)
                if refusal is not None:
                    assert isinstance(refusal, Overloaded)
                    self.refusals.append(refusal)
            self._begin()

    def _begin(self) -> None:
        """Give every thread that is free a batch."""
        b = self.b
        while len(self._ends) < b.queue.n_threads and len(b.queue):
            b.delivered += b.queue.expire(b.now)
            batch = b.choose()
            if batch is None:
                return
            self._n_batches += 1
            seconds = batch.n_tokens * b.queue.n_threads / self._rate
            heapq.heappush(self._ends, (b.now + seconds, self._n_batches, batch))


def test_closed_queue_finishes_what_it_has() -> None:
    """Nothing more is admitted, and what was admitted runs."""
    b = Bench()
    job = b.submit(1)
    b.queue.close()
    for _ in range(2):
        with pytest.raises(Unavailable):
            b.submit(2)
    b.run()
    assert b.delivered == [job]
    assert job.error is None


# --- all cores for one batch --------------------------------------------------------------------------


@pytest.mark.parametrize(("may_spread", "n_cores"), [(True, 2), (False, 1)])
def test_lone_call_counts_for_the_cores_that_it_has(may_spread: bool, n_cores: int) -> None:
    """Two threads do not drain a queue twice as fast as a job with all cores, but as one with a single core."""
    b = Bench(n_threads=2, max_tokens=10, may_spread=may_spread)
    b.submit(1, length=10)
    batch = b.begin()
    assert batch.spread is may_spread
    b.end(batch, seconds=0.2)
    b.hold(2)
    b.hold(3)
    b.submit(4, length=10)
    with pytest.raises(Overloaded) as refused:
        b.submit(5)
    assert refused.value.retry_after_seconds == pytest.approx(0.2 * n_cores / 2)


def test_lone_call_has_one_core_while_the_other_lane_computes() -> None:
    """Cores that others compute on are not taken from them."""
    b = Bench(n_threads=2, may_spread=True)
    b.submit(1)
    batch = b.queue.choose(b.now, has_cores=False)
    assert batch is not None
    assert not batch.spread


def test_batch_beside_which_others_wait_or_run_is_not_spread() -> None:
    """The cores are for them."""
    b = Bench(n_threads=2, max_batch_size=1, may_spread=True)
    b.submit(1)
    b.submit(2)
    assert not b.begin().spread  # another one waits
    assert not b.begin().spread  # another one runs


def test_lone_call_in_a_crowd_keeps_to_one_core() -> None:
    """The next request finds a core free; once they come one after the other, a call has all cores again."""
    b = Bench(n_threads=2, max_tokens=1000, may_spread=True)

    def is_spread() -> bool:
        b.submit(1)
        batch = b.begin()
        b.end(batch)
        return batch.spread

    assert is_spread()
    held = b.hold()
    for tag in range(100):
        b.submit(tag)
    b.end(held)
    b.run()
    assert not is_spread()
    assert [is_spread() for _ in range(60)][-1]


# --- clients that were just answered ------------------------------------------------------------------


def answer_four(**options: Any) -> Bench:
    """Answer four clients at one moment, after calls of 20 ms: for 2 ms they are expected again."""
    b = Bench(token_budget=1000, gathers=True, **options)
    for tag in range(4):
        b.submit(tag)
    running = []
    while len(b.queue):
        running.append(b.begin())
    b.now += 0.02
    for batch in running:
        b.end(batch, seconds=0.0)
    return b


def test_batch_waits_for_those_who_were_just_answered() -> None:
    """The first who comes again does not run alone; when all four are there, they do."""
    b = answer_four()
    for n_missing in (3, 2, 1):
        b.submit(7)
        assert b.queue.awaited(b.now) == n_missing
        assert b.queue.choose(b.now) is None
    b.submit(7)
    assert b.queue.awaited(b.now) == 0
    assert len(b.begin().windows) == 4


def test_batch_waits_for_a_moment_only() -> None:
    """A tenth of the call before it; then it runs with what it has."""
    b = answer_four()
    b.submit(7)
    seconds = b.queue.seconds_to_wait(b.now)
    assert seconds == pytest.approx(0.002)
    assert b.queue.choose(b.now + 0.99 * seconds) is None
    b.now += seconds
    assert tags_of(b.begin()) == [7]


def test_even_share_is_enough() -> None:
    """With two threads, half of those who wait, run or are expected; the rest is left to the other thread."""
    b = Bench(n_threads=2, token_budget=1000, gathers=True)
    for tag in range(4):
        b.submit(tag)
    first, second = b.begin(), b.begin()
    assert [len(first.windows), len(second.windows)] == [2, 2]
    b.end(first, seconds=0.02)
    b.submit(7)  # 1 waits, 2 run, 1 is expected
    assert b.queue.choose(b.now) is None
    b.submit(7)  # 2 wait, 2 run
    assert len(b.begin().windows) == 2


def test_share_leaves_room_for_those_who_are_expected() -> None:
    """A thread that need not wait leaves them to the next one."""
    b = answer_four(n_threads=2)
    for tag in range(3):
        b.submit(tag)
    assert b.queue.awaited(b.now) == 0
    assert len(b.begin().windows) == 2  # of the three and the one that should come yet


@pytest.mark.parametrize("limits", [{"max_batch_size": 2}, {"max_batch_size": 8, "length": 500}])
def test_full_batch_does_not_wait(limits: dict[str, int]) -> None:
    """Nobody could join it."""
    length = limits.pop("length", 4)
    b = Bench(token_budget=1000, gathers=True, **limits)
    for tag in range(6):
        b.submit(tag)
    while len(b.queue):
        b.end(b.begin(), seconds=0.02)
    b.submit(7, length=length)
    assert b.queue.choose(b.now) is None
    b.submit(7, length=length)
    assert len(b.begin().windows) == 2


def test_closed_queue_waits_for_nobody() -> None:
    """Nobody can come."""
    b = answer_four()
    b.submit(7)
    assert b.queue.choose(b.now) is None
    b.queue.close()
    assert tags_of(b.begin()) == [7]


def test_waits_in_vain_are_given_up() -> None:
    """Requests that come at their own pace are not kept: after four waits only every seventeenth call has one."""
    b = answer_four()
    n_waits = 0
    for number in range(120):
        b.submit(7, n_windows=2 - number % 2)
        n_awaited = b.queue.awaited(b.now)
        if n_awaited:
            n_waits += 1
            b.now += b.queue.seconds_to_wait(b.now)
            b.queue.note_wait(n_awaited, came=False)
        b.end(b.begin(), seconds=0.02)
    assert 4 <= n_waits <= 4 + 120 / 16


def test_call_that_is_not_followed_by_those_expected_is_not_spread() -> None:
    """Who should come yet needs a core, too."""
    b = answer_four(n_threads=2, may_spread=True)
    for tag in range(2):
        b.submit(tag)
    batch = b.begin()
    assert len(b.queue) == 0
    assert not batch.spread


def test_nobody_is_waited_for_unless_told_to() -> None:
    """As on a GPU, where a call costs the same with few windows."""
    b = Bench()
    for tag in range(4):
        b.submit(tag)
    b.end(b.begin(), seconds=0.02)
    b.submit(7)
    assert b.queue.awaited(b.now) == 0
    assert tags_of(b.begin()) == [7]


# --- failures, deadlines, cancelled jobs --------------------------------------------------------------


def test_failed_batch_fails_its_own_members_only() -> None:
    """Members of a failed batch get `InferenceFailed`, each its own instance; the next batch is not touched."""
    b = Bench(max_batch_size=2)
    first, second, third = (b.submit(tag) for tag in (1, 2, 3))
    failure = RuntimeError("the device is on fire")
    b.end(b.begin(), failure=failure)
    b.run()
    assert b.delivered == [first, second, third]
    assert isinstance(first.error, InferenceFailed)
    assert isinstance(second.error, InferenceFailed)
    assert first.error is not second.error
    assert first.error.__cause__ is failure
    assert "fire" not in str(first.error)
    with pytest.raises(InferenceFailed):
        second.scores()
    assert third.error is None


def test_failed_window_drops_the_rest_of_its_job() -> None:
    """Windows of a job that has failed already are not computed."""
    b = Bench(max_batch_size=1)
    job = b.submit(1, n_windows=5)
    b.end(b.begin(), failure=RuntimeError())
    assert b.delivered == [job]
    assert isinstance(job.error, InferenceFailed)
    assert b.queue.choose(b.now) is None
    assert b.queue.tokens == 0


def test_job_of_two_failed_batches_is_delivered_once() -> None:
    """With the last of its windows, and with the error of the first."""
    b = Bench(n_threads=2, max_batch_size=1)
    job = b.submit(1, n_windows=3)
    failures = RuntimeError("first"), RuntimeError("second")
    batches = b.begin(), b.begin()
    b.end(batches[0], failure=failures[0])
    assert b.delivered == []
    b.end(batches[1], failure=failures[1])
    assert b.delivered == [job]
    assert job.error is not None
    assert job.error.__cause__ is failures[0]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_nothing_counts_as_running_in_the_end(n_threads: int) -> None:
    """Batches that failed leave the books as they were."""
    b = Bench(n_threads=n_threads, max_batch_size=1)
    for tag in range(5):
        b.submit(tag)
    for failure in (None, RuntimeError(), None):
        running = [b.begin() for _ in range(min(n_threads, len(b.queue)))]
        for batch in running:
            b.end(batch, failure=failure)
    b.run()
    assert len(b.delivered) == 5
    assert (b.queue._running_tokens, b.queue._n_running, b.queue.n_busy) == (0, 0, 0)


def test_failed_device_fails_all_and_admits_nothing() -> None:
    """After `DeviceFailed` everything that waits fails with it at once, and the next job is refused with it."""
    b = Bench(max_batch_size=1)
    jobs = [b.submit(tag) for tag in (1, 2, 3)]
    b.end(b.begin(), failure=DeviceFailed("the GPU has failed"))
    assert b.delivered == jobs
    errors: list[NerveError] = []
    for job in jobs:
        with pytest.raises(DeviceFailed, match="the GPU has failed") as told:
            job.scores()
        errors.append(told.value)
    assert len(set(map(id, errors))) == 3
    assert b.queue.choose(b.now) is None
    assert b.queue.tokens == 0
    with pytest.raises(DeviceFailed):
        b.submit(4)
    b.queue.close()
    with pytest.raises(DeviceFailed):
        b.submit(5)


def test_what_runs_when_the_device_is_given_up_is_delivered_when_it_ends() -> None:
    """It may never end; what only waits is delivered at once."""
    b = Bench(max_batch_size=1)
    running, waiting = b.submit(1, n_windows=2), b.submit(2)
    batch = b.begin()
    assert b.queue.abandon("gone") == [waiting]
    assert isinstance(running.error, DeviceFailed)
    b.end(batch)
    assert b.delivered == [running]
    assert b.queue.tokens == 0


def test_cancelled_job_never_runs() -> None:
    """A job cancelled while it waits costs nothing and frees its room."""
    b = Bench()
    gone = b.submit(1, n_windows=3)
    b.submit(2)
    b.queue.forget(gone)
    b.queue.forget(gone)
    assert b.queue.tokens == 4
    b.run()
    assert b.batches == [[2]]
    assert gone not in b.delivered


def test_cancelling_a_refused_job_changes_nothing() -> None:
    """A job that was never admitted has no room to give back."""
    b = Bench(max_tokens=10)
    b.hold()
    b.submit(1)
    refused = make_job(2, length=8)
    assert b.queue.admit(refused, b.now) is not None
    b.queue.forget(refused)
    assert (len(b.queue), b.queue.tokens) == (1, 4)


@pytest.mark.parametrize("expired", [0, 1, 2])
def test_expired_job_never_runs(expired: int) -> None:
    """A job whose deadline has passed is dropped, wherever in the queue it stands."""
    b = Bench()
    jobs = [b.submit(tag, deadline=b.now + 5 if tag == expired else math.inf) for tag in range(3)]
    assert b.queue.expire(b.now + 4.9) == []
    b.now += 5
    b.run()
    assert b.batches == [[tag for tag in range(3) if tag != expired]]
    assert b.delivered[0] is jobs[expired]
    assert isinstance(jobs[expired].error, DeadlineExceeded)
    assert b.queue.tokens == 0


def test_all_expired_jobs_are_dropped_at_once() -> None:
    """More of them than are looked at for one batch: what comes behind them need not wait for the next look."""
    b = Bench(max_batch_size=1)
    jobs = [b.submit(tag, deadline=b.now) for tag in range(50)]
    b.submit(99)
    assert b.queue.expire(b.now) == jobs
    assert tags_of(b.begin()) == [99]


def test_job_that_expires_between_its_windows_is_delivered_once() -> None:
    """A running window does not make an expired job come out twice."""
    b = Bench(n_threads=2, max_batch_size=1)
    job = b.submit(1, n_windows=3, deadline=b.now + 1)
    first, second = b.begin(), b.begin()
    assert b.queue.expire(b.now + 1) == []
    assert isinstance(job.error, DeadlineExceeded)
    b.end(first)
    assert b.delivered == []
    b.end(second)
    assert b.delivered == [job]
    assert len(b.queue) == 0


# --- all together -------------------------------------------------------------------------------------


STEPS = ("submit", "submit", "submit", "begin", "begin", "end", "end", "fail", "cancel", "wait")


@given(
    st.integers(1, 3),
    st.sampled_from([math.inf, 0.05]),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 10**6)), max_size=80),
)
def test_every_job_is_delivered_exactly_once(
    n_threads: int, max_seconds: float, gathers: bool, steps: list[tuple[str, int]]
) -> None:
    """Whatever happens in whatever order: nothing is lost, doubled or left over, and the books are even."""
    b = Bench(n_threads, max_tokens=200, max_batch_size=3, max_seconds=max_seconds, gathers=gathers)
    admitted: list[Job] = []
    cancelled: list[Job] = []
    running: list[Batch] = []
    for step, number in steps:
        play(b, step, number, admitted, cancelled, running)
        waiting = [job for job in admitted if job.waiting]
        assert b.queue.tokens == sum(len(job.windows[w].ids) for job in waiting for w in job.waiting)
        assert len(b.queue) == len(waiting)
        assert b.queue._turn_tokens == sum(len(job.windows[job.waiting[0]].ids) for job in waiting)
        assert b.queue._n_waiting == sum(len(job.waiting) for job in waiting)
    for batch in running:
        b.end(batch)
    b.run()
    delivered = list(map(id, b.delivered))
    assert len(delivered) == len(set(delivered))
    kept = set(map(id, admitted)) - set(map(id, cancelled))
    assert kept <= set(delivered) <= set(map(id, admitted))
    for job in b.delivered:
        if job.error is None and id(job) in kept:
            assert [s.label_ids.tolist() for s in job.scores()] == [w.ids for w in job.windows]
    assert (b.queue.tokens, len(b.queue)) == (0, 0)
    assert (b.queue._running_tokens, b.queue._n_running, b.queue.n_busy) == (0, 0, 0)


def play(
    b: Bench, step: str, number: int, admitted: list[Job], cancelled: list[Job], running: list[Batch]
) -> None:
    """Do one step; `number` decides its details."""
    if step == "submit":
        digits = digits_of(number)
        deadline = b.now + next(digits) / 10 if next(digits) > 6 else math.inf
        job = make_job(len(admitted), 1 + next(digits) % 5, 1 + next(digits), next(digits) > 6, deadline)
        refusal = b.queue.admit(job, b.now)
        if refusal is None:
            admitted.append(job)
        else:
            assert isinstance(refusal, Overloaded)
    elif step == "begin" and len(running) < b.queue.n_threads:
        b.delivered += b.queue.expire(b.now)
        batch = b.choose()
        if batch is not None:
            running.append(batch)
    elif step in ("end", "fail") and running:
        failure = RuntimeError() if step == "fail" else None
        b.end(running.pop(number % len(running)), failure=failure)
    elif step == "cancel" and admitted:
        cancelled.append(admitted[number % len(admitted)])
        b.queue.forget(cancelled[-1])
    elif step == "wait":
        b.now += number / 1e6


def digits_of(number: int) -> Iterator[int]:
    """Yield the decimal digits of a number from its end, and zeros after them."""
    while True:
        number, digit = divmod(number, 10)
        yield digit
