"""Proves a model that is loaded, before anything is served with it: it runs, and how its windows may share a call."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from nerve.config import Precision
from nerve.errors import DeviceFailed, InvalidRequest, ModelError
from nerve.models.samples import sample_texts
from nerve.models.tokens import limit_ids
from nerve.types import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nerve.models.model import Model
    from nerve.types import FloatArray, TokenScores

log = logging.getLogger(__name__)

# The first of the long windows, and the most seconds that the next one may be expected to take, of twice the length.
_FIRST_TOKENS = 512
_GROWTH = 4.0
_MOST_SECONDS = 5.0
# Texts that the dependence on a batch is looked for with, evenly spread over those of `nerve verify`.
_N_SAMPLES = 4
_MOST_SAMPLE_TOKENS = 32
# Largest difference of probabilities that rounding makes, alone and in a batch.
_ROUNDING = {Precision.FLOAT32: 1e-3}
_COARSE_ROUNDING = 0.02


def prove(model: Model, *, is_ready: bool) -> Model:
    """Run a loaded model, and return it with what was found out; raises `ModelError` when it is not to be served.

    is_ready: its graph was made by others, so that more has to be found out.
    """
    warm_up(model)
    if not is_ready:
        return model
    if model.n_words is None:
        model = dataclasses.replace(model, n_words=find_words(model))
        limit_ids(model.tokenizer, model.vocabulary, model.n_words)
    return find_batching(model)


def warm_up(model: Model) -> None:
    """Run a short window, long ones and a padded batch; check that finite scores of the right shape come back."""
    short = _short_row(model)
    _try(model, [short])
    if model.policy.max_batch_size > 1:
        _try(model, [short, short[: (len(short) + 1) // 2]])
    for n_tokens in _growing_lengths(model.window_tokens):
        seconds = _try(model, [(short * (1 + n_tokens // len(short)))[:n_tokens]])
        if n_tokens < model.window_tokens and _GROWTH * seconds > _MOST_SECONDS:
            log.info("windows of more than %d tokens are not tried at start: they take long", n_tokens)
            return


def _growing_lengths(longest: int) -> Iterator[int]:
    """Yield lengths up to the longest, each twice the one before."""
    n_tokens = _FIRST_TOKENS
    while n_tokens < longest:
        yield n_tokens
        n_tokens *= 2
    yield longest


def _try(model: Model, rows: list[list[int]]) -> float:
    """Run a batch without and with logits; returns the seconds that it took. Raises `ModelError`."""
    windows = [Window(row, 0) for row in rows]
    started = time.monotonic()
    try:
        with np.errstate(invalid="ignore"):  # values that are not finite are refused below
            model.backend.run(windows, needs_logits=False, spread=True)
            results = model.backend.run(windows, needs_logits=True)
    except Exception as error:  # onnxruntime raises its own classes, all plain `Exception`s
        lengths = " and ".join(str(len(row)) for row in rows)
        raise ModelError(
            f"the model fails on a batch of {lengths} tokens: {' '.join(str(error).split())}; export the "
            "checkpoint again with `nerve export`"
        ) from error
    seconds = time.monotonic() - started
    for row, scores in zip(rows, results, strict=True):
        _check_scores(model, scores, len(row))
    return seconds


def _check_scores(model: Model, scores: TokenScores, n_tokens: int) -> None:
    n_labels = len(model.labels.names)
    if scores.logits is None or scores.logits.shape != (n_tokens, n_labels):
        shape = None if scores.logits is None else scores.logits.shape
        raise ModelError(
            f"for {n_tokens} tokens and {n_labels} labels in id2label the graph gives an output of "
            f"shape {shape}; it is not the graph of this token classifier: fetch the checkpoint again"
        )
    if not np.isfinite(scores.logits).all():
        is_exact = model.precision is Precision.FLOAT32
        remedy = "its weights are damaged: fetch the checkpoint again" if is_exact else "try float32"
        raise ModelError(f"the model gives values that are not finite in {model.precision.value}; {remedy}")


def _short_row(model: Model) -> list[int]:
    ids = [token for token in model.tokenizer.some_ids if token not in model.tokenizer.foreign_tokens]
    return ids[: model.window_tokens] or [0]


def find_words(model: Model) -> int | None:
    """Return the number of tokens that the model has rows for, where it fails on others; None where it knows all.

    For a graph in which the table of tokens was not found: tokens are tried, a dozen in all.
    """
    row = _short_row(model)
    known, unknown = max(row), len(model.vocabulary.token_lengths) - 1
    if known >= unknown or _runs_on(model, row, unknown):
        return None
    while unknown - known > 1:
        middle = (known + unknown) // 2
        if _runs_on(model, row, middle):
            known = middle
        else:
            unknown = middle
    return unknown


def _runs_on(model: Model, row: list[int], token: int) -> bool:
    """Tell whether the model runs on a window with this token."""
    try:
        model.backend.run([Window([token, *row[1:]], 0)], needs_logits=False)
    except DeviceFailed:
        raise
    except Exception:  # noqa: BLE001 - onnxruntime raises its own classes, all plain `Exception`s
        return False
    return True


def find_batching(model: Model) -> Model:
    """Return the model with a batch policy under which a text is answered alike alone and in any batch.

    Of a graph that others made nobody knows what it does with the rows of a batch (one scale for all of them, no mask
    for padding): so the same windows are computed alone, beside others of their length, and padded.
    """
    rows = _sample_rows(model)
    policy = model.policy
    if policy.max_batch_size == 1 or len(rows) < 2:
        return model
    try:
        if _depends(model, rows):
            policy = dataclasses.replace(policy, max_batch_size=1)
            what = "on the others of its batch, so each window runs alone"
        elif policy.max_padding > 0 and _depends(model, _cut_unevenly(rows)):
            policy = dataclasses.replace(policy, max_padding=0.0)
            what = "on its padding, so only windows of one length share a call"
    except Exception as error:  # noqa: BLE001 - what a graph can do with a batch at all is `warm_up`'s to prove
        log.debug("how batches are to be made was not found out: %s", type(error).__name__)
        return model
    if policy is not model.policy:
        log.warning("what the graph gives for a text depends %s", what)
    return dataclasses.replace(model, policy=policy)


def _sample_rows(model: Model) -> list[list[int]]:
    """Return token ids of a few texts, all of one length."""
    texts = sample_texts()[:-1]  # the last one is long
    found = [ids for text in texts[:: len(texts) // _N_SAMPLES] if (ids := _ids_of(model, text))]
    if not found:
        return []
    length = min(_MOST_SAMPLE_TOKENS, *(len(ids) for ids in found))
    return [ids[:length] for ids in found] if length > 1 else []


def _ids_of(model: Model, text: str) -> list[int]:
    """Return the ids of a text; none where the model does not know all of them."""
    try:
        return model.tokenizer.tokenize([text])[0].windows[0].ids
    except InvalidRequest:
        return []


def _cut_unevenly(rows: Sequence[list[int]]) -> list[list[int]]:
    """Return the rows with another length each, as far as they go."""
    return [row[: max(1, len(row) * (index + 1) // len(rows))] for index, row in enumerate(rows)]


def _depends(model: Model, rows: Sequence[list[int]]) -> bool:
    """Tell whether the probabilities of a row change with the rows beside it, by more than rounding."""
    windows = [Window(row, 0) for row in rows]
    beside = model.backend.run(windows, needs_logits=True)
    limit = _ROUNDING.get(model.precision, _COARSE_ROUNDING)
    for window, scores in zip(windows, beside, strict=True):
        (alone,) = model.backend.run([window], needs_logits=True)
        if not np.abs(_probabilities(alone) - _probabilities(scores)).max() <= limit:
            return True
    return False


def _probabilities(scores: TokenScores) -> FloatArray:
    if scores.logits is None:
        raise ModelError(
            "the backend gives no logits although they are needed; choose another backend (model.device)"
        )
    powers = np.exp(scores.logits - scores.logits.max(axis=-1, keepdims=True))
    result: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
    return result
