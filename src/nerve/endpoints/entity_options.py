"""What formats that answer with entities share: how these are asked for, and rows as Hugging Face's clients know them.

The names of the fields are those of transformers' pipeline, with its `aggregation_strategy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from nerve.endpoints.bodies import encode_list, encode_value, join_list
from nerve.text.filters import choose_filter
from nerve.text.options import member_of
from nerve.types import AggregationStrategy, PredictOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nerve.config import RuntimeConfig
    from nerve.types import Row

QueryT = TypeVar("QueryT", bound=msgspec.Struct)

# Rows that are encoded in one go, which holds the interpreter lock.
_MANY_ROWS = 1_000


class EntityRow(msgspec.Struct, frozen=True, gc=False):
    """One entity. start, end: in code points; `word` is the text between them."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class TokenRow(msgspec.Struct, frozen=True, gc=False):
    """One token; `index` counts special tokens, too."""

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


def entity_options(
    runtime: RuntimeConfig,
    strategy: str | None = None,
    labels: Sequence[str] | None = None,
    min_score: float | Mapping[str, float] | None = None,
) -> PredictOptions:
    """Return the options of a request for entities; what it leaves out is the configuration's.

    strategy: its `parameters.aggregation_strategy`; without one it is `runtime.entity_strategy`. labels: only these are
    answered; an unknown one is refused when the model is asked. Raises `InvalidRequest`.
    """
    chosen = None
    if strategy is not None:
        chosen = member_of(AggregationStrategy, strategy, "parameters.aggregation_strategy")
    return PredictOptions(
        aggregation_strategy=chosen,
        truncate=runtime.truncate,
        filter=choose_filter(runtime, chosen, labels, min_score),
    )


def extend(kind: type[QueryT], query: msgspec.Struct, *more: object) -> QueryT:
    """Return a query of a subclass: what `query` has, and the fields that the subclass adds."""
    return kind(*(getattr(query, name) for name in query.__struct_fields__), *more)


def label_of(row: Row) -> tuple[str, float]:
    """Return the label of a row that has one, and its score."""
    ((label, score),) = row.results.items()
    return label, score


def entity_rows(rows: list[Row]) -> list[EntityRow]:
    """Return the entities of one text."""
    return [EntityRow(*label_of(row), row.token, row.start, row.end) for row in rows]


def token_rows(rows: list[Row]) -> list[TokenRow]:
    """Return the tokens of one text without special ones, which have a text of their own and no place in it."""
    return [
        TokenRow(*label_of(row), index, row.token, row.start, row.end)
        for index, row in enumerate(rows)
        if row.start != row.end or not row.token
    ]


def encode_rows(lists: Sequence[Sequence[Any]]) -> bytes:
    """Encode a list for each text; a large answer in parts, since a call holds the interpreter lock throughout."""
    if sum(map(len, lists)) <= _MANY_ROWS:
        return encode_value(lists, msgpack=False)
    return join_list([encode_list(each, msgpack=False) for each in lists], msgpack=False)
