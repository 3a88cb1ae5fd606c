"""Turns the scores of a text's tokens into the rows of its answer: tokens, or entities.

Step 7 of a request's way, after the windows of a text have been merged. Pure functions: no state, no
I/O, callable from any thread.

The reference is `TokenClassificationPipeline` of transformers 5. It works in three steps, kept here:

    words     `first`, `average`, `max`: a token that continues a word joins it, and the word gets one
              label and one score. `simple` takes every token for a word of its own.
    entities  A word joins the entity before it when the tags are equal, its label does not open an
              entity (B- S- U-) and the label before it did not close one (E- L- S- U-).
    score     The mean of the scores of the entity's words, summed in float32.

Special tokens take no part, entities tagged `O` are dropped. `docs/explanation/aggregation.md` lists every
difference from the reference with its reason.

Arrays here count T tokens of a text (special tokens included), W words, E entities, L labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import orjson

from nerve.errors import InvalidRequest
from nerve.text.filters import keeps
from nerve.text.labels import results_type
from nerve.text.offsets import positions_in, trim
from nerve.text.scores import logits_of, merge_columns, score_vectors
from nerve.text.viterbi import path_scores
from nerve.text.windows import merge_scores
from nerve.text.words import average_words, word_starts
from nerve.types import AggregationStrategy, OffsetUnit, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.text.labels import LabelSet
    from nerve.text.viterbi import Decoder
    from nerve.text.words import Vocabulary
    from nerve.types import EntityFilter, FloatArray, IntArray, PredictOptions, TokenizedText, TokenScores

    # Parallel lists over W words: first token, label id, score (float32 widened).
    Words = tuple[list[int], list[int], list[float]]
    # Half-open token range and the words in it: (first token, end token, first word, end word).
    Entity = tuple[int, int, int, int]


class _Found(NamedTuple):
    """Parallel lists over E entities: where they are in tokens and in code points, what they are, their scores."""

    entities: list[Entity]
    spans: list[tuple[int, int]]
    tags: list[str]
    values: list[float]


_NEED_LOGITS = (AggregationStrategy.AVERAGE, AggregationStrategy.VITERBI)


def needs_logits(options: PredictOptions) -> bool:
    """Tell whether the best label of each token and its score are not enough to answer."""
    return options.raw_scores or options.aggregation_strategy in _NEED_LOGITS


def check_scores(n_tokens: int, options: PredictOptions, labels: LabelSet, most: int) -> None:
    """Raise `InvalidRequest` for an answer with more scores than one may have: they take far more than their text."""
    if options.raw_scores and n_tokens * len(labels) > most:
        raise InvalidRequest(
            f"the scores of {n_tokens} tokens for each of {len(labels)} labels are more than "
            f"limits.max_request_scores = {most}; send less text at once, or without raw_scores"
        )


def decode(
    tokens: TokenizedText,
    scores: TokenScores,
    labels: LabelSet,
    vocabulary: Vocabulary,
    options: PredictOptions,
    decoder: Decoder | None = None,
) -> list[Row]:
    """Give the rows of one text, in its order.

    `scores` covers the T tokens of `tokens`. Its `logits` are read only where `needs_logits` says so.
    decoder: for `viterbi`; the engine refuses that strategy where the labels have none.
    """
    if options.aggregation_strategy is AggregationStrategy.NONE:
        return _token_rows(tokens, scores, labels, vocabulary, options)
    is_viterbi = options.aggregation_strategy is AggregationStrategy.VITERBI
    if _is_all_outside(tokens, scores, labels) and not (is_viterbi and decoder and decoder.has_biases):
        return []
    found = _entities(tokens, scores, labels, vocabulary, options, decoder)
    if not found.entities:
        return []
    if options.raw_scores:
        results = _entity_raw_results(scores, labels, options, found.entities)
    else:
        results = [{tag: value} for tag, value in zip(found.tags, found.values, strict=True)]
    text = tokens.text
    positions = (
        None if options.offset_unit is OffsetUnit.CODE_POINT else positions_in(text, options.offset_unit)
    )
    if positions is None:
        return [
            Row(text[start:end], 0, start, end, result)
            for (start, end), result in zip(found.spans, results, strict=True)
        ]
    return [
        Row(text[start:end], 0, positions[start], positions[end], result)
        for (start, end), result in zip(found.spans, results, strict=True)
    ]


def decode_texts(
    texts: Sequence[TokenizedText],
    scores: Sequence[TokenScores],
    labels: LabelSet,
    vocabulary: Vocabulary,
    options: PredictOptions,
    decoder: Decoder | None = None,
) -> list[list[Row]]:
    """Give the rows of each text; `scores` are those of the windows of all texts, in order."""
    rows = []
    position = 0
    for text in texts:
        n_windows = len(text.windows)
        merged = scores[position]
        if n_windows > 1:
            parts = scores[position : position + n_windows]
            ranges = [(w.start, w.start + len(w.ids) - text.n_prefix - text.n_suffix) for w in text.windows]
            merged = merge_scores(parts, ranges, text.n_prefix, text.n_suffix)
        position += n_windows
        rows.append(decode(text, merged, labels, vocabulary, options, decoder))
    return rows


# --- rows of tokens ---------------------------------------------------------------------------------


def _token_rows(
    tokens: TokenizedText,
    scores: TokenScores,
    labels: LabelSet,
    vocabulary: Vocabulary,
    options: PredictOptions,
) -> list[Row]:
    if options.raw_scores:
        results = _raw_results(score_vectors(scores, options.raw_scores_as), labels.names, options)
    else:
        names = labels.names
        results = [
            {names[label]: value}
            for label, value in zip(scores.label_ids.tolist(), shortest_floats(scores.scores), strict=True)
        ]
    text = tokens.text
    positions = (
        None if options.offset_unit is OffsetUnit.CODE_POINT else positions_in(text, options.offset_unit)
    )
    if positions is None:
        rows = [
            Row(text[start:end], token_id, start, end, result)
            for token_id, (start, end), result in zip(tokens.ids, tokens.offsets, results, strict=True)
        ]
    else:
        rows = [
            Row(text[start:end], token_id, positions[start], positions[end], result)
            for token_id, (start, end), result in zip(tokens.ids, tokens.offsets, results, strict=True)
        ]
    n_tokens = len(rows)
    for index in (*range(tokens.n_prefix), *range(n_tokens - tokens.n_suffix, n_tokens)):
        token_id = tokens.ids[index]
        rows[index] = Row(vocabulary.special_tokens[token_id], token_id, 0, 0, results[index])
    return rows


# --- words and entities -----------------------------------------------------------------------------


def _is_all_outside(tokens: TokenizedText, scores: TokenScores, labels: LabelSet) -> bool:
    """Tell the most frequent kind of text apart cheaply: no strategy finds an entity in it.

    That holds for `average`, too: where O is the best of every token, no other label has a better mean.
    """
    label_ids = scores.label_ids[tokens.n_prefix : len(tokens.ids) - tokens.n_suffix].tolist()
    return labels.outside is not None and label_ids.count(labels.outside) == len(label_ids)


def _entities(
    tokens: TokenizedText,
    scores: TokenScores,
    labels: LabelSet,
    vocabulary: Vocabulary,
    options: PredictOptions,
    decoder: Decoder | None,
) -> _Found:
    """Give the entities that are answered."""
    begin = tokens.n_prefix
    end = len(tokens.ids) - tokens.n_suffix
    strategy = options.aggregation_strategy
    offsets = tokens.offsets
    if strategy is AggregationStrategy.VITERBI:
        path = _best_path(scores, decoder, begin, end)
        words: Words = (list(range(begin, end)), path.tolist(), [])
        entities = _group(words, labels, end)
        values = path_scores(logits_of(scores)[begin:end], path, entities, begin)
        spans = trim(
            tokens.text, [(offsets[first][0], offsets[stop - 1][1]) for first, stop, _, _ in entities]
        )
    else:
        words = find_words(tokens, scores, vocabulary, strategy, begin, end)
        entities = _group(words, labels, end)
        values = _entity_scores(words[2], entities)
        spans = [(offsets[first][0], offsets[stop - 1][1]) for first, stop, _, _ in entities]
    tags, label_ids = labels.tags, words[1]
    found = _Found(
        entities, spans, [tags[label_ids[word]] for _, _, word, _ in entities], shortest_floats(values)
    )
    if options.filter is None and strategy is not AggregationStrategy.VITERBI:
        return found
    return _filter(found, options.filter)


def _filter(found: _Found, wanted: EntityFilter | None) -> _Found:
    """Leave out what was not asked for, and spans of which trimming left nothing."""
    kept = [
        index
        for index, (start, end) in enumerate(found.spans)
        if start < end and (wanted is None or keeps(wanted, found.tags[index], found.values[index]))
    ]
    return _Found(
        [found.entities[index] for index in kept],
        [found.spans[index] for index in kept],
        [found.tags[index] for index in kept],
        [found.values[index] for index in kept],
    )


def find_words(
    tokens: TokenizedText,
    scores: TokenScores,
    vocabulary: Vocabulary,
    strategy: AggregationStrategy | None,
    begin: int,
    end: int,
) -> Words:
    """Give the words among the tokens from `begin` to `end`, each with its label and score (not for `viterbi`)."""
    if strategy is AggregationStrategy.SIMPLE:
        return (
            list(range(begin, end)),
            scores.label_ids[begin:end].tolist(),
            scores.scores[begin:end].tolist(),
        )
    starts = word_starts(tokens, vocabulary, begin, end)
    if not starts:
        return [], [], []
    if strategy is AggregationStrategy.AVERAGE:
        return starts, *average_words(logits_of(scores), starts, end)
    label_ids: list[int] = scores.label_ids.tolist()
    values: list[float] = scores.scores.tolist()
    if strategy is AggregationStrategy.FIRST:
        best = starts
    else:
        best = [
            # max() keeps the first of equals, as the reference does.
            start if stop - start == 1 else max(range(start, stop), key=values.__getitem__)
            for start, stop in zip(starts, [*starts[1:], end], strict=True)
        ]
    return starts, [label_ids[token] for token in best], [values[token] for token in best]


def _group(words: Words, labels: LabelSet, end: int) -> list[Entity]:
    """Join neighbouring words into entities; `end` is the token after the last word."""
    starts, label_ids, _ = words
    tag_ids, opens, closes = labels.tag_ids, labels.opens, labels.closes
    entities: list[Entity] = []
    current = -1  # the tag of the open entity, or -1
    first = 0  # its first word
    for word, label in enumerate(label_ids):
        tag = tag_ids[label]
        if tag != current or opens[label]:
            if current >= 0:
                entities.append(_entity(starts, first, word, end))
            current, first = tag, word
        if closes[label] and current >= 0:
            entities.append(_entity(starts, first, word + 1, end))
            current = -1
    if current >= 0:
        entities.append(_entity(starts, first, len(starts), end))
    return entities


def _entity(starts: list[int], first: int, stop: int, end: int) -> Entity:
    return starts[first], starts[stop] if stop < len(starts) else end, first, stop


def _entity_scores(values: list[float], entities: list[Entity]) -> FloatArray:
    """Give the mean score of each entity, float32 (E,), added up in float32 as the reference does."""
    means = []
    for _, _, first, stop in entities:
        if stop - first == 1:
            means.append(values[first])
        elif stop - first == 2:
            # One addition in float64, rounded once to float32 below, is the float32 addition.
            means.append((values[first] + values[first + 1]) / 2)
        else:
            total = np.array(values[first:stop], dtype=np.float32).sum()
            means.append(float(total) / (stop - first))
    return np.array(means, dtype=np.float32)


# --- viterbi ----------------------------------------------------------------------------------------


def _best_path(scores: TokenScores, decoder: Decoder | None, begin: int, end: int) -> IntArray:
    if decoder is None:
        raise AssertionError("this is a bug: viterbi was asked of labels that have no decoder")
    return decoder.best_path(logits_of(scores)[begin:end], scores.label_ids[begin:end])


# --- scores -----------------------------------------------------------------------------------------


def _entity_raw_results(
    scores: TokenScores, labels: LabelSet, options: PredictOptions, entities: list[Entity]
) -> list[dict[str, float]]:
    vectors = score_vectors(scores, options.raw_scores_as)  # (T, L)
    means = np.stack([vectors[first:end].mean(axis=0) for first, end, _, _ in entities])  # (E, L)
    names = labels.full_names
    if len(set(names)) < len(names):
        names, means = merge_columns(names, means, options.raw_scores_as)
    return _raw_results(means, names, options)


def _raw_results(
    vectors: FloatArray, names: tuple[str, ...], options: PredictOptions
) -> list[dict[str, float]]:
    """Name the scores of (N, L) vectors."""
    width = len(names)
    values = shortest_floats(vectors.reshape(-1))
    begins = range(0, len(values), width)
    if options.to_encode:
        make = cast("Callable[..., dict[str, float]]", results_type(names))
        return [make(*values[begin : begin + width]) for begin in begins]
    return [dict(zip(names, values[begin : begin + width], strict=True)) for begin in begins]


def shortest_floats(values: FloatArray) -> list[float]:
    """Give the shortest decimals of a float32 array (N,), contiguous, as Python floats in its order.

    A float32 widened to a Python float prints with 17 digits. What is wanted is the float64 nearest to the shortest
    decimal that reads back as the same float32, since encoders print it as that: `float(str(numpy.float32(x)))`.
    orjson prints float32 arrays by their shortest decimals (Ryu, https://doi.org/10.1145/3192366.3192369) and reads
    decimals back as the nearest float64, both in a small part of the time that the loop takes.
    """
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"n" in text:  # null, which stands for NaN and infinities
        return [float(str(value)) for value in values]
    floats: list[float] = orjson.loads(text)
    return floats
