"""Finds the words of a text among its tokens, as `TokenClassificationPipeline` of transformers 5 does. Pure.

Arrays count T tokens of a text, W words, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nerve.text.scores import softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.types import FloatArray, IntArray, TokenizedText


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Facts of the tokenizer that the word rules need.

    token_lengths: int64 (V,), code points of each vocabulary entry as written there ("##ing" has 5).
    is_word_aware: the model marks continued words by a prefix (WordPiece), so that a token whose text
        differs in length from its source continues a word. Others fall back to looking for a space.
    unk_id: the unknown token, which always starts a word.
    special_tokens: text of each special token, by id.
    """

    token_lengths: IntArray
    is_word_aware: bool
    unk_id: int | None
    special_tokens: Mapping[int, str]


def word_starts(tokens: TokenizedText, vocabulary: Vocabulary, begin: int, end: int) -> list[int]:
    """Give the indexes of the tokens that start a word; the first real token always does."""
    if begin == end:
        return []
    ids = tokens.ids[begin:end]
    offsets = tokens.offsets[begin:end]
    unk_id = vocabulary.unk_id
    if vocabulary.is_word_aware:
        lengths: list[int] = vocabulary.token_lengths[ids].tolist()
        starts = [
            index
            for index, token_id, (start, stop), length in zip(
                range(begin, end), ids, offsets, lengths, strict=True
            )
            if length == stop - start or token_id == unk_id
        ]
    else:
        text = tokens.text
        starts = [
            index
            for index, token_id, (start, _) in zip(range(begin, end), ids, offsets, strict=True)
            if start == 0 or " " in text[start - 1 : start + 1] or token_id == unk_id
        ]
    if not starts or starts[0] != begin:
        starts.insert(0, begin)
    return starts


def average_words(logits: FloatArray, starts: list[int], end: int) -> tuple[list[int], list[float]]:
    """Give label and score of each word by the mean of its tokens' score vectors."""
    vectors = softmax(logits[starts[0] : end])  # (T_real, L)
    edges = np.array(starts) - starts[0]  # (W,)
    sums = np.add.reduceat(vectors, edges, axis=0)  # (W, L)
    counts = np.diff(edges, append=len(vectors))  # (W,)
    for word in np.flatnonzero(counts > 2).tolist():
        # reduceat adds the first row last; float32 sums of three and more depend on the order.
        sums[word] = vectors[edges[word] : edges[word] + counts[word]].sum(axis=0)
    means = (sums / counts[:, None]).astype(np.float32)  # (W, L)
    best = means.argmax(axis=1)  # (W,)
    values: list[float] = means[np.arange(len(best)), best].tolist()
    return best.tolist(), values
