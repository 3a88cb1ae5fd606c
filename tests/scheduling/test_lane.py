"""The threads around a queue: they run what it gives, wake in time, and survive whatever they are handed."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import queue
import random
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from nerve.errors import DeadlineExceeded, DeviceFailed, InferenceFailed, Overloaded, Unavailable
from nerve.scheduling import measured
from nerve.scheduling.batching import BatchPolicy, Job
from nerve.scheduling.lane import Lane, _lanes, leave_all
from nerve.scheduling.queue import Queue
from nerve.scheduling.threads import EngineThread
from nerve.types import TokenScores, Window

PATIENCE = 20.0  # seconds after which a test gives up


class Runner:
    """A `run` function that records its calls, can be held at a gate and can fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # tags of the windows of each call
        self.needs_logits: list[bool] = []
        self.spread: list[bool] = []
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.cpu_seconds = 0.0  # that a call takes
        self.failing: set[int] = set()
        self.failure: Exception = RuntimeError("the device is on fire")

    def __call__(self, windows: Sequence[Window], needs_logits: bool, spread: bool) -> list[TokenScores]:
        """Give every token its own id as its label."""
        tags = [int(window.ids[0]) for window in windows]
        self.batches.append(tags)
        self.needs_logits.append(needs_logits)
        self.spread.append(spread)
        self.threads.append(threading.get_ident())
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        until = time.thread_time() + self.cpu_seconds
        while time.thread_time() < until:
            pass
        if self.failing & set(tags):
            raise self.failure
        return [
            TokenScores(np.array(window.ids), np.ones(len(window.ids), np.float32), None)
            for window in windows
        ]

    def wait_for_call(self) -> None:
        """Return when one more call has begun."""
        assert self.entered.acquire(timeout=PATIENCE)


class Bench:
    """A lane with a runner, and the jobs it delivered."""

    def __init__(
        self,
        n_threads: int = 1,
        max_tokens: int = 1000,
        max_batch_size: int = 8,
        token_budget: int = 64,
        is_packed: bool = False,
        thread: EngineThread | None = None,
        **options: Any,
    ) -> None:
        self.runner = Runner()
        self.delivered: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.calls: list[tuple[int, int, int, float, int]] = []
        policy = BatchPolicy(token_budget, max_batch_size, 1.0, is_packed)
        self.queue = Queue(policy, max_tokens, n_threads=n_threads, **options)
        self.lane = Lane(
            self.queue,
            self.runner,
            self.deliver,
            [thread] if thread else [EngineThread(f"nerve-engine-{k}") for k in range(n_threads)],
            lambda *call: self.calls.append(call),
        )

    def deliver(self, jobs: list[Job]) -> None:
        """Keep what is delivered."""
        for job in jobs:
            self.delivered.put(job)

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
        self.lane.submit(job)
        return job

    def wait(self, count: int) -> list[Job]:
        """Return the next `count` delivered jobs."""
        return [self.delivered.get(timeout=PATIENCE) for _ in range(count)]

    def wait_until_parked(self, n_threads: int) -> None:
        """Return when so many threads wait for work."""
        until = time.monotonic() + PATIENCE
        while len(self.lane._parked) < n_threads:
            assert time.monotonic() < until
            time.sleep(0.001)


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
    """Create lanes; they are drained after the test."""
    benches: list[Bench] = []

    def create(**options: Any) -> Bench:
        benches.append(Bench(**options))
        return benches[-1]

    yield create
    for made in benches:
        made.release()
        made.lane.drain()


# --- what is run, and what is told of it --------------------------------------------------------------


def test_nothing_waits_while_idle(bench: Callable[..., Bench]) -> None:
    """A job submitted to an idle lane runs at once and alone; arrivals meanwhile share the next call."""
    b = bench()
    b.hold(1)
    for tag in (2, 3, 4):
        b.submit(tag)
    assert (b.lane.queued_tokens, b.lane.queued_requests) == (12, 3)
    b.release()
    b.wait(4)
    assert b.runner.batches == [[1], [2, 3, 4]]
    assert (b.lane.queued_tokens, b.lane.queued_requests, b.lane.n_calls) == (0, 0, 2)


def test_each_window_gets_its_own_scores(bench: Callable[..., Bench]) -> None:
    """Results go to the window they were computed for, in its job's order, and its times are told."""
    b = bench(max_batch_size=3)
    b.hold()
    jobs = [b.submit(tag, n_windows=tag) for tag in (1, 2, 3)]
    b.release()
    b.wait(4)
    for tag, job in zip((1, 2, 3), jobs, strict=True):
        assert [scores.label_ids.tolist() for scores in job.scores()] == [[tag] * 4] * tag
        assert job.queue_seconds >= 0
        assert job.inference_seconds > 0


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


def test_call_is_told_whether_logits_are_needed(bench: Callable[..., Bench]) -> None:
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


@pytest.mark.parametrize(("may_spread", "n_threads"), [(True, 2), (False, 1)])
def test_lone_call_is_told_and_counted_with_its_cores(
    bench: Callable[..., Bench], may_spread: bool, n_threads: int
) -> None:
    """A call that has the cores of both threads counts for two, and is measured as such."""
    b = bench(n_threads=2, max_tokens=10, may_spread=may_spread)
    b.runner.gate.clear()
    b.submit(1, length=10)
    b.runner.wait_for_call()
    threading.Event().wait(0.2)
    b.release()
    b.wait(1)
    _, _, _, seconds, n_counted = b.calls[0]
    assert b.runner.spread == [may_spread]
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


def test_calls_are_measured(bench: Callable[..., Bench]) -> None:
    """`retry_after_seconds` is what waits over the rate of the calls that `on_batch` was told of."""
    b = bench(max_tokens=10)
    b.hold()
    b.submit(1, length=10)
    threading.Event().wait(0.2)
    b.release()
    b.wait(2)
    (_, n0, _, seconds0, _), (_, n1, _, seconds1, _) = b.calls
    kept = max(0.5 ** (seconds1 / 0.7), 0.5 ** (1 / 7))
    rate = (kept * n0 + n1) / (kept * seconds0 + seconds1)
    b.hold()
    b.submit(3, length=8)
    with pytest.raises(Overloaded) as refused:
        b.submit(4)
    assert refused.value.retry_after_seconds == pytest.approx(8 / rate, rel=0.1)


def test_padding_is_counted() -> None:
    """`on_batch` is told of windows, tokens and padding."""
    b = Bench(token_budget=1000)
    b.hold()
    b.submit(1, length=10)
    b.submit(2, length=4)
    b.release()
    b.wait(3)
    b.lane.drain()
    assert [call[:3] for call in b.calls] == [(1, 4, 0), (2, 14, 6)]


def test_packed_batches_count_their_tokens_only() -> None:
    """With a packed graph a long and many short windows share a step, and its cost is their sum."""
    b = Bench(is_packed=True)
    job = Job([Window([1] * n, 0) for n in (40, 8, 8, 8, 1)], needs_logits=False)
    b.lane.submit(job)
    assert b.wait(1) == [job]
    b.lane.drain()
    assert [call[:3] for call in b.calls] == [(4, 64, 0), (1, 1, 0)]


def test_jobs_run_on_the_thread_that_was_given() -> None:
    """`run` is called on the thread that made the session, and draining ends that thread."""
    thread = EngineThread("home")
    home = thread.call(threading.get_ident)
    b = Bench(thread=thread)
    for tag in (1, 2):
        b.submit(tag)
        b.wait(1)[0].scores()
    b.lane.drain()
    assert b.runner.threads == [home, home]
    assert "home" not in {other.name for other in threading.enumerate()}


# --- waking -------------------------------------------------------------------------------------------


def test_the_thread_that_parked_last_is_woken_first() -> None:
    """Lone jobs stay on one thread, whose core is warm; the others are woken when there is more to do."""
    b = Bench(n_threads=3, max_batch_size=1)
    for _ in range(20):
        b.wait_until_parked(3)
        b.submit(1)
        b.wait(1)
    assert len(set(b.runner.threads)) == 1
    b.wait_until_parked(3)
    b.hold()
    for _ in range(2):
        b.submit(1)
        b.runner.wait_for_call()
    b.release()
    b.wait(3)
    assert len(set(b.runner.threads)) == 3
    b.lane.drain()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_no_wake_up_is_lost(n_threads: int) -> None:
    """Jobs that come at the very moment when a thread parks are computed."""
    b = Bench(n_threads=n_threads, max_tokens=100_000, max_batch_size=1)
    for _ in range(3000):
        b.submit(1)
        b.wait(1)
    run_together([lambda: [b.submit(2) for _ in range(1000)]] * 3)
    b.wait(3000)
    b.lane.drain()
    assert b.lane.queued_tokens == 0


# --- waiting for clients that were just answered ------------------------------------------------------


@pytest.mark.parametrize("gathers", [True, False])
def test_clients_that_come_again_share_calls(gathers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, four clients, calls of 20 ms: it waits for all four, and not only for the first."""
    # Longer than a machine with other work may keep a client from its core; `test_gathering` has the real times.
    for name, value in (("_MOST_SECONDS", 1.0), ("_SENDING_SECONDS", 1.0), ("_SHARE", 50.0)):
        monkeypatch.setattr(measured, name, value)
    b = Bench(token_budget=1000, gathers=gathers)
    b.runner.cpu_seconds = 0.02
    for tag in range(4):
        b.submit(tag)
    for tag in range(80):
        b.wait(1)
        if tag < 76:
            time.sleep(0.0001)  # a client that sends again
            b.submit(tag)
    b.lane.drain()
    sizes = [len(batch) for batch in b.runner.batches]
    assert sum(sizes) == 80
    n_full = sizes.count(4)
    assert n_full > 0.7 * len(sizes) if gathers else n_full < 0.3 * len(sizes)


def test_requests_that_come_at_their_own_pace_are_not_kept() -> None:
    """One comes right after two were answered, and nobody after it: it is taken at once, but for a few times."""
    b = Bench(token_budget=1000, gathers=True)
    b.runner.cpu_seconds = 0.005
    gather, waits = b.lane._gather, []

    def count(*arguments: Any) -> None:
        waits.append(arguments)
        gather(*arguments)

    b.lane._gather = count  # type: ignore[method-assign]
    for number in range(60):
        b.submit(number, n_windows=2)
        b.wait(1)
        b.submit(number)
        b.wait(1)
    b.lane.drain()
    assert 4 <= len(waits) <= 4 + 120 / 16


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_nothing_is_lost_while_threads_gather(n_threads: int) -> None:
    """Clients that come in all kinds of delays, and some that never come again."""
    b = Bench(n_threads=n_threads, max_tokens=100_000, token_budget=1000, gathers=True)
    b.runner.cpu_seconds = 0.0025

    def send(delays: list[float]) -> None:
        for delay in delays:
            time.sleep(delay)
            b.submit(1, n_windows=1 + int(delay > 0.0005))

    chosen = np.random.default_rng(n_threads).choice([0.0, 0.0001, 0.001, 0.004], (6, 60))
    run_together([partial(send, delays) for delays in chosen.tolist()])
    b.wait(360)
    b.lane.drain()
    assert (b.lane.queued_tokens, b.queue._n_waiting, b.lane._n_gathering) == (0, 0, 0)


def test_drain_finishes_what_waits_for_others() -> None:
    """A thread that waits for clients when the server stops computes what it has."""
    b = Bench(token_budget=1000, gathers=True)
    b.runner.cpu_seconds = 0.03
    for tag in range(4):
        b.submit(tag)
    b.wait(4)
    b.submit(5)
    b.lane.drain()
    assert b.wait(1)[0].error is None


# --- jobs that are not answered -----------------------------------------------------------------------


def test_refusal_is_raised_and_leaves_what_waits(bench: Callable[..., Bench]) -> None:
    """A job that does not fit gets `Overloaded`; `why_full` tells of it, and only while something waits."""
    b = bench(max_tokens=4)
    b.hold()
    assert b.lane.why_full(math.inf) is None
    b.submit(1)
    with pytest.raises(Overloaded, match=r"the queue is full .*: 4 tokens wait"):
        b.submit(2)
    told = b.lane.why_full(math.inf)
    assert told is not None
    assert told.reason == "queue_tokens"
    b.release()
    assert [job.error for job in b.wait(2)] == [None, None]


def test_deadline_is_a_moment_of_the_clock(bench: Callable[..., Bench]) -> None:
    """A job that would be late is refused by the time that there is until then."""
    b = bench()
    b.hold()
    b.queue.rates.note_call(100, 1.0, 1)
    b.submit(1, length=96)  # 1 s with what runs
    with pytest.raises(Overloaded) as refused:
        b.submit(2, deadline=time.monotonic() + 0.9)
    assert refused.value.reason == "queue_deadline"
    told = b.lane.why_full(time.monotonic() + 0.9)
    assert told is not None
    assert told.reason == "queue_deadline"
    later = time.monotonic() + 60
    assert b.lane.why_full(later) is None
    b.submit(3, deadline=later)
    b.release()
    assert [job.error for job in b.wait(3)] == [None] * 3


def test_refusal_holds_nothing(bench: Callable[..., Bench]) -> None:
    """Neither the job nor its texts are kept by what was raised, until Python's collector comes by."""
    b = bench(max_tokens=4)
    b.hold()
    b.submit(1)
    gc.disable()
    try:
        windows = [HeldWindow() for _ in range(2)]
        gone = weakref.ref(windows[0])
        with contextlib.suppress(Overloaded):
            b.lane.submit(Job(windows, needs_logits=False))  # type: ignore[arg-type]
        del windows
        assert gone() is None
    finally:
        gc.enable()


class HeldWindow:
    """A window that can be watched."""

    def __init__(self) -> None:
        self.ids = [1, 2, 3, 4]
        self.start = 0


def test_cancelled_job_never_runs(bench: Callable[..., Bench]) -> None:
    """A job cancelled while it waits costs nothing and frees its room."""
    b = bench()
    b.hold()
    gone = b.submit(1, n_windows=3)
    b.submit(2)
    b.lane.cancel(gone)
    b.lane.cancel(gone)
    b.lane.cancel(make_job(3))  # was never admitted
    assert b.lane.queued_tokens == 4
    b.release()
    b.wait(2)
    assert b.runner.batches == [[999], [2]]


def test_expired_job_is_delivered_and_never_runs(bench: Callable[..., Bench]) -> None:
    """The thread that takes the next batch delivers those that came too late, and goes on."""
    b = bench()
    b.hold()
    late = b.submit(1, deadline=time.monotonic() - 1)
    b.submit(2)
    b.release()
    b.wait(3)
    assert b.runner.batches == [[999], [2]]
    assert isinstance(late.error, DeadlineExceeded)
    last = b.submit(3, deadline=time.monotonic() - 1)  # nothing else wakes a thread
    assert b.wait(1) == [last]


def test_failed_call_is_logged_without_its_message(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """Its jobs get `InferenceFailed`, the thread goes on, and the log does not quote what could hold a text."""
    b = bench(max_batch_size=2)
    b.runner.failing = {1}
    b.hold()
    first, second, third = (b.submit(tag) for tag in (1, 2, 3))
    b.release()
    b.wait(4)
    assert [type(job.error) for job in (first, second, third)] == [
        InferenceFailed,
        InferenceFailed,
        type(None),
    ]
    assert "a batch of 2 windows failed: RuntimeError" in caplog.text
    assert "fire" not in caplog.text
    assert len(b.calls) == 2  # it is no call that was told of
    b.lane.drain()
    assert (b.queue._running_tokens, b.queue._n_running, b.queue.n_busy) == (0, 0, 0)


def test_failed_device_fails_all_and_admits_nothing(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """After `DeviceFailed` everything that waits fails with it at once, and the next job is refused with it."""
    caplog.set_level(logging.CRITICAL)
    b = bench(max_batch_size=1)
    held = b.hold()
    b.runner.failing = {1}
    b.runner.failure = DeviceFailed("the GPU has failed")
    jobs = [b.submit(tag) for tag in (1, 2, 3)]
    b.release()
    delivered = b.wait(4)
    assert delivered[0] is held
    assert held.error is None
    assert {id(job) for job in delivered[1:]} == {id(job) for job in jobs}
    for job in jobs:
        with pytest.raises(DeviceFailed, match="the GPU has failed"):
            job.scores()
    assert b.runner.batches == [[999], [1]]
    assert b.lane.queued_tokens == 0
    with pytest.raises(DeviceFailed):
        b.submit(4)


def test_device_that_is_given_up_fails_what_waits(bench: Callable[..., Bench]) -> None:
    """While a call hangs, what waits behind it is delivered, and nothing more is admitted."""
    b = bench(max_batch_size=1)
    held = b.hold()
    waiting = b.submit(1)
    b.lane.fail("no call ends")
    assert b.wait(1) == [waiting]
    assert isinstance(waiting.error, DeviceFailed)
    with pytest.raises(DeviceFailed, match="no call ends"):
        b.submit(2)
    b.release()
    assert b.wait(1) == [held]


@pytest.mark.parametrize("broken", ["deliver", "on_batch"])
def test_failing_callback_does_not_stop_the_lane(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in `deliver` or `on_batch` is logged, and the next job is computed as before."""
    caplog.set_level(logging.CRITICAL)
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()

    def callback(name: str) -> None:
        seen.put(name)
        if name == broken:
            raise RuntimeError("the event loop is closed")

    lane = Lane(
        Queue(BatchPolicy(64, 1, 1.0), 1000),
        Runner(),
        lambda _: callback("deliver"),
        [EngineThread("nerve-engine-0")],
        lambda *_: callback("on_batch"),
    )
    for _ in range(3):
        lane.submit(make_job(1))
        assert {seen.get(timeout=PATIENCE), seen.get(timeout=PATIENCE)} == {"deliver", "on_batch"}
    lane.drain()


# --- all together, and the end ------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 3])
def test_drain_finishes_what_was_admitted_and_refuses_the_rest(
    bench: Callable[..., Bench], n_threads: int
) -> None:
    """Every admitted job is delivered before `drain` returns; later ones get `Unavailable`."""
    b = bench(n_threads=n_threads, max_batch_size=1)
    b.hold()
    jobs = [b.submit(tag, n_windows=3) for tag in range(10)]
    drainer = threading.Thread(target=b.lane.drain)
    drainer.start()
    while not b.lane._is_draining:
        drainer.join(0.001)
    with pytest.raises(Unavailable):
        b.submit(99)
    b.release()
    drainer.join(PATIENCE)
    assert not drainer.is_alive()
    assert b.delivered.qsize() == 11
    assert all(len(job.scores()) == 3 for job in jobs)


def test_while_the_interpreter_ends_what_runs_is_waited_for_and_nothing_begins(
    bench: Callable[..., Bench],
) -> None:
    """On all lanes at once: a thread that came back from onnxruntime after that would abort the process."""
    benches = [bench(), bench()]
    running = [b.hold(1) for b in benches]
    waiting = [b.submit(2) for b in benches]
    leaver = threading.Thread(target=leave_all, args=([b.lane for b in benches],))
    leaver.start()
    for b, job in zip(benches, waiting, strict=True):
        assert b.wait(1) == [job]
        assert isinstance(job.error, Unavailable)
        with pytest.raises(Unavailable, match="the interpreter ends"):
            b.submit(3)
    benches[0].release()
    assert benches[0].wait(1) == [running[0]]
    assert leaver.is_alive()
    benches[1].release()
    assert benches[1].wait(1) == [running[1]]
    leaver.join(PATIENCE)
    assert not leaver.is_alive()
    assert [job.error for job in running] == [None, None]
    assert [b.runner.batches for b in benches] == [[[1]], [[1]]]


def test_forked_process_waits_for_no_call_of_its_parent(bench: Callable[..., Bench]) -> None:
    """It has no thread that could end one; nor does it wait for a lock that one held."""
    b = bench()
    b.hold(1)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of Python 3.12: what is tested is that it goes well
        child = os.fork()
    if child == 0:
        try:
            leave_all()
        finally:
            os._exit(1 if list(_lanes) else 0)
    b.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_every_job_is_delivered_exactly_once_under_load(bench: Callable[..., Bench]) -> None:
    """Many submitting threads, two engine threads, cancellations: nothing is lost, doubled or left over."""
    b = bench(n_threads=2, max_tokens=10**6)
    kept: list[Job] = []
    cancelled: list[Job] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for k in range(60):
            tag = seed * 1000 + k
            job = b.submit(tag, rng.randint(1, 5), rng.randint(1, 9), needs_logits=rng.random() < 0.3)
            if rng.random() < 0.2:
                b.lane.cancel(job)
                cancelled.append(job)
            else:
                kept.append(job)

    run_together([partial(client, seed) for seed in range(1, 6)])
    b.lane.drain()
    delivered = [b.delivered.get() for _ in range(b.delivered.qsize())]
    assert len(delivered) == len(set(map(id, delivered)))
    assert set(map(id, kept)) <= set(map(id, delivered)) <= {*map(id, kept), *map(id, cancelled)}
    for job in kept:
        assert [s.label_ids.tolist() for s in job.scores()] == [w.ids for w in job.windows]
    assert b.lane.queued_tokens == 0
    assert b.lane.queued_requests == 0
    assert (b.queue._running_tokens, b.queue._n_running, b.queue.n_busy) == (0, 0, 0)
