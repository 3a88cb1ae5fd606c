"""How Python programs wait for an engine: plain threads `submit` and `collect`, coroutines `predict`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve.engine.engine import make_job, make_prediction
from nerve.errors import DeadlineExceeded
from nerve.text.long_rows import LongRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nerve.engine.engine import Engine, Outcome
    from nerve.scheduling.batching import Job
    from nerve.types import Prediction, PredictOptions, Row, Section, TokenizedText


_SECONDS_BETWEEN_CHECKS = 0.5


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request whose windows are queued or running; `done` is set when its job was delivered."""

    tokenized: list[TokenizedText]
    options: PredictOptions
    job: Job
    done: threading.Event
    tokenize_seconds: float


def submit(engine: Engine, texts: Sequence[str], options: PredictOptions) -> Submitted:
    """Tokenize and queue one request, and return while the engine threads compute it.

    Any thread may call this. The answer is had by `collect`. Raises `PredictError`s.
    """
    started = time.perf_counter()
    options = engine.complete(options)
    tokenized = engine.tokenize(texts, options)
    tokenize_seconds = time.perf_counter() - started
    job, done = _queue(engine, tokenized, options)
    return Submitted(tokenized, options, job, done, tokenize_seconds)


@dataclass(frozen=True, slots=True)
class SubmittedSection:
    """A section of a long text, as `Submitted`. rows: of the text, to which `collect_section` adds."""

    section: Section
    rows: LongRows
    job: Job
    done: threading.Event


def submit_long(
    engine: Engine, index: int, text: str, options: PredictOptions, check: Callable[[], None]
) -> Iterator[SubmittedSection]:
    """Tokenize a text of any length and queue it, section by section, as they are asked for.

    options: complete. index: of the text, for messages. check: see `TextTokenizer.sections`.
    Raises as `submit`, but for no number of tokens.
    """
    model = engine.model
    rows = LongRows(text, model.labels, model.vocabulary, options, model.decoder)
    for section in model.tokenizer.sections(index, text, check):
        job, done = _queue(engine, [section.tokens], options)
        yield SubmittedSection(section, rows, job, done)


def collect_section(
    engine: Engine, submitted: SubmittedSection, check: Callable[[], None]
) -> list[Row] | None:
    """Wait for the next section of a text, on the calling thread; return the rows of the text after the last one.

    check: called now and then while it waits. Raises `PredictError`s, and what `check` raises.
    """
    while not submitted.done.wait(_SECONDS_BETWEEN_CHECKS):
        check()
    tokenizer = engine.model.tokenizer
    submitted.rows.add(submitted.section, submitted.job.scores(), tokenizer.n_prefix, tokenizer.n_suffix)
    return submitted.rows.rows if submitted.section.is_last else None


def _queue(
    engine: Engine, tokenized: list[TokenizedText], options: PredictOptions
) -> tuple[Job, threading.Event]:
    job = make_job(tokenized, options, math.inf)
    done = threading.Event()
    job.waiter = done.set
    engine.lane_of(job).submit(job)
    return job, done


def collect(engine: Engine, submitted: Submitted) -> Prediction:
    """Wait for a submitted request and make its rows, on the calling thread. Raises `PredictError`s."""
    submitted.done.wait()
    started = time.perf_counter()
    rows = engine.make_rows(submitted.tokenized, submitted.job.scores(), submitted.options)
    seconds = time.perf_counter() - started
    return make_prediction(submitted.tokenized, rows, submitted.job, submitted.tokenize_seconds, seconds)


async def predict(
    engine: Engine, texts: Sequence[str], options: PredictOptions, deadline: float = math.inf
) -> Prediction:
    """Answer one request, for a coroutine; several event loops may use one engine.

    deadline: `time.monotonic()` at which the request ends. Raises `PredictError`s.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Prediction] = loop.create_future()

    def done(outcome: Outcome) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits on it any more
            loop.call_soon_threadsafe(_resolve, future, outcome)

    call = engine.start(texts, options, deadline, done)
    try:
        async with asyncio.timeout(None if deadline == math.inf else deadline - time.monotonic()):
            return await future
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the answer was ready") from None
    finally:
        call.cancel()


def _resolve(future: asyncio.Future[Prediction], outcome: Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
