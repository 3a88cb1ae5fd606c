from __future__ import annotations

import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from nerve.errors import DeadlineExceeded, DeviceFailed, InferenceFailed, Overloaded, Unavailable
from nerve.scheduling.batching import BatchPolicy
from nerve.scheduling.jobs import Job
from nerve.scheduling.lane import Scheduler
from nerve.scheduling.threads import EngineThread
from nerve.types import TokenScores, Window

PATIENCE = 20.0  # seconds after which a test gives up


class Runner:
    """A `run` function that records its calls, can be held at a gate and can fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # tags of the windows of each call
        self.needs_logits: list[bool] = []
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.cpu_seconds = 0.0  # that a call takes
        self.failing: set[int] = set()
        self.failure: Exception = RuntimeError("the device is on fire")

    def __call__(
        self, windows: Sequence[Window], needs_logits: bool, spread: bool = False
    ) -> list[TokenScores]:
        """Give every token its own id as its label."""
        self.batches.append([window.ids[0] for window in windows])
        self.needs_logits.append(needs_logits)
        self.threads.append(threading.get_ident())
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        until = time.thread_time() + self.cpu_seconds
        while time.thread_time() < until:
            pass
        if self.failing & set(self.batches[-1]):
            raise self.failure
        return [
            TokenScores(np.array(window.ids), np.ones(len(window.ids), np.float32), None)
            for window in windows
        ]

    def wait_for_call(self) -> None:
        """Return when one more call has begun."""
        assert self.entered.acquire(timeout=PATIENCE)


class Bench:
    """A scheduler with a runner, and the jobs it delivered."""

    def __init__(
        self,
        n_threads: int,
        max_queue_tokens: int,
        policy: BatchPolicy,
        max_queue_seconds: float = math.inf,
        gathers: bool = False,
        may_spread: bool = False,
    ) -> None:
        self.runner = Runner()
        self.delivered: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.calls: list[tuple[int, int, int, float, int]] = []
        self.scheduler = Scheduler(
            run=self.runner,
            deliver=lambda jobs: [self.delivered.put(job) for job in jobs] and None,
            policy=policy,
            max_queue_tokens=max_queue_tokens,
            n_threads=n_threads,
            on_batch=lambda *call: self.calls.append(call),
            max_queue_seconds=max_queue_seconds,
            gathers=gathers,
            may_spread=may_spread,
        )

    def hold(self, tag: int = 999) -> Job:
        """Keep one engine thread busy until the gate opens."""
        while self.runner.entered.acquire(blocking=False):
            pass  # calls that nobody waited for
        self.runner.gate.clear()
        job = self.submit(tag)
        self.runner.wait_for_call()
        return job

    def release(self) -> None:
        """Open the gate."""
        self.runner.gate.set()

    def submit(self, tag: int, n_windows: int = 1, length: int = 4, **options: Any) -> Job:
        """Submit a job whose windows hold nothing but `tag`."""
        job = make_job(tag, n_windows, length, **options)
        self.scheduler.submit(job)
        return job

    def wait(self, count: int) -> list[Job]:
        """Return the next `count` delivered jobs."""
        return [self.delivered.get(timeout=PATIENCE) for _ in range(count)]


def make_job(
    tag: int, n_windows: int = 1, length: int = 4, needs_logits: bool = False, deadline: float = math.inf
) -> Job:
    """Make a job whose windows hold nothing but `tag`."""
    return Job([Window([tag] * length, k) for k in range(n_windows)], needs_logits, deadline)


def run_together(works: list[Callable[[], object]]) -> None:
    """Do each of these on a thread of its own; return when all are done."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Create schedulers; they are drained after the test."""
    benches: list[Bench] = []

    def create(
        n_threads: int = 1,
        max_queue_tokens: int = 1000,
        max_batch_size: int = 8,
        token_budget: int = 64,
        max_queue_seconds: float = math.inf,
        may_spread: bool = False,
    ) -> Bench:
        policy = BatchPolicy(token_budget, max_batch_size, 1.0)
        made = Bench(n_threads, max_queue_tokens, policy, max_queue_seconds, may_spread=may_spread)
        benches.append(made)
        return made

    yield create
    for made in benches:
        made.release()
        made.scheduler.drain()


def test_each_window_gets_its_own_scores(bench: Callable[..., Bench]) -> None:
    """Results go to the window they were computed for, in its job's order."""
    b = bench(max_batch_size=3)
    b.hold()
    jobs = [b.submit(tag, n_windows=tag) for tag in (1, 2, 3)]
    b.release()
    b.wait(4)
    for tag, job in zip((1, 2, 3), jobs, strict=True):
        assert [scores.label_ids.tolist() for scores in job.scores()] == [[tag] * 4] * tag
        assert job.queue_seconds >= 0
        assert job.inference_seconds > 0


def test_nothing_waits_while_idle(bench: Callable[..., Bench]) -> None:
    """A job submitted to an idle engine runs at once and alone; arrivals meanwhile share the next call."""
    b = bench()
    assert b.scheduler.is_idle
    b.hold(1)
    assert not b.scheduler.is_idle
    for tag in (2, 3, 4):
        b.submit(tag)
    assert b.scheduler.queued_tokens == 12
    b.release()
    b.wait(4)
    assert b.runner.batches == [[1], [2, 3, 4]]
    assert b.scheduler.queued_tokens == 0


def test_job_is_admitted_whole_or_refused_whole(bench: Callable[..., Bench]) -> None:
    """A job that does not fit leaves no window in the queue; one that fits is still admitted."""
    b = bench(max_queue_tokens=10)
    b.hold()
    b.submit(1, n_windows=2, length=3)
    with pytest.raises(Overloaded):
        b.submit(2, n_windows=5, length=1)
    assert b.scheduler.queued_tokens == 6
    b.submit(3, length=4)
    assert b.scheduler.is_full()
    b.release()
    b.wait(3)
    assert not any(2 in batch for batch in b.runner.batches)


def test_job_larger_than_the_queue_is_admitted_when_nothing_waits(bench: Callable[..., Bench]) -> None:
    """A request that could never fit is not refused for ever."""
    b = bench(max_queue_tokens=10)
    b.submit(1, n_windows=5, length=4)
    assert len(b.wait(1)[0].scores()) == 5


def test_retry_after_is_the_queue_over_the_measured_rate(bench: Callable[..., Bench]) -> None:
    """`retry_after_seconds` is what waits over the lane's rate: smoothed tokens by smoothed seconds."""
    b = bench(max_queue_tokens=10)
    b.hold()
    b.submit(1, length=10)
    with pytest.raises(Overloaded) as unmeasured:
        b.submit(2)
    assert unmeasured.value.retry_after_seconds == 1.0
    threading.Event().wait(0.2)
    b.release()
    b.wait(2)
    (_, n0, _, seconds0, _), (_, n1, _, seconds1, _) = b.calls
    rate = (0.9 * n0 + 0.1 * n1) / (0.9 * seconds0 + 0.1 * seconds1)
    b.hold()
    b.submit(3, length=8)
    with pytest.raises(Overloaded) as refused:
        b.submit(4)
    assert refused.value.retry_after_seconds == pytest.approx(8 / rate, rel=0.1)


@pytest.mark.parametrize(("may_spread", "n_threads"), [(True, 2), (False, 1)])
def test_lone_call_counts_for_the_cores_that_it_has(
    bench: Callable[..., Bench], may_spread: bool, n_threads: int
) -> None:
    """Two threads do not drain a queue twice as fast as a job with all cores, but as one with a single core."""
    b = bench(n_threads=2, max_queue_tokens=10, may_spread=may_spread)
    b.runner.gate.clear()
    b.submit(1, length=10)
    b.runner.wait_for_call()
    threading.Event().wait(0.2)
    b.release()
    b.wait(1)
    _, _, _, seconds, n_counted = b.calls[0]
    assert n_counted == n_threads
    b.runner.gate.clear()
    b.submit(2)
    b.runner.wait_for_call()
    b.submit(3)
    b.runner.wait_for_call()
    b.submit(4, length=10)
    with pytest.raises(Overloaded) as refused:
        b.submit(5)
    assert refused.value.retry_after_seconds == pytest.approx(seconds * n_threads / 2, rel=0.3)


def test_lone_call_in_a_crowd_keeps_to_one_core(bench: Callable[..., Bench]) -> None:
    """The next request finds a core free; once they come one after the other, a call has all cores again."""
    b = bench(n_threads=2, max_queue_tokens=1000, may_spread=True)

    def n_cores() -> int:
        b.submit(1)
        b.wait(1)
        return b.calls[-1][-1]

    assert n_cores() == 2
    b.hold()
    for tag in range(100):
        b.submit(tag)
    b.release()
    b.wait(101)
    assert n_cores() == 1
    assert [n_cores() for _ in range(60)][-1] == 2


def test_one_call_that_was_held_up_does_not_spoil_the_rate(bench: Callable[..., Bench]) -> None:
    """A process that was stopped for minutes is as fast as before when it goes on."""
    b = bench()
    b.scheduler._rates.note_call(10, 0.01, 1)
    b.scheduler._rates.note_call(10, 100.0, 1)
    assert b.scheduler._rates.seconds_for(10) < 0.02


def fill(b: Bench, n_jobs: int, **options: Any) -> list[Job]:
    """Hold the engine at a rate of 100 tokens a second and submit jobs."""
    b.hold()
    b.scheduler._rates.note_call(100, 1.0, 1)
    return [b.submit(tag, **options) for tag in range(n_jobs)]


def test_pool_of_clients_is_never_refused(bench: Callable[..., Bench]) -> None:
    """However slow the model, as many clients as 128 that send one text at a time are served."""
    b = bench(max_queue_seconds=0.001, max_queue_tokens=10_000)
    fill(b, 127)
    b.release()
    assert len(b.wait(128)) == 128


def test_pool_of_clients_with_many_windows_is_never_refused(bench: Callable[..., Bench]) -> None:
    """A dozen clients that send many windows at a time are served, whatever that takes."""
    b = bench(max_queue_seconds=0.001, max_queue_tokens=10_000, max_batch_size=32)
    fill(b, 12, n_windows=50)
    b.release()
    assert len(b.wait(13)) == 13


def test_overload_refuses_all_that_would_wait_long(bench: Callable[..., Bench]) -> None:
    """The request that is too many, and with it the newest ones that wait: each once, each with 429's error."""
    b = bench(max_queue_seconds=1.0, max_queue_tokens=10_000)
    jobs = fill(b, 127)
    assert b.scheduler.is_full(4)
    with pytest.raises(Overloaded) as error:
        b.submit(500)
    refused = b.wait(102)
    assert set(map(id, refused)) == set(map(id, jobs[25:]))  # 26 x 4 tokens are just above 1 s
    assert error.value.retry_after_seconds == pytest.approx(1.0)
    for job in refused:
        with pytest.raises(Overloaded) as told:
            job.scores()
        assert told.value.retry_after_seconds == pytest.approx(1.0)
    with pytest.raises(Overloaded):
        b.submit(501)  # the wait is 1.04 s
    b.submit(502, length=40)  # a larger job has more patience
    b.release()
    assert {job.windows[0].ids[0] for job in b.wait(27)} == {999, 502, *range(25)}
    assert b.scheduler.queued_tokens == 0


def test_jobs_that_were_begun_outlive_the_overload(bench: Callable[..., Bench]) -> None:
    """What has cost work already is finished."""
    b = bench(max_queue_seconds=0.001, max_queue_tokens=10_000, max_batch_size=1)
    b.runner.gate.clear()
    begun = b.submit(1, n_windows=5)
    b.runner.wait_for_call()
    b.scheduler._rates.note_call(1, 1.0, 1)
    for tag in range(2, 125):
        b.submit(tag)
    with pytest.raises(Overloaded):
        b.submit(500)
    b.release()
    finished = b.wait(124)
    assert [job for job in finished if job.error is None] == [begun]
    assert len(begun.scores()) == 5


def test_pool_may_come_after_an_overload(bench: Callable[..., Bench]) -> None:
    """After a pause nobody remembers the overload: 128 clients at once are served again."""
    b = bench(max_queue_seconds=0.001, max_queue_tokens=10_000)
    fill(b, 127)
    with pytest.raises(Overloaded):
        b.submit(500)
    b.release()
    b.wait(128)
    b.scheduler._last_end -= 1.0  # the pause
    fill(b, 127)
    b.release()
    assert all(job.error is None for job in b.wait(128))


def test_expected_wait_follows_the_fair_order(bench: Callable[..., Bench]) -> None:
    """In an overload, a long request delays a short one by one window, and one of many windows by all of them."""
    b = bench(max_queue_seconds=1.0, max_queue_tokens=10_000)
    fill(b, 127)
    with pytest.raises(Overloaded):
        b.submit(500)
    b.wait(102)
    for job in list(b.scheduler._jobs):
        b.scheduler.cancel(job)
    b.submit(1, n_windows=100)
    b.submit(3, length=1)
    b.submit(2, n_windows=100)
    with pytest.raises(Overloaded):
        b.submit(4, n_windows=24, length=1)
    b.release()
    b.wait(4)


def test_full_queue_is_no_overload(bench: Callable[..., Bench]) -> None:
    """A request that does not fit the queue costs those that wait nothing."""
    b = bench(max_queue_seconds=0.001, max_queue_tokens=100)
    fill(b, 2, n_windows=8)
    with pytest.raises(Overloaded):
        b.submit(3, n_windows=20)
    b.release()
    assert all(job.error is None for job in b.wait(3))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_nothing_counts_as_running_in_the_end(bench: Callable[..., Bench], n_threads: int) -> None:
    """Batches that failed leave the books as they were."""
    b = bench(n_threads=n_threads)
    b.runner.failing = {2}
    for tag in range(5):
        b.submit(tag)
    b.wait(5)
    b.scheduler.drain()
    assert (b.scheduler._running_tokens, b.scheduler._n_running) == (0, 0)


def test_short_requests_overtake_one_of_many_windows(bench: Callable[..., Bench]) -> None:
    """After each of its windows a request goes to the end of the queue."""
    b = bench(max_batch_size=1)
    b.hold()
    b.submit(1, n_windows=20)
    b.submit(2)
    b.submit(3)
    b.release()
    finished = b.wait(4)
    assert [job.windows[0].ids[0] for job in finished] == [999, 2, 3, 1]
    assert [batch[0] for batch in b.runner.batches[:5]] == [999, 1, 2, 3, 1]


def test_failed_batch_fails_its_own_members_only(bench: Callable[..., Bench], caplog: Any) -> None:
    """Members of a failed call get `InferenceFailed`, each its own instance; the next call is not touched."""
    caplog.set_level(logging.CRITICAL)
    b = bench(max_batch_size=2)
    b.runner.failing = {1}
    b.hold()
    first, second, third = (b.submit(tag) for tag in (1, 2, 3))
    b.release()
    b.wait(4)
    assert isinstance(first.error, InferenceFailed)
    assert isinstance(second.error, InferenceFailed)
    assert first.error is not second.error
    assert isinstance(first.error.__cause__, RuntimeError)
    assert "fire" not in str(first.error)
    with pytest.raises(InferenceFailed):
        second.scores()
    assert third.error is None


def test_failed_window_drops_the_rest_of_its_job(bench: Callable[..., Bench], caplog: Any) -> None:
    """Windows of a job that has failed already are not computed."""
    caplog.set_level(logging.CRITICAL)
    b = bench(max_batch_size=1)
    b.runner.failing = {1}
    b.submit(1, n_windows=5)
    (job,) = b.wait(1)
    assert isinstance(job.error, InferenceFailed)
    assert b.runner.batches == [[1]]
    assert b.scheduler.queued_tokens == 0


def test_cancelled_job_never_runs(bench: Callable[..., Bench]) -> None:
    """A job cancelled while it waits costs nothing and frees its room."""
    b = bench()
    b.hold()
    gone = b.submit(1, n_windows=3)
    b.submit(2)
    b.scheduler.cancel(gone)
    b.scheduler.cancel(gone)
    assert b.scheduler.queued_tokens == 4
    b.release()
    b.wait(2)
    assert b.runner.batches == [[999], [2]]


def test_cancelling_a_refused_job_changes_nothing(bench: Callable[..., Bench]) -> None:
    """A job that was never admitted has no room to give back."""
    b = bench(max_queue_tokens=10)
    b.hold()
    b.submit(1)
    refused = make_job(2, length=8)
    with pytest.raises(Overloaded):
        b.scheduler.submit(refused)
    b.scheduler.cancel(refused)
    assert b.scheduler.queued_tokens == 4


@pytest.mark.parametrize("expired", [0, 1, 2])
def test_expired_job_never_runs(bench: Callable[..., Bench], expired: int) -> None:
    """A job whose deadline has passed is dropped, wherever in the queue it stands."""
    b = bench()
    b.hold()
    jobs = [b.submit(tag, deadline=time.monotonic() - 1 if tag == expired else math.inf) for tag in range(3)]
    b.release()
    b.wait(4)
    assert b.runner.batches == [[999], [tag for tag in range(3) if tag != expired]]
    assert isinstance(jobs[expired].error, DeadlineExceeded)
    assert b.scheduler.queued_tokens == 0


def test_job_that_expires_between_its_windows_is_delivered_once(bench: Callable[..., Bench]) -> None:
    """A running window does not make an expired job come out twice."""
    b = bench(n_threads=2, max_batch_size=1)
    b.runner.gate.clear()
    job = make_job(1, n_windows=3)
    b.scheduler.submit(job)
    b.runner.wait_for_call()
    b.runner.wait_for_call()  # two of its windows run
    job.deadline = 0.0
    b.release()
    b.wait(1)
    b.submit(2)
    assert b.wait(1)[0].windows[0].ids[0] == 2
    b.scheduler.drain()
    assert b.delivered.empty()
    assert isinstance(job.error, DeadlineExceeded)


def test_threads_run_batches_side_by_side(bench: Callable[..., Bench]) -> None:
    """With several threads, the windows of one job are shared out among those that are idle."""
    b = bench(n_threads=2)
    b.runner.gate.clear()
    b.submit(1, n_windows=4)
    b.runner.wait_for_call()
    b.runner.wait_for_call()  # only possible when both threads run
    b.release()
    (job,) = b.wait(1)
    assert len(job.scores()) == 4


def test_jobs_with_and_without_logits_do_not_mix(bench: Callable[..., Bench]) -> None:
    """A call is for jobs that need logits or for jobs that do not."""
    b = bench()
    b.hold()
    for tag in range(6):
        b.submit(tag, needs_logits=tag % 2 == 1)
    b.release()
    b.wait(7)
    assert sorted(map(sorted, b.runner.batches[1:])) == [[0, 2, 4], [1, 3, 5]]
    for batch, needs_logits in zip(b.runner.batches[1:], b.runner.needs_logits[1:], strict=True):
        assert needs_logits is (batch[0] % 2 == 1)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_drain_finishes_what_was_admitted_and_refuses_the_rest(
    bench: Callable[..., Bench], n_threads: int
) -> None:
    """Every admitted job is delivered before `drain` returns; later ones get `Unavailable`."""
    b = bench(n_threads=n_threads, max_batch_size=1)
    b.hold()
    jobs = [b.submit(tag, n_windows=3) for tag in range(10)]
    drainer = threading.Thread(target=b.scheduler.drain)
    drainer.start()
    while b.scheduler._refusal is None:
        drainer.join(0.001)
    with pytest.raises(Unavailable):
        b.submit(99)
    b.release()
    drainer.join(PATIENCE)
    assert not drainer.is_alive()
    assert b.delivered.qsize() == 11
    assert all(len(job.scores()) == 3 for job in jobs)


def test_the_thread_that_parked_last_is_woken_first() -> None:
    """Lone jobs stay on one thread, whose core is warm; the others are woken when there is more to do."""
    b = Bench(n_threads=3, max_queue_tokens=1000, policy=BatchPolicy(64, 1, 1.0))

    def wait_until_parked() -> None:
        until = time.monotonic() + PATIENCE
        while len(b.scheduler._parked) < 3:
            assert time.monotonic() < until
            time.sleep(0.001)

    for _ in range(20):
        wait_until_parked()
        b.submit(1)
        b.wait(1)
    assert len(set(b.runner.threads)) == 1
    wait_until_parked()
    b.hold()
    for _ in range(2):
        b.submit(1)
        b.runner.wait_for_call()
    b.release()
    b.wait(3)
    assert len(set(b.runner.threads)) == 3
    b.scheduler.drain()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_no_wake_up_is_lost(n_threads: int) -> None:
    """Jobs that come at the very moment when a thread parks are computed."""
    b = Bench(n_threads=n_threads, max_queue_tokens=100_000, policy=BatchPolicy(64, 1, 1.0))
    for _ in range(3000):
        b.submit(1)
        b.wait(1)
    run_together([lambda: [b.submit(2) for _ in range(1000)]] * 3)
    b.wait(3000)
    b.scheduler.drain()
    assert b.scheduler.queued_tokens == 0


@pytest.mark.parametrize("gathers", [True, False])
def test_clients_that_come_again_share_calls(gathers: bool) -> None:
    """One thread, four clients, calls of 20 ms: it waits for all four, and not only for the first."""
    b = Bench(1, 1000, BatchPolicy(1000, 8, 1.0), gathers=gathers)
    b.runner.cpu_seconds = 0.02
    for tag in range(4):
        b.submit(tag)
    for tag in range(80):
        b.wait(1)
        if tag < 76:
            time.sleep(0.0001)  # a client that sends again
            b.submit(tag)
    b.scheduler.drain()
    sizes = [len(batch) for batch in b.runner.batches]
    assert sum(sizes) == 80
    n_full = sizes.count(4)
    assert n_full > 0.7 * len(sizes) if gathers else n_full < 0.3 * len(sizes)


def test_even_shares_of_two_threads() -> None:
    """Six windows wait while one runs: the next thread leaves the other one its share of the seven."""
    b = Bench(2, 1000, BatchPolicy(1000, 8, 1.0))
    b.hold()
    b.hold()
    for tag in range(6):
        b.submit(tag)
    b.release()
    b.wait(8)
    b.scheduler.drain()
    assert [len(batch) for batch in b.runner.batches[:3]] == [1, 1, 4]


def test_requests_that_come_at_their_own_pace_are_not_kept() -> None:
    """One comes right after two were answered, and nobody after it: it is taken at once, but for a few times."""
    b = Bench(1, 1000, BatchPolicy(1000, 8, 1.0), gathers=True)
    b.runner.cpu_seconds = 0.005
    gather, waits = b.scheduler._gather, []

    def count(*arguments: Any) -> None:
        waits.append(arguments)
        gather(*arguments)

    b.scheduler._gather = count  # type: ignore[method-assign]
    for number in range(60):
        b.scheduler.submit(make_job(number, n_windows=2))
        b.wait(1)
        b.submit(number)
        b.wait(1)
    b.scheduler.drain()
    assert 4 <= len(waits) <= 4 + 120 / 16


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_nothing_is_lost_while_threads_gather(n_threads: int) -> None:
    """Clients that come in all kinds of delays, and some that never come again."""
    b = Bench(n_threads, 100_000, BatchPolicy(1000, 8, 1.0), gathers=True)
    b.runner.cpu_seconds = 0.0025

    def send(delays: list[float]) -> None:
        for delay in delays:
            time.sleep(delay)
            b.submit(1, n_windows=1 + int(delay > 0.0005))

    chosen = np.random.default_rng(n_threads).choice([0.0, 0.0001, 0.001, 0.004], (6, 60))
    run_together([partial(send, delays) for delays in chosen.tolist()])
    b.wait(360)
    b.scheduler.drain()
    assert (b.scheduler.queued_tokens, b.scheduler._n_waiting, b.scheduler._n_gathering) == (0, 0, 0)


def test_drain_finishes_what_waits_for_others() -> None:
    """A thread that waits for clients when the server stops computes what it has."""
    b = Bench(1, 1000, BatchPolicy(1000, 8, 1.0), gathers=True)
    b.runner.cpu_seconds = 0.03
    for tag in range(4):
        b.submit(tag)
    b.wait(4)
    b.submit(5)
    b.scheduler.drain()
    assert b.wait(1)[0].error is None


@pytest.mark.parametrize("broken", ["deliver", "on_batch"])
def test_failing_callback_does_not_stop_the_engine(broken: str, caplog: Any) -> None:
    """An exception in `deliver` or `on_batch` is logged, and the next job is computed as before."""
    caplog.set_level(logging.CRITICAL)
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()

    def callback(name: str) -> None:
        seen.put(name)
        if name == broken:
            raise RuntimeError("the event loop is closed")

    scheduler = Scheduler(
        Runner(),
        lambda _: callback("deliver"),
        BatchPolicy(64, 1, 1.0),
        1000,
        on_batch=lambda *_: callback("on_batch"),
    )
    for _ in range(3):
        scheduler.submit(make_job(1))
        assert {seen.get(timeout=PATIENCE), seen.get(timeout=PATIENCE)} == {"deliver", "on_batch"}
    scheduler.drain()


def test_every_job_is_delivered_exactly_once_under_load(bench: Callable[..., Bench]) -> None:
    """Many submitting threads, two engine threads, cancellations: nothing is lost, doubled or left over."""
    b = bench(n_threads=2, max_queue_tokens=10**6)
    kept: list[Job] = []
    cancelled: list[Job] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for k in range(60):
            tag = seed * 1000 + k
            job = b.submit(tag, rng.randint(1, 5), rng.randint(1, 9), needs_logits=rng.random() < 0.3)
            if rng.random() < 0.2:
                b.scheduler.cancel(job)
                cancelled.append(job)
            else:
                kept.append(job)

    run_together([partial(client, seed) for seed in range(1, 6)])
    b.scheduler.drain()
    delivered = [b.delivered.get() for _ in range(b.delivered.qsize())]
    assert len(delivered) == len(set(map(id, delivered)))
    assert set(map(id, kept)) <= set(map(id, delivered)) <= {*map(id, kept), *map(id, cancelled)}
    for job in kept:
        assert [s.label_ids.tolist() for s in job.scores()] == [w.ids for w in job.windows]
    assert b.scheduler.queued_tokens == 0
    assert b.scheduler.is_idle or not b.scheduler._jobs


def test_failed_device_fails_all_and_admits_nothing(bench: Callable[..., Bench]) -> None:
    """After `DeviceFailed` everything that waits fails with it at once, and the next job is refused with it."""
    b = bench(max_batch_size=1)
    held = b.hold()
    b.runner.failing = {1}
    b.runner.failure = DeviceFailed("the GPU has failed")
    jobs = [b.submit(tag) for tag in (1, 2, 3)]
    b.release()
    delivered = [b.delivered.get(timeout=PATIENCE) for _ in range(4)]
    assert delivered[0] is held
    assert held.error is None
    assert {id(job) for job in delivered[1:]} == {id(job) for job in jobs}
    for job in jobs:
        with pytest.raises(DeviceFailed, match="the GPU has failed"):
            job.scores()
    assert b.runner.batches == [[999], [1]]
    assert b.scheduler.queued_tokens == 0
    with pytest.raises(DeviceFailed):
        b.submit(4)


def test_jobs_run_on_the_thread_that_was_given() -> None:
    """`run` is called on the thread that made the session, and draining ends that thread."""
    thread = EngineThread("home")
    home = thread.call(threading.get_ident)
    runner = Runner()
    delivered: queue.SimpleQueue[Job] = queue.SimpleQueue()
    scheduler = Scheduler(
        runner, lambda jobs: delivered.put(jobs[0]), BatchPolicy(64, 1, 1.0), 1000, thread=thread
    )
    for tag in (1, 2):
        scheduler.submit(Job([Window([tag], 0)], needs_logits=False))
        delivered.get(timeout=PATIENCE).scores()
    scheduler.drain()
    assert runner.threads == [home, home]
    assert "home" not in {other.name for other in threading.enumerate()}


def test_packed_batches_count_their_tokens_only() -> None:
    """With a packed graph a long and many short windows share a step, and its cost is their sum."""
    thread = EngineThread("home")
    calls: list[tuple[int, int, int, float, int]] = []
    delivered: queue.SimpleQueue[list[Job]] = queue.SimpleQueue()
    policy = BatchPolicy(token_budget=64, max_batch_size=8, max_padding=1.0, is_packed=True)
    scheduler = Scheduler(
        Runner(), delivered.put, policy, 1000, on_batch=lambda *call: calls.append(call), thread=thread
    )
    job = Job([Window([1] * n, 0) for n in (40, 8, 8, 8, 1)], needs_logits=False)
    scheduler.submit(job)
    assert delivered.get(timeout=PATIENCE) == [job]
    scheduler.drain()
    assert [call[:3] for call in calls] == [(4, 64, 0), (1, 1, 0)]


class PackingBench:
    """A scheduler of one thread that packs ahead: what was packed, and what each call was given."""

    def __init__(self) -> None:
        self.runner = Runner()
        self.packed: list[list[int]] = []
        self.given: list[list[int] | None] = []
        self.packing = threading.Semaphore(0)
        self.unpackable = 0
        self.delivered: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.scheduler = Scheduler(
            run=self.run,
            deliver=lambda jobs: [self.delivered.put(job) for job in jobs] and None,
            policy=BatchPolicy(token_budget=8, max_batch_size=8, max_padding=1.0, is_packed=True),
            max_queue_tokens=1000,
            pack=self.pack,
        )

    def pack(self, windows: Sequence[Window]) -> list[int]:
        """Note the windows."""
        tags = [window.ids[0] for window in windows]
        self.packing.release()
        if self.unpackable in tags:
            raise ValueError("no such token")
        self.packed.append(tags)
        return tags

    def run(
        self, windows: Sequence[Window], needs_logits: bool, spread: bool, packed: list[int] | None = None
    ) -> list[TokenScores]:
        """Note what was packed, then go through the gate."""
        self.given.append(packed)
        return self.runner(windows, needs_logits, spread)

    def submit_behind_gate(self, *tags: int) -> list[Job]:
        """Submit jobs of half a batch each while another one is held at the gate."""
        self.runner.gate.clear()
        jobs = [make_job(tag) for tag in (999, *tags)]
        self.scheduler.submit(jobs[0])
        self.runner.wait_for_call()
        for job in jobs[1:]:
            self.scheduler.submit(job)
        return jobs


def test_full_batches_are_packed_while_others_run() -> None:
    """A batch that is full is packed beside the call before it, and only a full one."""
    b = PackingBench()
    jobs = b.submit_behind_gate(1, 2, 3, 4, 5)
    b.runner.gate.set()
    for _ in jobs:
        b.delivered.get(timeout=PATIENCE).scores()
    b.scheduler.drain()
    assert b.runner.batches == [[999], [1, 2], [3, 4], [5]]
    assert b.given == [None, None, [3, 4], None]
    assert "nerve-packer" not in {thread.name for thread in threading.enumerate()}


def test_batch_that_cannot_be_packed_fails_alone() -> None:
    """`run` meets the defect again: its jobs fail, those before and after do not."""
    b = PackingBench()
    b.unpackable = 3
    b.runner.failing = {3}
    jobs = b.submit_behind_gate(1, 2, 3, 4, 5)
    b.runner.gate.set()
    for _ in jobs:
        b.delivered.get(timeout=PATIENCE)
    b.scheduler.drain()
    assert b.given == [None, None, None, None]
    failed = [isinstance(job.error, InferenceFailed) for job in jobs]
    assert failed == [False, False, False, True, True, False]


def test_device_failure_reaches_what_was_packed_ahead() -> None:
    """When the device fails, the next batch, chosen already, is delivered with that error like all that waits."""
    b = PackingBench()
    b.runner.failing, b.runner.failure = {1}, DeviceFailed("gone")
    jobs = b.submit_behind_gate(1, 2, 3, 4, 5)
    b.runner.gate.set()
    for _ in jobs:
        b.delivered.get(timeout=PATIENCE)
    b.scheduler.drain()
    assert b.packed == [[3, 4]]
    assert b.runner.batches == [[999], [1, 2]]
    assert [type(job.error) for job in jobs] == [type(None), *[DeviceFailed] * 5]
    assert b.scheduler.queued_tokens == 0


def test_jobs_cancelled_before_they_are_packed() -> None:
    """Nothing is packed, and nothing hangs, when those that filled the queue leave."""
    b = PackingBench()
    jobs = b.submit_behind_gate(1, 2, 3, 4)
    for job in jobs[1:]:
        b.scheduler.cancel(job)
    b.runner.gate.set()
    assert b.delivered.get(timeout=PATIENCE) is jobs[0]
    b.scheduler.drain()
    assert b.packed == []
