"""The use case: texts in, rows out, timings attached.

Two ways in, for the event loop (`predict`) and for plain threads (`submit`, then `collect`; or both in
`predict_blocking`), over the same steps: tokenize, queue and run, merge windows, aggregate.

Threads: short texts are tokenized and aggregated on the calling thread, which costs less than a hand-over;
beyond `_INLINE_CHARACTERS` the work goes to a small pool, so that the event loop goes on. Results
cross from the engine threads to an event loop in one call per batch; several loops may use one engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from nerve.aggregation import decode_texts
from nerve.errors import ClientGone, DeadlineExceeded, DeviceFailed, InvalidRequest, Overloaded
from nerve.scheduler import Job, Scheduler
from nerve.types import Prediction, PredictOptions, Row, Timings, TokenizedText

if TYPE_CHECKING:
    from nerve.model import Model
    from nerve.types import TokenScores, Window

T = TypeVar("T")

# Characters of one request up to which it is tokenized on the event loop: about 1.5 ms.
_INLINE_CHARACTERS = 4_000
# Tokens of one request up to which its rows are made and encoded on the event loop: about 1 ms.
INLINE_TOKENS = 1_000
# Seconds of a model call up to which it is run on the event loop: a hand-over there and back takes about as long.
_INLINE_SECONDS = 0.0002
_POOL_THREADS = 2
# Windows' worth of tokens beyond which a request goes to the bulk lane.
_BULK_WINDOWS = 4
# Step of the bulk lane's threads behind the others: about a tenth of a contended core is left to them.
_BULK_NICENESS = 10
# Work that may wait for the pool before a text that is not tokenized yet is refused: its tokens are not
# counted, so the queue cannot refuse it. Work on requests that were admitted is never refused.
_MAX_OFFLOADED = 64


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request whose windows are queued or running; `done` is set when its job was delivered."""

    tokenized: list[TokenizedText]
    options: PredictOptions
    job: Job
    done: threading.Event
    tokenize_seconds: float


class Engine:
    """Answers predict requests with one model.

    On CPU there are two lanes, each with its own queue of `max_queue_tokens` and its own threads. Requests of
    more than a few windows take the bulk lane, whose threads step back: a long document uses every core that
    is idle, and short requests hardly notice it. On a GPU, where one step holds windows of many requests,
    the fair order of one queue is enough.

    on_batch: told of each model call: windows, tokens, padding, seconds, engine threads that it stands for.
    on_failure: told, on some thread, that the device has failed for good; the process must end.
    """

    def __init__(
        self,
        model: Model,
        max_queue_tokens: int,
        on_batch: Callable[[int, int, int, float, int], None] | None = None,
        on_failure: Callable[[], None] | None = None,
        max_queue_seconds: float = math.inf,
    ) -> None:
        self.model = model
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="nerve-pool")
        self._n_offloaded = 0
        self._offloaded_seconds = 1.0  # from hand-over to end, of the work that ended last
        self._on_failure = on_failure
        create_lane = partial(
            Scheduler,
            run=model.session.run,
            deliver=self._deliver,
            policy=model.policy,
            max_queue_tokens=max_queue_tokens,
            n_threads=model.n_threads,
            on_batch=on_batch,
            max_queue_seconds=max_queue_seconds,
        )
        self._lane = create_lane(thread=model.thread)
        self._bulk_lane = create_lane(niceness=_BULK_NICENESS) if model.runs_anywhere else self._lane
        self._bulk_tokens = _BULK_WINDOWS * model.max_length

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the model."""
        bulk = self._bulk_lane.queued_tokens if self._bulk_lane is not self._lane else 0
        return self._lane.queued_tokens + bulk

    @property
    def queued_requests(self) -> int:
        """Requests of which something waits for the model."""
        bulk = self._bulk_lane.queued_requests if self._bulk_lane is not self._lane else 0
        return self._lane.queued_requests + bulk

    @property
    def n_calls(self) -> int:
        """Model calls that have succeeded so far, those of the bulk lane left out."""
        return self._lane.n_calls

    def fail(self, reason: str) -> None:
        """Give the device up: what waits gets `DeviceFailed`, nothing more is admitted, `on_failure` is told."""
        self._tell_failure()
        for lane in {self._lane, self._bulk_lane}:
            lane.fail(reason)

    def close(self) -> None:
        """Finish what was admitted and end all threads. Blocks."""
        self._lane.drain()
        self._bulk_lane.drain()
        self._pool.shutdown()

    async def predict(
        self,
        texts: Sequence[str],
        options: PredictOptions,
        deadline: float = math.inf,
        gone: Callable[[], Awaitable[None]] | None = None,
    ) -> Prediction:
        """Answer one request; call it on the event loop.

        deadline: `time.monotonic()` after which nobody wants the answer.
        gone: waits until the client has left; used only when the request has to wait.
        Raises `PredictError`s.
        """
        started = time.perf_counter()
        n_characters = sum(map(len, texts))
        self._check_room(n_characters, len(texts))
        if n_characters <= _INLINE_CHARACTERS:
            tokenized = self._tokenize(texts, options, beside_others=False)
        else:
            self._check_pool()
            tokenized = await self.offload(lambda: self._tokenize(texts, options), deadline)
        if time.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline passed before the request reached the queue")
        tokenize_seconds = time.perf_counter() - started
        job = _make_job(tokenized, options, deadline)
        await self._wait(job, deadline, gone)
        scores = job.scores()
        started = time.perf_counter()
        if job.n_tokens <= INLINE_TOKENS:
            rows = self._rows(tokenized, scores, options)
        else:
            rows = await self.offload(lambda: self._rows(tokenized, scores, options), deadline)
        return _prediction(tokenized, rows, job, tokenize_seconds, time.perf_counter() - started)

    def check_large(self, n_bytes: int) -> None:
        """Raise `Overloaded` when a body of `n_bytes`, not decoded yet, would be refused for certain."""
        self._check_room(n_bytes, 1)
        self._check_pool()

    async def compute(
        self,
        windows: Sequence[Window],
        needs_logits: bool,
        deadline: float = math.inf,
        gone: Callable[[], Awaitable[None]] | None = None,
    ) -> Job:
        """Queue and run windows that were tokenized elsewhere; as `predict` in all else."""
        job = Job(windows, needs_logits, deadline)
        await self._wait(job, deadline, gone)
        return job

    def predict_blocking(self, texts: Sequence[str], options: PredictOptions) -> Prediction:
        """Answer one request on the calling thread; several threads may call this."""
        return self.collect(self.submit(texts, options))

    def submit(self, texts: Sequence[str], options: PredictOptions) -> Submitted:
        """Tokenize and queue one request, and return while the engine threads compute it.

        Any thread may call this; the answer is had by `collect`. Raises `PredictError`s.
        """
        started = time.perf_counter()
        tokenized = self._tokenize(texts, options)
        tokenize_seconds = time.perf_counter() - started
        job = _make_job(tokenized, options, math.inf)
        job.waiter = done = threading.Event()
        self._lane_of(job).submit(job)
        return Submitted(tokenized, options, job, done, tokenize_seconds)

    def collect(self, submitted: Submitted) -> Prediction:
        """Wait for a submitted request and make its rows, on the calling thread."""
        submitted.done.wait()
        started = time.perf_counter()
        rows = self._rows(submitted.tokenized, submitted.job.scores(), submitted.options)
        aggregate_seconds = time.perf_counter() - started
        return _prediction(
            submitted.tokenized, rows, submitted.job, submitted.tokenize_seconds, aggregate_seconds
        )

    def cancel(self, submitted: Submitted) -> None:
        """Drop what is still queued of a submitted request that nobody will collect."""
        self._lane_of(submitted.job).cancel(submitted.job)

    async def offload(self, work: Callable[[], T], deadline: float = math.inf) -> T:
        """Run `work` on the pool, or here once the engine is closed: what was admitted is answered.

        At the deadline (`time.monotonic()`) work that has not begun is dropped, and what runs ends unseen.
        Raises `DeadlineExceeded`.
        """
        self._n_offloaded += 1
        started = time.monotonic()
        try:
            try:
                future = asyncio.get_running_loop().run_in_executor(self._pool, work)
            except RuntimeError:  # the pool is shut down
                return work()
            async with asyncio.timeout(None if deadline == math.inf else deadline - started):
                result = await future
            self._offloaded_seconds = time.monotonic() - started
            return result
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer was ready") from None
        finally:
            self._n_offloaded -= 1

    def _check_room(self, n_characters: int, n_texts: int) -> None:
        """Raise `Overloaded` when the lane that a request will take is full; spares tokenizing for a refusal.

        Characters and special tokens are about the most tokens that there can be; a large request may turn
        out to take either lane.
        """
        possible = [self._lane] if n_characters <= self._bulk_tokens else [self._lane, self._bulk_lane]
        if all(lane.is_full(n_characters + 2 * n_texts) for lane in possible):
            raise possible[-1].refuse()

    def _check_pool(self) -> None:
        if self._n_offloaded >= _MAX_OFFLOADED:
            raise Overloaded(
                "too many large requests wait; send the request again later",
                self._offloaded_seconds,
                reason="pool",
            )

    def _lane_of(self, job: Job) -> Scheduler:
        return self._bulk_lane if job.n_tokens > self._bulk_tokens else self._lane

    def _tokenize(
        self, texts: Sequence[str], options: PredictOptions, beside_others: bool = True
    ) -> list[TokenizedText]:
        return self.model.tokenizer.tokenize(
            texts, options.truncate, options.truncation_direction, beside_others
        )

    def _rows(
        self, tokenized: list[TokenizedText], scores: list[TokenScores], options: PredictOptions
    ) -> list[list[Row]]:
        return decode_texts(tokenized, scores, self.model.labels, self.model.vocabulary, options)

    async def _wait(self, job: Job, deadline: float, gone: Callable[[], Awaitable[None]] | None) -> None:
        """Submit a job and wait until it is delivered, its deadline passes, or its client leaves."""
        lane = self._lane_of(job)
        if self.model.runs_anywhere and len(job.windows) == 1 and lane.run_here(job, _INLINE_SECONDS):
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        runs_at_once = lane.is_idle and len(job.windows) == 1
        job.waiter = future
        timer: asyncio.TimerHandle | None = None
        watcher: asyncio.Future[None] | None = None
        lane.submit(job)  # a job that is refused here must not be cancelled below
        try:
            if deadline != math.inf:
                timer = loop.call_later(
                    deadline - time.monotonic(),
                    _fail,
                    future,
                    DeadlineExceeded("the deadline passed before the answer was ready"),
                )
            if gone is not None and not runs_at_once:
                watcher = asyncio.ensure_future(gone())
                watcher.add_done_callback(lambda _: _fail(future, ClientGone("the client left")))
            await future
        except BaseException:
            lane.cancel(job)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if watcher is not None:
                watcher.cancel()

    def _deliver(self, jobs: list[Job]) -> None:
        """Wake the waiters of finished jobs; called by engine threads."""
        if any(isinstance(job.error, DeviceFailed) for job in jobs):
            self._tell_failure()
        futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for job in jobs:
            if isinstance(job.waiter, threading.Event):
                job.waiter.set()
            elif job.waiter is not None:
                futures.setdefault(job.waiter.get_loop(), []).append(job.waiter)
        for loop, waiting in futures.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits on it any more
                loop.call_soon_threadsafe(_resolve, waiting)

    def _tell_failure(self) -> None:
        """Call `on_failure`, once."""
        if self._on_failure is not None:
            told, self._on_failure = self._on_failure, None
            told()


def _make_job(tokenized: list[TokenizedText], options: PredictOptions, deadline: float) -> Job:
    windows = [window for text in tokenized for window in text.windows]
    if not windows:
        raise InvalidRequest("inputs: no text; send at least one")
    return Job(windows, options.needs_logits, deadline)


def _prediction(
    tokenized: list[TokenizedText],
    rows: list[list[Row]],
    job: Job,
    tokenize_seconds: float,
    aggregate_seconds: float,
) -> Prediction:
    return Prediction(
        rows=rows,
        n_texts=len(tokenized),
        truncated=[index for index, text in enumerate(tokenized) if text.truncated],
        n_tokens=job.n_tokens,
        timings=Timings(tokenize_seconds, job.queue_seconds, job.inference_seconds, aggregate_seconds),
    )


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
