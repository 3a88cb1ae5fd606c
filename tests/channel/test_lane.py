"""A front and an engine in one process: jobs cross the memory between them, whatever happens on either side."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from nerve.channel import segment
from nerve.channel.engine import EngineLoop, Hooks
from nerve.channel.front import FrontLane, Link, Remote
from nerve.errors import InferenceFailed, Overloaded, Unavailable
from nerve.scheduling.batching import BatchPolicy, Job
from nerve.scheduling.queue import Queue
from nerve.types import TokenScores, Window

FAIL, SLOW = 13, 7  # ids


class Engine:
    """A loop over a rule: label = id, score = 1; `open` lets calls with SLOW go on."""

    def __init__(self, path: Path, max_tokens: int = 10_000) -> None:
        self.open = threading.Event()
        self.sizes: list[int] = []
        self.failures: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.queue = Queue(BatchPolicy(10_000, 100, 1.0), max_tokens)
        hooks = Hooks(lambda *_: None, lambda *_: None, self.failures.append, lambda: None, None)
        self.loop = EngineLoop(self.queue, self.run, self.listener, b"hello", hooks)
        self.thread = threading.Thread(target=self.loop.serve, daemon=True)
        self.thread.start()
        threading.Thread(target=self.loop.greet, daemon=True).start()

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool) -> list[TokenScores]:
        """Compute one batch."""
        self.sizes.append(len(windows))
        if any(SLOW in window.ids for window in windows):
            self.open.wait(60)
        if any(FAIL in window.ids for window in windows):
            raise RuntimeError("no")
        found = []
        for window in windows:
            ids = np.asarray(window.ids, np.int64)
            logits = np.repeat(ids[:, None], 3, 1).astype(np.float32) if needs_logits else None
            found.append(TokenScores(ids, np.ones(len(ids), np.float32), logits))
        return found


class Front:
    """A lane, and the jobs that it has delivered."""

    def __init__(
        self, path: Path, connect: Callable[[], Link] | None = None, max_tokens: int = 10_000
    ) -> None:
        self.states: list[bool] = []
        self.link = Link(path)

        def give_up() -> Link:
            raise OSError

        self.lane = FrontLane(
            Remote(self.link, connect or give_up), self.deliver, self.states.append, max_tokens, math.inf
        )

    def deliver(self, jobs: list[Job]) -> None:
        """Do as an engine does."""
        for job in jobs:
            if job.waiter is not None:
                job.waiter()

    def submit(self, *windows: list[int], needs_logits: bool = False, seconds: float = 60) -> Job:
        """Submit a job, whose waiter tells that it is done."""
        job = Job([Window(ids, 0) for ids in windows], needs_logits, time.monotonic() + seconds)
        job.waiter = threading.Event().set
        self.lane.submit(job)
        return job


def wait(*jobs: Job) -> None:
    """Wait until jobs are delivered."""
    for job in jobs:
        done: threading.Event = job.waiter.__self__  # type: ignore[union-attr]
        assert done.wait(60)


def labels(job: Job) -> list[list[int]]:
    """Return the labels of all windows."""
    return [scores.label_ids.tolist() for scores in job.scores()]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Run a loop."""
    found = Engine(tmp_path / "socket")
    yield found
    found.open.set()
    found.loop.close()
    found.listener.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_jobs_of_all_fronts_share_a_call(engine: Engine, tmp_path: Path) -> None:
    """What came while a call ran is computed together, and each front gets its own."""
    one, other = Front(tmp_path / "socket"), Front(tmp_path / "socket")
    first = one.submit([SLOW])
    until(lambda: engine.sizes == [1])
    jobs = [front.submit([n, n + 1], [n]) for n in range(20, 30) for front in (one, other)]
    with_logits = other.submit([5, 6], needs_logits=True)
    engine.open.set()
    wait(first, *jobs, with_logits)
    assert max(engine.sizes) == 40
    assert [labels(job) for job in jobs] == [[[n, n + 1], [n]] for n in range(20, 30) for _ in range(2)]
    (scores,) = with_logits.scores()
    assert scores.logits is not None
    assert scores.logits.tolist() == [[5.0] * 3, [6.0] * 3]
    until(lambda: one.lane.n_calls == len(engine.sizes))


def test_a_job_larger_than_the_memory_passes_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both directions; small jobs behind it come through."""
    monkeypatch.setattr(segment, "_JOB_BYTES", 4096)
    monkeypatch.setattr(segment, "_SCORE_BYTES", 4096)
    engine = Engine(tmp_path / "socket", max_tokens=100_000)
    front = Front(tmp_path / "socket", max_tokens=100_000)
    large = front.submit(list(range(20, 9_000)), needs_logits=True)
    small = [front.submit([n]) for n in range(20, 60)]
    wait(large, *small)
    assert labels(large) == [list(range(20, 9_000))]
    assert [labels(job) for job in small] == [[[n]] for n in range(20, 60)]
    engine.loop.close()
    engine.listener.close()


def test_failures_reach_their_own_job(engine: Engine, tmp_path: Path) -> None:
    """A batch that fails fails its jobs; a deadline that passes in the queue is told; others are answered."""
    front = Front(tmp_path / "socket")
    failed = front.submit([FAIL])
    wait(failed)
    assert isinstance(failed.error, InferenceFailed)
    slow = front.submit([SLOW])
    until(lambda: len(engine.sizes) == 2)
    late, good = front.submit([20], seconds=0.05), front.submit([21])
    time.sleep(0.1)
    engine.open.set()
    wait(slow, late, good)
    assert type(late.error).__name__ == "DeadlineExceeded"
    assert labels(good) == [[21]]


def test_a_full_queue_refuses(engine: Engine, tmp_path: Path) -> None:
    """The engine decides for all fronts; a front refuses by itself what it knows to be too much."""
    engine.queue._max_tokens = 10
    one, other = Front(tmp_path / "socket", max_tokens=10), Front(tmp_path / "socket", max_tokens=10)
    slow = one.submit([SLOW])
    until(lambda: len(engine.sizes) == 1)
    waiting, refused = one.submit([20] * 9), other.submit([21] * 5)
    engine.open.set()
    wait(slow, waiting, refused)
    assert isinstance(refused.error, Overloaded) or labels(refused) == [[21] * 5]
    errors = [job.error for job in (waiting, refused) if job.error is not None]
    assert [error.reason for error in errors if isinstance(error, Overloaded)] == ["queue_tokens"]


def test_nobody_waits_for_a_job_that_was_cancelled(engine: Engine, tmp_path: Path) -> None:
    """Its windows are not computed, and the queue has room for others."""
    front = Front(tmp_path / "socket")
    slow = front.submit([SLOW])
    until(lambda: len(engine.sizes) == 1)
    dropped = front.submit([30] * 100)
    front.lane.cancel(dropped)
    good = front.submit([31])
    engine.open.set()
    wait(slow, good)
    assert engine.sizes == [1, 1]
    assert front.lane.is_idle()


def test_a_front_that_ends_takes_only_its_own_jobs(engine: Engine, tmp_path: Path) -> None:
    """The engine forgets them, and serves the others."""
    one, other = Front(tmp_path / "socket"), Front(tmp_path / "socket")
    slow = other.submit([SLOW])
    until(lambda: len(engine.sizes) == 1)
    one.submit([40] * 50)
    good = other.submit([41])
    one.link.socket.shutdown(socket.SHUT_RDWR)
    time.sleep(0.1)
    engine.open.set()
    wait(slow, good)
    assert labels(good) == [[41]]
    until(lambda: len(engine.loop._fronts) == 1)
    assert sum(engine.sizes) <= 3


def test_an_engine_that_ends_fails_what_is_under_way(engine: Engine, tmp_path: Path) -> None:
    """Its fronts are told, refuse, and go on with the next one."""
    next_path = tmp_path / "next"
    there = threading.Event()

    def connect() -> Link:
        there.wait(60)
        return Link(next_path)

    front = Front(tmp_path / "socket", connect)
    slow = front.submit([SLOW])
    until(lambda: len(engine.sizes) == 1)
    front.link.socket.shutdown(socket.SHUT_RDWR)
    wait(slow)
    assert isinstance(slow.error, Unavailable)
    until(lambda: front.states == [False])
    with pytest.raises(Unavailable):
        front.submit([20])
    another = Engine(next_path)
    there.set()
    until(lambda: front.states == [False, True])
    good = front.submit([22])
    wait(good)
    assert labels(good) == [[22]]
    another.loop.close()
    another.listener.close()


def test_draining_waits_for_what_is_under_way(engine: Engine, tmp_path: Path) -> None:
    """And admits nothing more."""
    front = Front(tmp_path / "socket")
    slow = front.submit([SLOW])
    until(lambda: len(engine.sizes) == 1)
    draining = threading.Thread(target=front.lane.drain)
    draining.start()
    until(lambda: front.lane._closed is not None)
    with pytest.raises(Unavailable):
        front.submit([20])
    assert draining.is_alive()
    engine.open.set()
    draining.join(10)
    assert not draining.is_alive()
    wait(slow)


def test_what_is_no_message_costs_its_front_alone(engine: Engine, tmp_path: Path) -> None:
    """The engine serves it no more."""
    one, other = Front(tmp_path / "socket"), Front(tmp_path / "socket")
    one.link.segment.jobs.write(b"nonsense" * 10)
    good = other.submit([23])
    wait(good)
    assert labels(good) == [[23]]
    until(lambda: len(engine.loop._fronts) == 1)
    until(lambda: one.states == [False])
