from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import math
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builders import LOOKUP, PATIENCE, WORDS, Gate, hold, predict_blocking, write_lookup_model
from nerve.checkpoint import ModelFolder
from nerve.config import Config, parse_config
from nerve.engine import in_process
from nerve.engine.engine import Engine
from nerve.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from nerve.models.loader import load_model
from nerve.models.model import Model
from nerve.scheduling.batching import Job
from nerve.types import (
    AggregationStrategy,
    PredictOptions,
    Row,
    TruncationDirection,
    Window,
)

SIMPLE = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE)
# More than INLINE_TOKENS tokens in few enough characters to be tokenized on the calling thread.
MANY_TOKENS = "x y " * 900
MANY_CHARACTERS = "paris " * 900


def make_config(stride: int = 4, **sections: dict[str, Any]) -> Config:
    """Make a configuration for a model folder on the CPU."""
    document: dict[str, Any] = {
        "model": {"checkpoint_repository": {"source": "LOCAL", "path": "."}, "device": "cpu"},
        "runtime": {"window_stride": stride},
        "cpu": {"threads": 2},
    }
    for name, values in sections.items():
        document.setdefault(name, {}).update(values)
    return parse_config(document, {}, Path("/"))


def load(folder: Path, cache: Path, stride: int = 4, **sections: dict[str, Any]) -> Model:
    """Load a model folder."""
    return load_model(make_config(stride, **sections), ModelFolder(folder, "test", ""), cache)


@pytest.fixture(scope="module")
def small(lookup_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Load the lookup model with windows of 16 tokens."""
    return load(lookup_model, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Load the same model with windows that hold every text of these tests."""
    folder = write_lookup_model(tmp_path_factory.mktemp("large") / "model", max_length=8192)
    return load(folder, folder)


@pytest.fixture
def engine_of() -> Iterator[Callable[..., Engine]]:
    """Create engines; they are closed after the test."""
    engines: list[Engine] = []

    def create(model: Model, max_queue_tokens: int = 10**6) -> Engine:
        engines.append(Engine(model, max_queue_tokens))
        return engines[-1]

    yield create
    for engine in engines:
        session = engine.model.backend
        if isinstance(session, Gate):
            session.opened.set()
        engine.close()


def predict(engine: Engine, texts: list[str], options: PredictOptions = SIMPLE) -> list[list[Row]]:
    """Predict on an event loop of its own."""
    return asyncio.run(in_process.predict(engine, texts, options)).rows


def random_text(rng: random.Random, n_words: int) -> str:
    """Write a text of words the lookup model knows, with a few odd ones."""
    words = [word for word in (*LOOKUP, *WORDS) if not word.startswith("##")]
    return " ".join(rng.choice([*words, "parisville", "naïve", "你好", "😀"]) for _ in range(n_words))


# --- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", list(AggregationStrategy))
@pytest.mark.parametrize("stride", [0, 4, 12])
def test_windows_give_the_rows_of_one_large_window(
    lookup_model: Path,
    tmp_path: Path,
    large: Model,
    engine_of: Callable[..., Engine],
    strategy: AggregationStrategy,
    stride: int,
) -> None:
    """Where the context does not matter, a text over many windows gives what one large window gives."""
    rng = random.Random(stride)
    texts = [random_text(rng, n) for n in (0, 1, 13, 14, 15, 16, 27, 40, 111)]
    options = PredictOptions(aggregation_strategy=strategy)
    expected = predict(engine_of(large), texts, options)
    assert predict(engine_of(load(lookup_model, tmp_path, stride)), texts, options) == expected
    raw = msgspec.structs.replace(options, raw_scores=True)
    assert predict(engine_of(load(lookup_model, tmp_path, stride)), texts, raw) == predict(
        engine_of(large), texts, raw
    )


@pytest.mark.parametrize("offset", range(12))
def test_entity_across_a_window_edge_comes_out_whole(
    small: Model, engine_of: Callable[..., Engine], offset: int
) -> None:
    """An entity longer than an overlap, wherever it stands against the windows, is one row."""
    before = "x " * offset
    entity = "new york york york york york york york york"
    (rows,) = predict(engine_of(small), [f"{before}{entity} " + "x " * 20])
    assert [(row.token, row.start) for row in rows] == [(entity, len(before))]


def test_every_source_token_appears_once(
    rampart: Path, engine_of: Callable[..., Engine], tmp_path: Path
) -> None:
    """A long text has one row for each token the tokenizer gives it, in order, special tokens included."""
    model = load(rampart, tmp_path, 128)
    text = "Anna Schmidt lives in Paris, call +33 1 23 45 67 89. " * 80
    (rows,) = predict(engine_of(model), [text], PredictOptions())
    (tokens,) = model.tokenizer.tokenize([text])
    assert len(tokens.windows) > 2
    assert [row.token_id for row in rows] == tokens.ids
    assert [(row.start, row.end) for row in rows] == tokens.offsets


def test_text_within_one_window_is_unaffected_by_the_stride(
    rampart: Path, engine_of: Callable[..., Engine], tmp_path: Path
) -> None:
    """`window_stride` changes nothing of a text that fits."""
    texts = ["Anna Schmidt lives in Paris.", "", "My e-mail is anna@example.org, please write. " * 5]
    options = msgspec.structs.replace(SIMPLE, raw_scores=True)
    first, second = (
        predict(engine_of(load(rampart, tmp_path, stride)), texts, options) for stride in (0, 200)
    )
    assert first == second
    assert first[0]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [(TruncationDirection.RIGHT, ["anna"]), (TruncationDirection.LEFT, ["paris"])],
)
def test_truncation_keeps_one_end(
    small: Model, engine_of: Callable[..., Engine], direction: TruncationDirection, expected: list[str]
) -> None:
    """A cut text has the entities of the end that is kept, and is reported by its index."""
    text = "anna " + "x " * 30 + "paris"
    options = msgspec.structs.replace(SIMPLE, truncate=True, truncation_direction=direction)
    prediction = predict_blocking(engine_of(small), ["x", text], options)
    assert [[row.token for row in rows] for rows in prediction.rows] == [[], expected]
    assert prediction.truncated == [1]
    assert prediction.n_tokens == 3 + 16


def test_no_text_is_refused(small: Model, engine_of: Callable[..., Engine]) -> None:
    """An empty list is an invalid request, as over HTTP."""
    with pytest.raises(InvalidRequest):
        predict_blocking(engine_of(small), [], SIMPLE)


@pytest.mark.parametrize("way", ["loop", "threads"])
def test_concurrent_requests_get_their_own_answers(
    small: Model, large: Model, engine_of: Callable[..., Engine], way: str
) -> None:
    """Requests that share batches, long and short, with logits and without, do not mix."""
    rng = random.Random(7)
    requests = [
        (
            [random_text(rng, rng.choice([1, 5, 14, 60])) for _ in range(rng.randint(1, 4))],
            rng.choice([SIMPLE, PredictOptions(), msgspec.structs.replace(SIMPLE, raw_scores=True)]),
        )
        for _ in range(60)
    ]
    reference = engine_of(large)
    expected = [predict_blocking(reference, *request).rows for request in requests]
    engine = engine_of(small)
    if way == "threads":
        with ThreadPoolExecutor(8) as pool:
            found = [p.rows for p in pool.map(lambda request: predict_blocking(engine, *request), requests)]
    else:

        async def all_at_once() -> list[list[list[Row]]]:
            calls = [in_process.predict(engine, *request) for request in requests]
            return [prediction.rows for prediction in await asyncio.gather(*calls)]

        found = asyncio.run(all_at_once())
    assert found == expected
    assert engine.queued_tokens == 0


# --- waiting ----------------------------------------------------------------------------------------


def test_deadline_passes_while_waiting(small: Model, engine_of: Callable[..., Engine]) -> None:
    """A request whose deadline passes is answered at that moment, and its waiting windows never run."""
    model, session = hold(small)
    engine = engine_of(model)

    async def scenario() -> None:
        first = asyncio.create_task(in_process.predict(engine, ["anna"], SIMPLE))
        await asyncio.to_thread(session.entered.acquire)
        with pytest.raises(DeadlineExceeded):
            await in_process.predict(engine, ["paris"], SIMPLE, time.monotonic() + 0.02)
        assert engine.queued_tokens == 0
        with pytest.raises(DeadlineExceeded):
            await in_process.predict(engine, ["paris"], SIMPLE, time.monotonic() - 1)
        session.opened.set()
        assert (await first).rows[0][0].token == "anna"

    asyncio.run(scenario())
    assert session.n_windows == 1


def test_deadline_passes_while_a_large_text_is_tokenized(
    small: Model, engine_of: Callable[..., Engine]
) -> None:
    """The client is answered at its deadline; tokenizing ends unseen, and what had not begun is dropped."""
    gate = threading.Event()
    entered = threading.Semaphore(0)

    class HeldTokenizer:
        n_calls = 0

        def tokenize(self, *arguments: Any) -> Any:
            self.n_calls += 1
            entered.release()
            assert gate.wait(PATIENCE)
            return small.tokenizer.tokenize(*arguments)

    tokenizer = HeldTokenizer()
    engine = engine_of(dataclasses.replace(small, tokenizer=tokenizer))  # type: ignore[arg-type]

    async def scenario() -> None:
        patient = [
            asyncio.create_task(in_process.predict(engine, [MANY_CHARACTERS], SIMPLE)) for _ in range(2)
        ]
        for _ in patient:
            await asyncio.to_thread(entered.acquire)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await in_process.predict(engine, [MANY_CHARACTERS], SIMPLE, started + 0.05)
        assert time.monotonic() - started < 5
        gate.set()
        assert all(prediction.rows[0] for prediction in await asyncio.gather(*patient))

    try:
        asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
    finally:
        gate.set()
    engine.close()
    assert tokenizer.n_calls == 2


def test_loop_that_ends_early_does_not_hurt_the_engine(
    small: Model, engine_of: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """A request abandoned together with its event loop leaves the engine as it was, and logs no defect."""
    model, session = hold(small)
    engine = engine_of(model)

    async def abandoned() -> None:
        task = asyncio.create_task(in_process.predict(engine, ["anna"], SIMPLE))
        await asyncio.to_thread(session.entered.acquire)
        task.cancel()

    asyncio.run(abandoned())
    session.opened.set()
    assert predict_blocking(engine, ["paris"], SIMPLE).rows[0][0].token == "paris"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_two_event_loops_share_an_engine(small: Model, engine_of: Callable[..., Engine]) -> None:
    """Each waiter is woken on its own loop, whichever loop came last."""
    model, session = hold(small)
    engine = engine_of(model)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(predict, engine, ["anna"])
        assert session.entered.acquire(timeout=PATIENCE)
        second = pool.submit(predict, engine, ["paris"])
        while not engine.queued_tokens:
            second.done()
        session.opened.set()
        try:
            answers = [future.result(5)[0][0].token for future in (first, second)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    assert answers == ["anna", "paris"]


@pytest.mark.parametrize("way", ["refused", "cancelled"])
def test_request_that_is_not_answered_leaves_no_cycle(
    small: Model, engine_of: Callable[..., Engine], way: str
) -> None:
    """Its texts, and whatever its owner holds, are freed at once, not when the collector comes by."""

    class Texts(list[str]):
        """A list that can be watched."""

    model, session = hold(small)
    engine = engine_of(model, max_queue_tokens=8)
    first: queue.SimpleQueue[object] = queue.SimpleQueue()
    engine.start(["anna"], SIMPLE, math.inf, first.put)
    assert session.entered.acquire(timeout=PATIENCE)
    if way == "refused":
        engine.start(["x y"], SIMPLE, math.inf, first.put)
    outcomes: queue.SimpleQueue[object] = queue.SimpleQueue()
    texts = Texts(["x y x y"])
    texts_gone = weakref.ref(texts)
    gc.disable()
    try:
        call = engine.start(texts, SIMPLE, math.inf, outcomes.put)
        if way == "refused":
            assert isinstance(outcomes.get(timeout=PATIENCE), Overloaded)
        else:
            call.cancel()
        del call, texts
        assert texts_gone() is None
    finally:
        gc.enable()
    session.opened.set()
    assert not isinstance(first.get(timeout=PATIENCE), Exception)


# --- overload and closing ---------------------------------------------------------------------------


def test_full_queue_refuses_before_tokenizing(small: Model, engine_of: Callable[..., Engine]) -> None:
    """When nothing could be admitted, a request is refused at once."""
    model, session = hold(small)
    engine = engine_of(model, max_queue_tokens=4)

    async def scenario() -> None:
        running = asyncio.create_task(in_process.predict(engine, ["anna"], SIMPLE))
        await asyncio.to_thread(session.entered.acquire)
        waiting = asyncio.create_task(in_process.predict(engine, ["anna x"], SIMPLE))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await in_process.predict(engine, ["\ud800 cannot be tokenized"], SIMPLE)
        session.opened.set()
        await asyncio.gather(running, waiting)

    asyncio.run(scenario())


def test_request_that_does_not_fit_is_refused_whole(small: Model, engine_of: Callable[..., Engine]) -> None:
    """A request larger than the room left gets `Overloaded`, and what was admitted is not touched."""
    model, session = hold(small)
    engine = engine_of(model, max_queue_tokens=10)

    async def scenario() -> None:
        running = asyncio.create_task(in_process.predict(engine, ["anna"], SIMPLE))
        await asyncio.to_thread(session.entered.acquire)
        waiting = asyncio.create_task(in_process.predict(engine, ["paris"], SIMPLE))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await in_process.predict(engine, ["x x x x x x x x"], SIMPLE)
        assert engine.queued_tokens == 3
        session.opened.set()
        assert (await waiting).rows[0][0].token == "paris"
        await running

    asyncio.run(scenario())


def test_busy_pool_refuses_new_large_requests_and_answers_admitted_ones(
    small: Model, engine_of: Callable[..., Engine]
) -> None:
    """Overload is told before anything is computed; a request that was computed is answered."""
    engine = engine_of(small)
    gate = threading.Event()
    errors: list[Exception] = []

    async def scenario() -> None:
        for _ in range(64):
            engine.pool.run(lambda: gate.wait(PATIENCE), lambda _: None, errors.append)
        admitted = asyncio.create_task(in_process.predict(engine, [MANY_TOKENS + "paris"], SIMPLE))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await in_process.predict(engine, [MANY_CHARACTERS], SIMPLE)
        done, _ = await asyncio.wait({admitted}, timeout=0.2)
        assert not done  # its rows wait for the pool
        gate.set()
        assert [row.token for row in (await admitted).rows[0]] == ["paris"]
        assert not errors

    asyncio.run(scenario())


def test_closing_answers_what_was_admitted(small: Model, engine_of: Callable[..., Engine]) -> None:
    """A large request that was admitted before the engine closed is answered, later ones get `Unavailable`."""
    engine = engine_of(small)

    async def scenario() -> None:
        admitted = asyncio.create_task(in_process.predict(engine, [MANY_TOKENS + "paris"], SIMPLE))
        await asyncio.sleep(0)
        engine.close()
        assert [row.token for row in (await admitted).rows[0]] == ["paris"]
        for text in ("anna", MANY_CHARACTERS):
            with pytest.raises(Unavailable):
                await in_process.predict(engine, [text], SIMPLE)

    asyncio.run(scenario())
    with pytest.raises(Unavailable):
        predict_blocking(engine, ["anna"], SIMPLE)


def test_large_request_is_not_refused_for_a_full_queue_of_small_ones(
    small: Model, engine_of: Callable[..., Engine]
) -> None:
    """The bulk lane has a queue of its own, and answers while the other lane is held."""
    model, session = hold(small)
    engine = engine_of(model, max_queue_tokens=4)
    n_windows = 40

    async def scenario() -> None:
        running = asyncio.create_task(in_process.predict(engine, ["anna"], SIMPLE))
        await asyncio.to_thread(session.entered.acquire)
        waiting = asyncio.create_task(in_process.predict(engine, ["anna x"], SIMPLE))
        await asyncio.sleep(0)
        large = asyncio.create_task(in_process.predict(engine, [" ".join(["x"] * 14)] * n_windows, SIMPLE))
        await asyncio.to_thread(session.entered.acquire)
        session.opened.set()
        assert len((await large).rows) == n_windows
        await asyncio.gather(running, waiting)

    asyncio.run(scenario())


def test_batch_of_texts_takes_the_bulk_lane(small: Model, engine_of: Callable[..., Engine]) -> None:
    """Requests with many texts must not hold up those of one, however short each text is."""
    engine = engine_of(small)
    window = Window([1] * 16, 0)
    assert engine.lane_of(Job([window] * 32, needs_logits=False)) is engine.lane_of(Job([window], False))
    assert engine.lane_of(Job([window] * 33, needs_logits=False)) is not engine.lane_of(Job([window], False))
