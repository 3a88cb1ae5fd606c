"""Requests that arrive together run as one call, and nobody waits for one that does not come."""

from __future__ import annotations

import dataclasses
import gc
import math
import queue
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builders import PATIENCE, HeldSession, hold, open_model
from nerve import burst as burst_module
from nerve import engine as engine_module
from nerve.batching import BatchPolicy
from nerve.burst import Burst
from nerve.engine import Call, Engine
from nerve.errors import PredictError, Unavailable
from nerve.jobs import Job
from nerve.model import Model
from nerve.scheduler import Scheduler
from nerve.types import AggregationStrategy, Prediction, PredictOptions, TokenScores, Window

SIMPLE = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE)
MOST = 16  # jobs of one call


class Texts(list[str]):
    """A list that can be watched."""


class Arrivals:
    """An engine whose calls are quick, and a server's thread that has more requests to begin until it says not."""

    def __init__(self, model: Model) -> None:
        self.calls: list[int] = []  # windows of each call of the model
        self.engine = Engine(model, 10**6, on_batch=lambda n_windows, *_: self.calls.append(n_windows))
        self.deferred: list[Callable[[], None]] = []
        self.can_defer = True
        self.outcomes: queue.SimpleQueue[tuple[int, Prediction | Exception]] = queue.SimpleQueue()
        self._n_begun = 0

    def warm_up(self) -> None:
        """Have a hundred quick calls made."""
        for _ in range(101):
            self.begin("anna", alone=True)
            self.outcomes.get(timeout=PATIENCE)
        assert self.engine._burst is not None
        assert self.engine._lane.is_quick(16, engine_module._INLINE_SECONDS)
        self.calls.clear()
        self._n_begun = 0

    def begin(self, text: str, options: PredictOptions = SIMPLE, alone: bool = False) -> Call:
        """Begin a request; its outcome comes with its number, from 0."""
        number = self._n_begun
        self._n_begun += 1

        def defer(then: Callable[[], None]) -> bool:
            if self.can_defer:
                self.deferred.append(then)
            return self.can_defer

        return self.engine.start(
            Texts([text]),
            options,
            math.inf,
            lambda outcome: self.outcomes.put((number, outcome)),
            None if alone else defer,
        )

    def end(self) -> None:
        """Say that nothing more has arrived."""
        for then in self.deferred:
            then()
        self.deferred.clear()

    def answers(self) -> dict[int, list[str]]:
        """Return the tokens of the answers that are there, by number."""
        answers = {}
        while not self.outcomes.empty():
            number, outcome = self.outcomes.get()
            assert isinstance(outcome, Prediction), outcome
            answers[number] = [row.token for row in outcome.rows[0]]
        return answers


class BrokenSession(HeldSession):
    """A real session that fails when it is told to."""

    is_broken = False

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Compute, or fail."""
        if self.is_broken:
            raise RuntimeError("out of luck")
        return super().run(windows, needs_logits)


@pytest.fixture(scope="module")
def model(lookup_model: Path) -> Model:
    """Load the lookup model."""
    return open_model(lookup_model, cpu={"threads": 2}, batching={"max_batch_tokens": 512})[0]


@pytest.fixture(autouse=True)
def _every_call_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not decide; what is quick is tested with the scheduler."""
    monkeypatch.setattr(engine_module, "_INLINE_SECONDS", 1.0)
    monkeypatch.setattr(burst_module, "_MOST_SECONDS", 1.0)


@pytest.fixture
def arrivals_of() -> Iterator[Callable[[Model], Arrivals]]:
    """Create engines with arrivals; they are closed after the test."""
    created: list[Arrivals] = []

    def create(model: Model) -> Arrivals:
        created.append(Arrivals(model))
        return created[-1]

    yield create
    for arrivals in created:
        session = arrivals.engine.model.session
        if isinstance(session, HeldSession):
            session.gate.set()
        arrivals.engine.close()


@pytest.fixture
def arrivals(model: Model, arrivals_of: Callable[[Model], Arrivals]) -> Arrivals:
    """Create a warm engine."""
    created = arrivals_of(model)
    created.warm_up()
    return created


def test_requests_that_arrive_together_run_as_one_call(arrivals: Arrivals) -> None:
    """Each gets its own rows, when the first one's turn has come; the others ask for none."""
    texts = ["anna", "paris", "x y", "bob"]
    for text in texts:
        arrivals.begin(text)
    assert arrivals.outcomes.empty()
    assert len(arrivals.deferred) == 1
    arrivals.end()
    assert arrivals.calls == [4]
    assert arrivals.answers() == {0: ["anna"], 1: ["paris"], 2: [], 3: ["bob"]}


def test_lone_request_does_not_wait(arrivals: Arrivals) -> None:
    """Nor one of a server that cannot tell when what has arrived is begun."""
    arrivals.begin("anna", alone=True)
    arrivals.can_defer = False
    arrivals.begin("bob")
    assert arrivals.answers() == {0: ["anna"], 1: ["bob"]}
    assert arrivals.calls == [1, 1]


def test_full_call_does_not_wait(arrivals: Arrivals) -> None:
    """When it is said later that its requests have arrived, that does nothing to those that came since."""
    for _ in range(MOST):
        arrivals.begin("anna")
    assert arrivals.calls == [MOST]
    (late,) = arrivals.deferred
    arrivals.begin("bob")
    late()
    assert arrivals.calls == [MOST]
    arrivals.end()
    assert arrivals.calls == [MOST, 1]
    assert len(arrivals.answers()) == MOST + 1


def test_request_that_cannot_wait_takes_the_others_along(arrivals: Arrivals) -> None:
    """They are in the same call."""
    arrivals.begin("anna")
    arrivals.begin("bob", alone=True)
    assert arrivals.calls == [2]
    arrivals.end()
    assert arrivals.answers() == {0: ["anna"], 1: ["bob"]}


def test_logits_are_not_computed_for_those_that_need_none(arrivals: Arrivals) -> None:
    """Requests with and without them do not mix; what came first runs first."""
    raw = PredictOptions(raw_scores=True)
    arrivals.begin("anna")
    arrivals.begin("bob", raw)
    arrivals.begin("paris", raw)
    assert arrivals.calls == [1]
    arrivals.end()
    assert arrivals.calls == [1, 2]
    assert len(arrivals.answers()) == 3


def test_cancelled_request_is_not_computed(arrivals: Arrivals) -> None:
    """Its client has left while it waited for others."""
    arrivals.begin("anna")
    call = arrivals.begin("bob")
    call.cancel()
    arrivals.end()
    assert arrivals.calls == [1]
    assert arrivals.answers() == {0: ["anna"]}


def test_long_request_does_not_join(arrivals: Arrivals) -> None:
    """One of many windows is queued at once."""
    arrivals.begin("anna")
    arrivals.begin("x y " * 100)
    assert arrivals.outcomes.get(timeout=PATIENCE)[0] == 1
    arrivals.end()
    assert arrivals.answers() == {0: ["anna"]}


def test_what_was_kept_is_queued_behind_others(
    model: Model, arrivals_of: Callable[[Model], Arrivals]
) -> None:
    """While a call runs and another request waits, it does not overtake."""
    held, session = hold(model)
    session.gate.set()
    arrivals = arrivals_of(held)
    arrivals.warm_up()
    arrivals.begin("anna")
    session.gate.clear()
    while session.entered.acquire(blocking=False):
        pass
    jobs = []
    for _ in range(2):
        jobs.append(arrivals.engine.compute([Window([1] * 4, 0)], False, math.inf, lambda _: None))
        if len(jobs) == 1:
            assert session.entered.acquire(timeout=PATIENCE)
    arrivals.end()
    assert arrivals.outcomes.empty()
    session.gate.set()
    assert isinstance(arrivals.outcomes.get(timeout=PATIENCE)[1], Prediction)
    assert all(job.error is None for job in jobs)


def test_what_was_kept_is_told_that_nothing_is_admitted(arrivals: Arrivals) -> None:
    """The server has closed meanwhile: an error at once, not at the deadline."""
    arrivals.begin("anna")
    arrivals.begin("bob")
    arrivals.engine.close()
    arrivals.end()
    outcomes = [arrivals.outcomes.get_nowait() for _ in range(2)]
    assert all(isinstance(outcome, Unavailable) for _, outcome in outcomes)


def test_call_that_fails_fails_all_of_it(model: Model, arrivals_of: Callable[[Model], Arrivals]) -> None:
    """Each is told, and the next ones run."""
    session = BrokenSession(model.session)  # type: ignore[arg-type]
    session.gate.set()
    arrivals = arrivals_of(dataclasses.replace(model, session=session))  # type: ignore[arg-type]
    arrivals.warm_up()
    arrivals.begin("anna")
    arrivals.begin("bob")
    session.is_broken = True
    arrivals.end()
    session.is_broken = False
    outcomes = [arrivals.outcomes.get_nowait() for _ in range(2)]
    assert all(isinstance(outcome, PredictError) for _, outcome in outcomes)
    arrivals.begin("paris", alone=True)
    assert arrivals.answers() == {2: ["paris"]}


def test_answers_wait_for_the_call_only(arrivals: Arrivals) -> None:
    """The time that a request is kept counts as its wait in the queue."""
    arrivals.begin("anna")
    time.sleep(0.05)
    arrivals.end()
    _, outcome = arrivals.outcomes.get_nowait()
    assert isinstance(outcome, Prediction)
    assert outcome.timings.queue >= 0.05


def test_refusals_leave_no_cycle(model: Model, arrivals_of: Callable[[Model], Arrivals]) -> None:
    """What a refused request holds is freed at once, not when the collector comes by."""
    arrivals = arrivals_of(model)
    arrivals.warm_up()
    calls = [arrivals.begin("anna"), arrivals.begin("bob")]
    jobs = [weakref.ref(call._texts) for call in calls]
    arrivals.engine.close()
    gc.disable()
    try:
        arrivals.end()
        while not arrivals.outcomes.empty():
            assert isinstance(arrivals.outcomes.get()[1], Unavailable)
        del calls
        assert [job() for job in jobs] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("lengths", "quick_tokens", "calls"),
    [
        ([10, 10, 10], 15, [3]),  # no padding: one call costs less than three
        ([100, 98, 99], 120, [2, 1]),  # hardly any, but three take longer than the thread may be kept
        ([100, 98, 99], 200, [3]),
        ([10, 100], 120, [1, 1]),  # as much again, and more
        ([10, 100], 200, [2]),  # which costs nothing here
        ([10, 10, 100, 10], 120, [2, 1, 1]),
        ([100] * 6, 1000, [4, 2]),  # no more tokens than a call may have
        ([1] * 11, 1000, [10, 1]),  # nor windows
    ],
)
def test_joining_is_worth_it(lengths: list[int], quick_tokens: int, calls: list[int]) -> None:
    """A short text joins a long one only where a call with all that padding is still quick."""
    seen: list[int] = []
    policy = BatchPolicy(token_budget=400, max_batch_size=10, max_padding=0.05)

    class Lane(Scheduler):
        """One whose calls are quick up to so many tokens, and take a millisecond for twice as many."""

        def is_quick(self, n_tokens: int, limit_seconds: float) -> bool:
            return n_tokens <= quick_tokens * (1 if limit_seconds < 1.0 else 2)

    lane = Lane(
        lambda windows, *_: [None] * len(windows),  # type: ignore[arg-type,return-value] # nobody asks for scores
        lambda _: None,
        policy,
        10**6,
        on_batch=lambda n_windows, *_: seen.append(n_windows),
    )
    try:
        burst = Burst(lane, lambda _: None, policy, 0.0002)
        deferred: list[Callable[[], None]] = []
        for length in lengths:
            job = Job([Window([1] * length, 0)], needs_logits=False)
            job.waiter = lambda: None
            assert burst.add(job, lambda then: deferred.append(then) or True)
        for then in deferred:
            then()
    finally:
        lane.drain()
    assert seen == calls
