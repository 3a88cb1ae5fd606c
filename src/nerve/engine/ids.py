"""Answers requests that carry token ids in place of texts: the logits of each, for whoever groups them himself.

A `Call` like any other, from the queue on. Nothing is cut into windows: a sequence is what its client made it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nerve.engine.engine import Call, Cancel, make_prediction
from nerve.errors import InvalidRequest
from nerve.types import Logits, PredictOptions, RawScoresAs, TokenizedText, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.engine.engine import Engine
    from nerve.models.model import Model
    from nerve.scheduling.batching import Job
    from nerve.types import FloatArray, TokenScores

_OPTIONS = PredictOptions(raw_scores=True, raw_scores_as=RawScoresAs.LOGITS)


def start_ids(
    engine: Engine,
    ids: Sequence[list[int]],
    deadline: float,
    done: Callable[[Logits | Exception], None],
    cancel: Cancel | None = None,
) -> Call:
    """Begin to answer one request; the arguments are those of `Engine.start`, and `done` gets `Logits`."""
    call = IdCall(engine, (), _OPTIONS, deadline, done, cancel or Cancel())
    call.begin_with(ids)
    return call


class IdCall(Call):
    """One request with token ids on its way through the engine."""

    def begin_with(self, ids: Sequence[list[int]]) -> None:
        """Check the ids and queue them, here: the checks are a pass over what was read just before."""
        engine = self._engine
        try:
            engine.check_room(sum(map(len, ids)), self._deadline)
            self._queue([_as_tokenized(engine.model, index, each) for index, each in enumerate(ids)])
        except Exception as error:  # noqa: BLE001 - whoever waits must get it
            self._end(error)

    def _make(self, scores: list[TokenScores]) -> list[FloatArray]:
        return [each.logits for each in scores if each.logits is not None]

    def _finish(self, job: Job, started: float, made: list[FloatArray]) -> None:
        seconds = time.perf_counter() - started
        summary = make_prediction(self._tokenized, [], job, self._tokenize_seconds, seconds)
        self._end(Logits(summary.n_texts, [], summary.n_tokens, summary.timings, made))


def _as_tokenized(model: Model, index: int, ids: list[int]) -> TokenizedText:
    """Put a sequence where a text would be. Raises `InvalidRequest`, which says which sequence it is."""
    if not ids:
        raise InvalidRequest(f"input_ids[{index}]: no token; a row of attention_mask must have a 1")
    if len(ids) > model.lengths.window_tokens:
        raise InvalidRequest(
            f"input_ids[{index}]: {len(ids)} tokens, above the {model.lengths.window_tokens} of a window; send parts"
        )
    if min(ids) < 0 or (model.n_words is not None and max(ids) >= model.n_words):
        raise InvalidRequest(
            f"input_ids[{index}]: an id is not within the model's table of {model.n_words} tokens; use its tokenizer"
        )
    window = Window(ids, 0)
    return TokenizedText("", ids, [(0, 0)] * len(ids), 0, 0, (window,), truncated=False)
