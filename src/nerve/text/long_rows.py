"""Makes the rows of a long text while its scores arrive, and holds no more of these than it must. Pure.

Tokens are decoded as soon as nothing that follows can change what they are part of: up to a token that is in no entity.
The rows are those of the whole text (`aggregation`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from nerve.text.aggregation import decode, find_words
from nerve.text.offsets import positions_in
from nerve.text.windows import merge_owned
from nerve.types import AggregationStrategy, OffsetUnit, Row, TokenizedText, TokenScores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.text.labels import LabelSet
    from nerve.text.viterbi import Decoder
    from nerve.text.words import Vocabulary
    from nerve.types import PredictOptions, Section


class LongRows:
    """The rows of one text, which comes in sections; the arguments are those of `decode`."""

    def __init__(
        self,
        text: str,
        labels: LabelSet,
        vocabulary: Vocabulary,
        options: PredictOptions,
        decoder: Decoder | None = None,
    ) -> None:
        self.rows: list[Row] = []
        self._text = text
        self._labels = labels
        self._vocabulary = vocabulary
        self._unit = options.offset_unit
        self._options = structs.replace(options, offset_unit=OffsetUnit.CODE_POINT)
        self._decoder = decoder
        self._is_outside = np.array(labels.tag_ids) < 0
        self._waiting: tuple[TokenizedText, TokenScores] | None = None
        # A place in the text that is in no row yet to come, in code points and in the unit of the answer.
        self._place = self._place_in_unit = 0

    def add(self, section: Section, scores: Sequence[TokenScores], n_prefix: int, n_suffix: int) -> None:
        """Take the next section in, with the scores of its windows, and make what rows can be made.

        n_prefix, n_suffix: special tokens around each window.
        """
        starts = [window.start for window in section.tokens.windows]
        merged = merge_owned(
            scores,
            starts,
            section.owned,
            n_prefix,
            n_suffix,
            has_front=section.is_first,
            has_back=section.is_last,
        )
        tokens, merged = _joined(self._waiting, section.tokens, merged)
        if section.is_last:
            self._waiting = None
            self._decode(tokens, merged)
            return
        stop, begin = self._cut(tokens, merged)
        if stop > 0:
            self._decode(_part(tokens, 0, stop), _part_of_scores(merged, 0, stop))
        n_tokens = len(tokens.ids)
        self._waiting = _part(tokens, begin, n_tokens), _part_of_scores(merged, begin, n_tokens)

    def _decode(self, tokens: TokenizedText, scores: TokenScores) -> None:
        rows = decode(tokens, scores, self._labels, self._vocabulary, self._options, self._decoder)
        self.rows += rows if self._unit is OffsetUnit.CODE_POINT else self._in_unit(rows)

    def _in_unit(self, rows: list[Row]) -> list[Row]:
        """Return rows with their offsets in the unit of the answer."""
        placed = [row for row in rows if row.start or row.end]  # not the special tokens around the text
        if not placed:
            return rows
        if min(row.start for row in placed) < self._place:  # a tokenizer whose offsets go back
            self._place = self._place_in_unit = 0
        first, by = self._place, self._place_in_unit
        last = max(row.end for row in placed)
        positions = positions_in(self._text[first:last], self._unit) or range(last - first + 1)
        self._place = placed[-1].start  # a character may be shared with the token after it
        self._place_in_unit = by + positions[self._place - first]
        return [
            Row(
                row.token,
                row.token_id,
                positions[row.start - first] + by,
                positions[row.end - first] + by,
                row.results,
            )
            if row.start or row.end
            else row
            for row in rows
        ]

    def _cut(self, tokens: TokenizedText, scores: TokenScores) -> tuple[int, int]:
        """Return the token before which all can be decoded, and the first one that is needed after that."""
        strategy = self._options.aggregation_strategy
        begin, end = tokens.n_prefix, len(tokens.ids)
        if strategy is AggregationStrategy.NONE:
            return end, end
        if strategy is AggregationStrategy.VITERBI:
            assert self._decoder is not None  # noqa: S101 - the engine has refused the strategy otherwise
            assert scores.logits is not None  # noqa: S101 - it asks for them
            token = self._decoder.find_border(scores.logits[begin:], scores.label_ids[begin:])
            if token is None or not _is_between(tokens, begin + token + 1):
                return 0, 0
            return begin + token + 1, begin + token
        starts, labels, _ = find_words(tokens, scores, self._vocabulary, strategy, begin, end)
        outside = self._is_outside[labels]
        for word in (np.flatnonzero(outside[:-1])[::-1] + 1).tolist():
            if _is_between(tokens, starts[word]):
                return starts[word], starts[word]
        return 0, 0


def _is_between(tokens: TokenizedText, token: int) -> bool:
    """Tell whether a token shares no character with the one before it."""
    return token == len(tokens.ids) or tokens.offsets[token][0] >= tokens.offsets[token - 1][1]


def _joined(
    before: tuple[TokenizedText, TokenScores] | None, tokens: TokenizedText, scores: TokenScores
) -> tuple[TokenizedText, TokenScores]:
    if before is None:
        return tokens, scores
    first, first_scores = before
    joined = structs.replace(
        tokens, ids=first.ids + tokens.ids, offsets=first.offsets + tokens.offsets, n_prefix=first.n_prefix
    )
    logits = None
    if first_scores.logits is not None and scores.logits is not None:
        logits = np.concatenate([first_scores.logits, scores.logits])
    return joined, TokenScores(
        np.concatenate([first_scores.label_ids, scores.label_ids]),
        np.concatenate([first_scores.scores, scores.scores]),
        logits,
    )


def _part(tokens: TokenizedText, start: int, stop: int) -> TokenizedText:
    return structs.replace(
        tokens,
        ids=tokens.ids[start:stop],
        offsets=tokens.offsets[start:stop],
        n_prefix=tokens.n_prefix if start == 0 else 0,
    )


def _part_of_scores(scores: TokenScores, start: int, stop: int) -> TokenScores:
    return TokenScores(
        scores.label_ids[start:stop],
        scores.scores[start:stop],
        None if scores.logits is None else scores.logits[start:stop],
    )
