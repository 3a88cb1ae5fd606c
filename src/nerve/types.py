"""The immutable values passed between layers, with their shapes.

Shapes: T = tokens of a text (after truncation), T_w = tokens of one window, L = labels. Both T and
T_w count the special tokens. Offsets are half-open `[start, end)` in code points of the source text;
only `aggregation` converts them to another unit, when it makes rows.

What is made for every request is a `msgspec.Struct`: made in C, where a frozen dataclass takes 0.25 us a field.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]


class AggregationStrategy(enum.StrEnum):
    """How tokens become entities; `simple` to `max` mean what transformers' pipeline means by them.

    VITERBI: the entities of the best label sequence that the label scheme allows (`text.viterbi`).
    """

    NONE = "none"
    SIMPLE = "simple"
    FIRST = "first"
    AVERAGE = "average"
    MAX = "max"
    VITERBI = "viterbi"


class EntityStrategy(enum.StrEnum):
    """How formats that answer with entities alone group tokens.

    AUTO: `viterbi` where the checkpoint has a calibration for it or a BIOES or BILOU label set, else `first`.
    """

    AUTO = "auto"
    SIMPLE = "simple"
    FIRST = "first"
    AVERAGE = "average"
    MAX = "max"
    VITERBI = "viterbi"


class PatternName(enum.StrEnum):
    """Kinds of entities that are found by rule (`text.patterns`)."""

    EMAIL = "email"
    URL = "url"
    IP_ADDRESS = "ip_address"
    CREDIT_CARD = "credit_card"
    IBAN = "iban"
    US_SSN = "us_ssn"
    PHONE_NUMBER = "phone_number"

    @property
    def label(self) -> str:
        """The label of its entities, before renaming."""
        return "IBAN_CODE" if self is PatternName.IBAN else self.name


class TruncationDirection(enum.StrEnum):
    """Which end of a text that is too long is cut."""

    RIGHT = "right"
    LEFT = "left"


class OffsetUnit(enum.StrEnum):
    """Unit of `start` and `end` in an answer."""

    CODE_POINT = "code_point"
    UTF16 = "utf16"
    BYTE = "byte"


class RawScoresAs(enum.StrEnum):
    """What `raw_scores: true` prints for each label."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"


class EntityFilter(msgspec.Struct, frozen=True):
    """Which entities are answered; `text.filters` makes and asks it.

    labels: only these, after renaming; None for all.
    min_scores: least score by label; min_score: that of all other labels.
    asked: the labels that the request itself has named, each with the field. The model must know them, or also_known
        have them.
    """

    labels: frozenset[str] | None = None
    min_scores: Mapping[str, float] = {}
    min_score: float = 0.0
    asked: tuple[tuple[str, str], ...] = ()
    also_known: tuple[str, ...] = ()


class MostInRequest(NamedTuple):
    """What one request may have. tokens: of all its windows. scores: in an answer with those of all labels."""

    tokens: int = sys.maxsize
    scores: int = sys.maxsize


class PredictOptions(msgspec.Struct, frozen=True):
    """Everything a request can choose, apart from its texts; `raw_scores_as` is the configuration's alone.

    aggregation_strategy: None for the model's own entity strategy, which the engine fills in.
    filter: None to answer all entities; `none` never has one.
    to_encode: nobody but an encoder looks at the rows, so that `results` may be what encodes as the dict does.
    """

    aggregation_strategy: AggregationStrategy | None = AggregationStrategy.NONE
    truncate: bool = False
    truncation_direction: TruncationDirection = TruncationDirection.RIGHT
    raw_scores: bool = False
    raw_scores_as: RawScoresAs = RawScoresAs.PROBABILITIES
    offset_unit: OffsetUnit = OffsetUnit.CODE_POINT
    to_encode: bool = False
    filter: EntityFilter | None = None


class Window(msgspec.Struct, frozen=True):
    """One model-sized slice of a text, with its own special tokens: one row of a batch.

    ids: T_w token ids.
    start: index of its first real (not special) token among the text's real tokens.
    """

    ids: list[int]
    start: int


class TokenizedText(msgspec.Struct, frozen=True):
    """One text after tokenization, truncation and windowing.

    ids: T token ids; the first `n_prefix` and the last `n_suffix` are special tokens.
    offsets: T pairs; (0, 0) for those special tokens.
    windows: at least one. A text that fits has one window whose ids are `ids`.
    truncated: True when real tokens were cut off.
    """

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    n_prefix: int
    n_suffix: int
    windows: tuple[Window, ...]
    truncated: bool


class Section(msgspec.Struct, frozen=True):
    """Some neighbouring windows of a long text, and the tokens that they answer for.

    tokens: those tokens and these windows; special tokens only at the ends of the text. Offsets are of the whole text.
    owned: of each window, the real tokens of the text that it answers for, half-open.
    """

    tokens: TokenizedText
    owned: list[tuple[int, int]]
    is_first: bool
    is_last: bool


class TokenScores(msgspec.Struct, frozen=True):
    """What the model says of a run of tokens (a window's T_w, or after merging a text's T).

    label_ids: int64 (T,), the best label of each token; the smallest id wins a tie.
    scores: float32 (T,), softmax probability of that label.
    logits: float32 (T, L), or None when the request does not need them.
    """

    label_ids: IntArray
    scores: FloatArray
    logits: FloatArray | None


class Row(msgspec.Struct, frozen=True, gc=False):
    """One token or one entity, as the wire contract prints it."""

    token: str
    token_id: int
    start: int
    end: int
    results: dict[str, float]


class Entity(msgspec.Struct, frozen=True, gc=False):
    """An entity of a text: its label, its score, and the half-open range of code points."""

    label: str
    score: float
    start: int
    end: int


class Timings(msgspec.Struct, frozen=True):
    """Where the time of one request went, in seconds."""

    tokenize: float
    queue: float
    inference: float
    aggregate: float


class Summary(msgspec.Struct, frozen=True):
    """What is reported of one answered request, besides its rows.

    truncated: indexes of the texts that were cut. n_tokens: tokens computed, window overlaps and special
    tokens included, padding not.
    """

    n_texts: int
    truncated: list[int]
    n_tokens: int
    timings: Timings


class Prediction(Summary, frozen=True):
    """The answer to one request: one list of rows per text, in input order."""

    rows: list[list[Row]]


class Logits(Summary, frozen=True):
    """The answer to one request that had token ids: the logits of each sequence, float32 (T, L), in input order."""

    logits: list[FloatArray]
