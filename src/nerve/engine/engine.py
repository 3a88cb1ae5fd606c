"""The use case: texts in, rows out, timings attached.

A request is a `Call`: tokenize, queue and run, merge windows, aggregate. Each step begins where the one before
it ended, on the thread that ended it, and the outcome goes to a callback. How Python programs wait for it is in
`in_process`.

Threads: short texts are tokenized on the calling thread, and rows of short answers are made on the thread
that ran the model, because a hand-over costs more; what is larger goes to a small pool. On a GPU the engine
thread does nothing but steps: a thread of its own makes the rows, woken once per step.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from nerve.engine.lanes import NICENESS, open_lanes
from nerve.engine.pool import Pool
from nerve.errors import ClientGone, DeadlineExceeded, DeviceFailed, InvalidRequest, Overloaded, stack_of
from nerve.models.decoding import why_no_viterbi
from nerve.scheduling.batching import Job
from nerve.scheduling.threads import EngineThread
from nerve.text.aggregation import check_scores, decode_texts, needs_logits
from nerve.text.filters import check_asked
from nerve.text.tokenizer import too_many_tokens
from nerve.types import AggregationStrategy, MostInRequest, Prediction, PredictOptions, Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.channel.front import FrontLane
    from nerve.models.model import Model
    from nerve.scheduling.lane import Lane
    from nerve.types import Row, Summary, TokenizedText, TokenScores

log = logging.getLogger(__name__)

Outcome = Prediction | Exception

# Characters of one request up to which it is tokenized on the calling thread: about 1.5 ms.
_INLINE_CHARACTERS = 4_000
# Tokens of one request up to which its rows are made and encoded where its scores arrive: about 1 ms.
INLINE_TOKENS = 1_000
# Tokens beyond which a request goes to the bulk lane: those of one full window of most models.
_BULK_TOKENS = 512


class Engine:
    """Answers predict requests with one model; any thread may call its methods.

    Where the model shares its cores with the callers (CPU) there are two lanes, each with its own queue of
    `max_queue_tokens` and its own threads. Requests of many tokens take the bulk lane, whose threads have a lower
    priority: a long document, or a batch of texts, uses every core that is idle, and short requests hardly notice it.
    On a GPU, where one step holds windows of many requests, the fair order of one queue is enough.

    most: in one request. niceness: of the threads that compute, on the CPU.
    on_batch: called after each model call with its windows, tokens, padding, seconds, and threads that it stands for.
    on_failure: called, on some thread, when the device has failed for good; the process must end.
    on_state: told when the process that runs the model, where that is another one, has ended or is there again.
    """

    def __init__(
        self,
        model: Model,
        max_queue_tokens: int,
        on_batch: Callable[[int, int, int, float, int], None] | None = None,
        on_failure: Callable[[], None] | None = None,
        max_queue_seconds: float = math.inf,
        most: MostInRequest | None = None,
        niceness: int = NICENESS,
        on_state: Callable[[bool], None] = lambda is_there: None,
    ) -> None:
        self.model = model
        self.most = most or MostInRequest()
        self.pool = Pool()
        self._on_failure = on_failure
        # The thread on which scores come from another process is such a thread itself.
        is_apart = not model.shares_cores and model.remote is None
        self._answering = EngineThread("nerve-answers") if is_apart else None
        self._lane, self._bulk_lane = open_lanes(
            model, max_queue_tokens, max_queue_seconds, self._deliver, on_batch, niceness, on_state
        )
        self._lanes = list(dict.fromkeys((self._lane, self._bulk_lane)))
        self.refused: tuple[Lane | FrontLane, int, int] | None = None  # the last one: by whom, bytes, tokens

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the model."""
        return sum(lane.queued_tokens for lane in self._lanes)

    @property
    def queued_requests(self) -> int:
        """Requests of which something waits for the model."""
        return sum(lane.queued_requests for lane in self._lanes)

    @property
    def n_calls(self) -> int:
        """Model calls that have succeeded so far, those of the bulk lane left out."""
        return self._lane.n_calls

    def fail(self, reason: str) -> None:
        """Give the device up: what waits gets `DeviceFailed`, nothing more is admitted, `on_failure` is called."""
        self._report_failure()
        for lane in self._lanes:
            lane.fail(reason)

    def close(self) -> None:
        """Finish what was admitted and end all threads. Blocks."""
        for lane in self._lanes:
            lane.drain()
        if self._answering is not None:
            self._answering.close()
        self.pool.close()
        self.model.backend.close()

    def start(
        self,
        texts: Sequence[str],
        options: PredictOptions,
        deadline: float,
        done: Callable[[Outcome], None],
        cancel: Cancel | None = None,
        on_pool: bool = False,
        n_bytes: int = 0,
    ) -> Call:
        """Begin to answer one request.

        deadline: `time.monotonic()` after which nobody wants the answer; steps that begin later are not taken.
            Ending the request at that moment is the caller's task.
        done: called once with the prediction, or with the error (a `PredictError`, or a defect), by whichever
            thread has it, which may be this one before `start` returns. It must not raise, nor take long.
        cancel: drops the request; None for one of its own, see `Call.cancel`.
        on_pool: this is a thread of the pool, which has taken the request: a large one need not wait for it again.
        n_bytes: of its body, see `check_room`; 0 when it has none.
        """
        call = Call(self, texts, options, deadline, done, cancel or Cancel(), n_bytes)
        call.begin(on_pool=on_pool)
        return call

    def cancel(self, job: Job) -> None:
        """Drop what is still queued of a job whose results nobody wants; its waiter is not called any more."""
        job.waiter = None  # what was computed until now is no whole answer; and it holds what holds the job
        self.lane_of(job).cancel(job)

    def check_room(self, n_characters: int, deadline: float) -> None:
        """Raise `Overloaded` when a request would be refused; spares all work on it.

        n_characters: at least as many as it will have tokens. A large request may turn out to take either lane. One
        of as many bytes as that which a lane refused last is taken to have as many tokens, too.
        """
        if self.refused is not None and n_characters >= self.refused[1]:
            lane, _, n_tokens = self.refused
            if (reason := lane.why_full(deadline, n_tokens)) is not None:
                raise reason
        possible = self._lanes[:1] if n_characters <= _BULK_TOKENS else self._lanes
        reasons = [lane.why_full(deadline) for lane in possible]
        if all(reasons):
            try:
                raise next(filter(None, reasons))
            finally:
                reasons.clear()  # a traceback holds this frame, which would hold the error

    def lane_of(self, job: Job) -> Lane | FrontLane:
        """Return the lane of a job."""
        return self._bulk_lane if job.n_tokens > _BULK_TOKENS else self._lane

    def tokenize(
        self,
        texts: Sequence[str],
        options: PredictOptions,
        beside_others: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> list[TokenizedText]:
        """Tokenize the texts of a request; see `TextTokenizer.tokenize`."""
        cut = options.truncate, options.truncation_direction
        return self.model.tokenizer.tokenize(texts, *cut, beside_others, self.most.tokens, check)

    def make_rows(
        self, tokenized: list[TokenizedText], scores: list[TokenScores], options: PredictOptions
    ) -> list[list[Row]]:
        """Merge the windows of each text and make its rows."""
        model = self.model
        return decode_texts(tokenized, scores, model.labels, model.vocabulary, options, model.decoder)

    def complete(self, options: PredictOptions) -> PredictOptions:
        """Fill in and check what depends on the model. Raises `InvalidRequest`."""
        if options.aggregation_strategy is None:
            options = structs.replace(options, aggregation_strategy=self.model.entity_strategy)
        if options.aggregation_strategy is AggregationStrategy.VITERBI and self.model.decoder is None:
            raise InvalidRequest(f"aggregation_strategy: {why_no_viterbi()}")
        if options.filter is not None:
            check_asked(options.filter, self.model.labels.entity_labels)
        return options

    def _deliver(self, jobs: list[Job]) -> None:
        """Go on with finished jobs; called once per batch, by the thread that ran it."""
        waiters = []
        for job in jobs:
            if isinstance(job.error, DeviceFailed):
                self._report_failure()
            waiter = job.waiter  # `cancel` may take it away at any moment
            if waiter is not None:
                waiters.append(waiter)
        if not waiters:
            return
        if self._answering is not None:
            self._answering.post(lambda: _call_each(waiters))
        else:
            _call_each(waiters)

    def _report_failure(self) -> None:
        """Call `on_failure`, once."""
        if self._on_failure is not None:
            report, self._on_failure = self._on_failure, None
            report()


class Cancel:
    """Drops one request, whatever step it is at: decoding, tokenizing, in the queue, making its answer.

    `is_set`: nobody waits for the request any more. Threads: any may call anything. `begin` writes first and reads
    then, `set` reads last: whatever their order is, one of the two sees the other, so that no step is missed.
    """

    __slots__ = ("_drop", "is_set")

    def __init__(self) -> None:
        self._drop: Callable[[], object] | None = None
        self.is_set = False

    def begin(self, drop: Callable[[], object]) -> bool:
        """Note how the next step is dropped, in place of the one before; False when it must not begin any more."""
        self._drop = drop
        if self.is_set:
            self._drop = None
            return False
        return True

    def set(self) -> None:
        """Drop the request, for good."""
        self.is_set = True
        drop, self._drop = self._drop, None
        if drop is not None:
            drop()

    def end(self) -> None:
        """Let go of the last step: it holds what holds this."""
        self._drop = None


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way through the engine."""

    _engine: Engine
    _texts: Sequence[str]
    _options: PredictOptions
    _deadline: float
    _done: Callable[[Any], None]
    _cancel: Cancel
    _n_bytes: int = 0
    _job: Job | None = None
    _tokenized: list[TokenizedText] = field(default_factory=list)
    _tokenize_seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def begin(self, *, on_pool: bool) -> None:
        """Tokenize, here or on the pool; on_pool: they are the same."""
        engine = self._engine
        try:
            self._options = engine.complete(self._options)
            n_characters = sum(map(len, self._texts))
            engine.check_room(n_characters, self._deadline)
            if n_characters <= _INLINE_CHARACTERS:
                self._queue(engine.tokenize(self._texts, self._options, beside_others=False))
            elif on_pool:
                self._queue(engine.tokenize(self._texts, self._options, check=self._check))
            else:
                engine.pool.check()
                work = partial(engine.tokenize, self._texts, self._options, check=self._check)
                engine.pool.run(work, self._queue, self._end, self._cancel.begin)
        except Exception as error:  # noqa: BLE001 - whoever waits must get it
            self._end(error)

    def cancel(self) -> None:
        """Drop what has not run; the result of what runs may still be given to `done`."""
        self._cancel.set()

    def _check(self) -> None:
        if self._cancel.is_set:
            raise ClientGone("nobody waits for it any more")

    def _drop_job(self) -> None:
        job = self._job  # another thread may take it
        if job is not None:
            self._engine.cancel(job)

    def _queue(self, tokenized: list[TokenizedText]) -> None:
        try:
            if time.monotonic() >= self._deadline:
                raise DeadlineExceeded("the deadline passed before the queue; send it again with more time")
            job = make_job(tokenized, self._options, self._deadline)
            if job.n_tokens > self._engine.most.tokens:
                raise too_many_tokens(self._engine.most.tokens)
            check_scores(job.n_tokens, self._options, self._engine.model.labels, self._engine.most.scores)
            self._tokenized = tokenized
            self._tokenize_seconds = time.perf_counter() - self._started
            job.waiter = self._answer
            self._job = job
            if not self._cancel.begin(self._drop_job):
                self._job = job.waiter = None
                return
            self._engine.lane_of(job).submit(job)
            if self._cancel.is_set:  # since; what is not in the queue yet cannot be taken out
                self._drop_job()
        except Exception as error:  # noqa: BLE001 - whoever waits must get it
            refused, self._job = self._job, None  # it holds this call
            self._end(error, refused)

    def _answer(self) -> None:
        """Make the rows of a delivered job, here or on the pool."""
        job, self._job = self._job, None
        if job is None or self._cancel.is_set:
            return
        job.waiter = None
        if job.error is not None:  # not raised: its traceback would hold the job, which holds it
            self._end(job.error, job)
            return
        engine = self._engine
        try:
            scores = job.scores()
            started = time.perf_counter()
            if job.n_tokens > INLINE_TOKENS:
                work = partial(self._make, scores)
                engine.pool.run(work, partial(self._finish, job, started), self._end, self._cancel.begin)
                return
            made = self._make(scores)
        except Exception as error:  # noqa: BLE001 - whoever waits must get it
            self._end(error)
            return
        self._finish(job, started, made)

    def _make(self, scores: list[TokenScores]) -> list[Any]:
        return self._engine.make_rows(self._tokenized, scores, self._options)

    def _finish(self, job: Job, started: float, made: list[Any]) -> None:
        seconds = time.perf_counter() - started
        self._end(make_prediction(self._tokenized, made, job, self._tokenize_seconds, seconds))

    def _end(self, outcome: Summary | Exception, job: Job | None = None) -> None:
        if isinstance(outcome, Overloaded) and job is not None and self._n_bytes:
            self._engine.refused = self._engine.lane_of(job), self._n_bytes, job.n_tokens
        self._cancel.end()
        done, self._done = self._done, _nobody  # lets go of whoever waited, who holds this call
        done(outcome)


def make_job(tokenized: list[TokenizedText], options: PredictOptions, deadline: float) -> Job:
    """Put all windows of a request into a job; raises `InvalidRequest` when there are none."""
    windows = [window for text in tokenized for window in text.windows]
    if not windows:
        raise InvalidRequest("inputs: no text; send at least one")
    return Job(windows, needs_logits(options), deadline)


def make_prediction(
    tokenized: list[TokenizedText],
    rows: list[list[Row]],
    job: Job,
    tokenize_seconds: float,
    aggregate_seconds: float,
) -> Prediction:
    """Put the rows of a request and what is reported of it together."""
    return Prediction(
        rows=rows,
        n_texts=len(tokenized),
        truncated=[index for index, text in enumerate(tokenized) if text.truncated],
        n_tokens=job.n_tokens,
        timings=Timings(tokenize_seconds, job.queue_seconds, job.inference_seconds, aggregate_seconds),
    )


def _call_each(waiters: list[Callable[[], None]]) -> None:
    """Call every waiter; a defect of one must not cost the others their answer."""
    for waiter in waiters:
        try:
            waiter()
        except Exception as error:  # noqa: BLE001 - see above
            log.error("a defect while an answer was made: %s", stack_of(error))


def _nobody(outcome: Summary | Exception) -> None:
    """Take the outcome of a call that has ended already."""
