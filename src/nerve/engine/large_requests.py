"""The steps of a large request that are Python work, as they are done in the large-request process.

`begin` decodes and tokenizes a body, `finish` makes and encodes the answer. Between the two the worker runs the
windows. Nothing is kept here meanwhile: what `finish` needs goes to the worker and back as bytes.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nerve.text.aggregation import decode_texts
from nerve.text.tokenizer import TextTokenizer, load_tokenizer
from nerve.types import TokenScores, Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from nerve.engine.codec import Codec, Query
    from nerve.text.aggregation import Vocabulary
    from nerve.text.labels import LabelSet
    from nerve.types import TokenizedText


@dataclass(frozen=True, slots=True)
class LargeSetup:
    """All that the steps need of a loaded model and its configuration; it is pickled.

    folder: the model folder, for its tokenizer. max_length: most tokens of a window. stride, max_input_tokens: see
    `TextTokenizer`.
    """

    folder: Path
    max_length: int
    labels: LabelSet
    vocabulary: Vocabulary
    stride: int | None
    max_input_tokens: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What the worker must know of a request that was begun.

    window_lengths: tokens of each window, all texts together.
    truncated: indexes of the texts that were cut.
    """

    n_texts: int
    truncated: list[int]
    needs_logits: bool
    window_lengths: list[int]


class LargeRequests:
    """Decodes, tokenizes and answers; any thread may call its methods."""

    def __init__(self, setup: LargeSetup) -> None:
        self._setup = setup
        self._tokenizer = TextTokenizer(
            load_tokenizer(setup.folder),
            setup.max_length,
            setup.stride,
            setup.max_input_tokens,
        )

    def begin(self, body: bytes, codec: Codec) -> tuple[Outline, bytes, npt.NDArray[np.int32]]:
        """Decode and tokenize a body.

        Returns the outline, what `finish` needs, and the ids of all windows, one after the other.
        Raises `PredictError`s.
        """
        query = codec.decode(body)
        options = query.options
        tokenized = self._tokenizer.tokenize(query.texts, options.truncate, options.truncation_direction)
        windows = [window for text in tokenized for window in text.windows]
        outline = Outline(
            n_texts=len(tokenized),
            truncated=[index for index, text in enumerate(tokenized) if text.truncated],
            needs_logits=options.needs_logits,
            window_lengths=[len(window.ids) for window in windows],
        )
        ids = np.concatenate([np.array(window.ids, np.int32) for window in windows])
        return outline, pickle.dumps((tokenized, query)), ids

    def finish(self, context: bytes, scores: Sequence[TokenScores], codec: Codec) -> bytes:
        """Make the encoded answer from the scores of all windows."""
        tokenized: list[TokenizedText]
        query: Query
        tokenized, query = pickle.loads(context)  # noqa: S301 - `begin` made it
        rows = decode_texts(tokenized, scores, self._setup.labels, self._setup.vocabulary, query.options)
        return codec.encode(query, rows)


def split_windows(ids: npt.NDArray[np.int32], lengths: Sequence[int]) -> list[Window]:
    """Return the windows whose ids stand in `ids`, as views: a list of ids would take long to free."""
    ends = np.cumsum(lengths).tolist()
    return [Window(ids[end - length : end], 0) for end, length in zip(ends, lengths, strict=True)]
