"""The use case: texts in, rows out, timings attached.

Two ways in, for the event loop (`predict`) and for plain threads (`predict_blocking`), over the same steps:
tokenize, queue and run, merge windows, aggregate.

Threads: short texts are tokenized and aggregated on the calling thread, which costs less than a hand-over;
beyond `_INLINE_CHARACTERS` the work goes to a small pool, so that the event loop never stalls. Results
cross from the engine threads to the event loop in one call per batch.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from nerve.aggregation import decode
from nerve.errors import ClientGone, DeadlineExceeded, InvalidRequest, Overloaded
from nerve.scheduler import Job, Scheduler
from nerve.types import Prediction, PredictOptions, Row, Timings, TokenizedText
from nerve.windows import merge_scores

if TYPE_CHECKING:
    from nerve.model import Model
    from nerve.types import TokenScores

T = TypeVar("T")

# Characters of one request up to which it is tokenized on the event loop: about 1.5 ms.
_INLINE_CHARACTERS = 4_000
# Tokens of one request up to which its rows are made and encoded on the event loop: about 1 ms.
INLINE_TOKENS = 1_000
_POOL_THREADS = 2
# Work that may wait for the pool before a text that is not tokenized yet is refused: its tokens are not
# counted, so the queue cannot refuse it. Work on requests that were admitted is never refused.
_MAX_OFFLOADED = 64


class Engine:
    """Answers predict requests with one model.

    on_batch: told of each model call: windows, padded tokens, seconds.
    """

    def __init__(
        self, model: Model, max_queue_tokens: int, on_batch: Callable[[int, int, float], None] | None = None
    ) -> None:
        self.model = model
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="nerve-pool")
        self._n_offloaded = 0
        self._scheduler = Scheduler(
            run=model.session.run,
            deliver=self._deliver,
            policy=model.policy,
            max_queue_tokens=max_queue_tokens,
            n_threads=model.n_threads,
            on_batch=on_batch,
        )

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the model."""
        return self._scheduler.queued_tokens

    def close(self) -> None:
        """Finish what was admitted and end all threads. Blocks."""
        self._scheduler.drain()
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
        self._scheduler.check_room()
        started = time.perf_counter()
        n_characters = sum(map(len, texts))
        if n_characters <= _INLINE_CHARACTERS:
            tokenized = self._tokenize(texts, options)
        else:
            if self._n_offloaded >= _MAX_OFFLOADED:
                raise Overloaded("too many large requests wait; send the request again later", 1.0)
            tokenized = await self.offload(lambda: self._tokenize(texts, options))
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
            rows = await self.offload(lambda: self._rows(tokenized, scores, options))
        return _prediction(tokenized, rows, job, tokenize_seconds, time.perf_counter() - started)

    def predict_blocking(self, texts: Sequence[str], options: PredictOptions) -> Prediction:
        """Answer one request on the calling thread; several threads may call this."""
        started = time.perf_counter()
        tokenized = self._tokenize(texts, options)
        tokenize_seconds = time.perf_counter() - started
        job = _make_job(tokenized, options, math.inf)
        job.waiter = done = threading.Event()
        self._scheduler.submit(job)
        done.wait()
        started = time.perf_counter()
        rows = self._rows(tokenized, job.scores(), options)
        return _prediction(tokenized, rows, job, tokenize_seconds, time.perf_counter() - started)

    async def offload(self, work: Callable[[], T]) -> T:
        """Run `work` on the pool."""
        self._n_offloaded += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._n_offloaded -= 1

    def _tokenize(self, texts: Sequence[str], options: PredictOptions) -> list[TokenizedText]:
        return self.model.tokenizer.tokenize(texts, options.truncate, options.truncation_direction)

    def _rows(
        self, tokenized: list[TokenizedText], scores: list[TokenScores], options: PredictOptions
    ) -> list[list[Row]]:
        """Merge the windows of each text and make its rows."""
        rows = []
        position = 0
        for text in tokenized:
            parts = scores[position : position + len(text.windows)]
            position += len(text.windows)
            ranges = [(w.start, w.start + len(w.ids) - text.n_prefix - text.n_suffix) for w in text.windows]
            merged = merge_scores(parts, ranges, text.n_prefix, text.n_suffix)
            rows.append(decode(text, merged, self.model.labels, self.model.vocabulary, options))
        return rows

    async def _wait(self, job: Job, deadline: float, gone: Callable[[], Awaitable[None]] | None) -> None:
        """Submit a job and wait until it is delivered, its deadline passes, or its client leaves."""
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        runs_at_once = self._scheduler.is_idle and len(job.windows) == 1
        job.waiter = future
        timer: asyncio.TimerHandle | None = None
        watcher: asyncio.Future[None] | None = None
        self._scheduler.submit(job)  # a job that is refused here must not be cancelled below
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
            self._scheduler.cancel(job)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if watcher is not None:
                watcher.cancel()

    def _deliver(self, jobs: list[Job]) -> None:
        """Wake the waiters of finished jobs; called by engine threads."""
        futures = []
        for job in jobs:
            if isinstance(job.waiter, threading.Event):
                job.waiter.set()
            elif job.waiter is not None:
                futures.append(job.waiter)
        if futures and self._loop is not None:
            self._loop.call_soon_threadsafe(_resolve, futures)


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
