"""What a client is told when there is no room: which limit refused, and what to do."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from builders import PATIENCE, hold, open_model
from nerve.engine.engine import Engine, Outcome
from nerve.errors import Overloaded
from nerve.scheduling.batching import BatchPolicy, Job
from nerve.scheduling.queue import Queue
from nerve.types import PredictOptions, TokenizedText, Window

OPTIONS = PredictOptions()


@pytest.fixture
def held(lookup_model: Path) -> Iterator[Engine]:
    """Run one request, which does not end, and let another one wait; four tokens may."""
    model, _ = open_model(lookup_model, runtime={"window_stride": 4})
    held, gate = hold(model)
    engine = Engine(held, 4)
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    engine.start(["anna"], OPTIONS, math.inf, outcomes.put)
    assert gate.entered.acquire(timeout=PATIENCE)
    engine.start(["anna"], OPTIONS, math.inf, outcomes.put)
    yield engine
    gate.opened.set()
    engine.close()


def refusal_of(engine: Engine, text: str) -> Overloaded:
    """Return the error of a text that is refused."""
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    engine.start([text], OPTIONS, math.inf, outcomes.put)
    error = outcomes.get(timeout=PATIENCE)
    assert isinstance(error, Overloaded)
    return error


def test_full_queue_names_its_limit(held: Engine) -> None:
    """And what waits; a client that cannot know the limit is told to come back."""
    error = refusal_of(held, "anna sees bob")
    assert error.reason == "queue_tokens"
    assert "3 tokens wait" in str(error)
    assert "batching.max_queue_tokens = 4" in str(error)
    assert str(error).endswith("send the request again later")


def test_what_was_refused_spares_the_work_on_its_like(held: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of as many bytes is refused before it is read, as long as the queue has no room for such a one."""
    tokenized: list[Sequence[str]] = []
    tokenize = held.tokenize

    def note(texts: Sequence[str], *rest: object, **named: object) -> list[TokenizedText]:
        tokenized.append(texts)
        return tokenize(texts, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(held, "tokenize", note)
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    held.check_room(40, math.inf)  # a token would fit
    held.start(["anna sees bob"], OPTIONS, math.inf, outcomes.put, n_bytes=40)
    assert isinstance(outcomes.get(timeout=PATIENCE), Overloaded)
    assert len(tokenized) == 1
    for size in (40, 100_000):
        with pytest.raises(Overloaded, match=r"batching.max_queue_tokens = 4") as caught:
            held.check_room(size, math.inf)
        assert caught.value.reason == "queue_tokens"
    held.check_room(39, math.inf)  # it may have fewer tokens
    held.start(["anna sees bob" + " " * 40], OPTIONS, math.inf, outcomes.put, n_bytes=80)
    assert isinstance(outcomes.get(timeout=PATIENCE), Overloaded)
    assert len(tokenized) == 1
    held.lane_of(Job([Window([1] * 3, 0)], needs_logits=False)).fail("there is nothing to wait for")
    held.check_room(40, math.inf)


def test_busy_pool_says_so(held: Engine) -> None:
    """The threads for large texts are the limit there, not the queue."""
    release = threading.Event()
    for _ in range(64):
        held.pool.run(lambda: release.wait(PATIENCE), lambda _: None, pytest.fail)
    with pytest.raises(Overloaded) as caught:
        held.pool.check()
    release.set()
    assert caught.value.reason == "pool"
    assert "64 large requests wait for a thread" in str(caught.value)
    assert "queue" not in str(caught.value)


@pytest.mark.parametrize(
    ("max_seconds", "deadline", "reason", "words"),
    [
        (0.001, math.inf, "queue_wait", "batching.max_queue_ms"),
        (math.inf, 1.0, "queue_deadline", "after the deadline of the request"),
    ],
)
def test_long_wait_names_its_limit(max_seconds: float, deadline: float, reason: str, words: str) -> None:
    """It is the time that is too long, whatever the tokens are."""
    waiting = Queue(BatchPolicy(64, 1, 1.0), 1000, max_seconds)
    waiting.rates.note_call(1, 1.0, 1)
    assert waiting.admit(Job([Window([1] * 4, 0)], needs_logits=False), 0.0) is None
    error = waiting.why_full(0.0, deadline)
    assert isinstance(error, Overloaded)
    assert error.reason == reason
    assert words in str(error)
    assert "max_queue_tokens" not in str(error)
