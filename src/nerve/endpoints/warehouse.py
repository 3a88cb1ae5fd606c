"""`POST /bigquery` and `POST /snowflake`: functions that a warehouse calls with rows of a table.

https://cloud.google.com/bigquery/docs/remote-functions
https://docs.snowflake.com/en/sql-reference/external-functions-data-format
A row is answered with its text without entities, or with its entities: BigQuery says which in `user_defined_context`
(`mode`), Snowflake in a header of the function (`mode`, which arrives as sf-custom-mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from nerve.endpoints.entity_options import extend
from nerve.endpoints.json_bodies import EXACTLY_ONE, JsonBody, check_count, error_in_field, require_json
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description, PostRoute
from nerve.engine.codec import Query, Reply
from nerve.engine.entities import EntityDefaults, RedactQuery
from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.config import Config, LimitsConfig
    from nerve.endpoints.protocol import ErrorForm, Header
    from nerve.types import Row

_REDACT, _ENTITIES = "redact", "entities"
_MODE_HEADER = "sf-custom-mode"
# BigQuery shows the message to who has asked; both repeat 429 and 5xx.
_BIGQUERY_ERRORS = error_in_field("errorMessage", {422: 400})
_SNOWFLAKE_ERRORS = error_in_field("error", {422: 400})
_encode = msgspec.json.Encoder().encode


class BigQueryRequest(msgspec.Struct, frozen=True):
    """A batch of calls, each a list with the text, or null. What BigQuery sends beside has no effect."""

    calls: list[Annotated[list[str | None], EXACTLY_ONE]]
    userDefinedContext: dict[str, str] | None = None  # noqa: N815 - BigQuery's name


class SnowflakeRequest(msgspec.Struct, frozen=True):
    """A batch of rows, each a list with its number and the text, or null."""

    data: list[tuple[int, str | None]]


class RowsQuery(RedactQuery, frozen=True):
    """What a batch asks for.

    has_text: of each row; place_of_row: where its text stands; mode: what it is answered with; wrap: makes the body.
    """

    has_text: list[bool]
    place_of_row: str
    mode: str
    wrap: Callable[[list[Any]], bytes]

    def place(self, index: int) -> str:
        """See `Query`."""
        rows = [row for row, has_text in enumerate(self.has_text) if has_text]
        return self.place_of_row.format(rows[index])


_bigquery_body = JsonBody(BigQueryRequest)
_snowflake_body = JsonBody(SnowflakeRequest)


@dataclass(frozen=True, slots=True)
class RowsCodec:
    """Reads and writes one batch."""

    defaults: EntityDefaults
    limits: LimitsConfig
    media_type: str = JSON_TYPE

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, RowsQuery)  # noqa: S101 - `decode` has made it
        redacts = query.mode == _REDACT
        found: list[Any] = list(query.redacted(rows) if redacts else query.entities(rows))
        if redacts:
            found = [each.text for each in found]
        values = iter(found)
        return query.wrap([next(values) if has_text else None for has_text in query.has_text])

    def ask(
        self, texts: list[str | None], place: str, mode: str, wrap: Callable[[list[Any]], bytes]
    ) -> Query | Reply:
        """Return what asks for rows, of which null stays null. place: of a row's text. Raises `InvalidRequest`."""
        found = [text for text in texts if text is not None]
        if not found:
            return Reply(lambda: wrap([None] * len(texts)))
        check_count(len(found), place.partition("[")[0], self.limits)
        has_text = [text is not None for text in texts]
        return extend(RowsQuery, self.defaults.redact_query(found), has_text, place, mode, wrap)


class BigQueryCodec(RowsCodec):
    """Reads BigQuery's batches."""

    __slots__ = ()

    def decode(self, body: bytes | bytearray) -> Query | Reply:
        """See `Codec`."""
        request = _bigquery_body.decode(body)
        for index, call in enumerate(request.calls):
            if len(call) != 1:
                raise InvalidRequest(f"calls[{index}]: send one argument, the text")
        mode = (request.userDefinedContext or {}).get("mode", _REDACT)
        if mode not in (_REDACT, _ENTITIES):
            raise InvalidRequest(
                f"userDefinedContext.mode: unknown value; known values: {_REDACT}, {_ENTITIES}"
            )
        return self.ask([call[0] for call in request.calls], "calls[{}][0]", mode, _wrap_replies)


@dataclass(frozen=True, slots=True)
class SnowflakeCodec(RowsCodec):
    """Reads Snowflake's batches. mode: of a header."""

    mode: str = _REDACT

    def decode(self, body: bytes | bytearray) -> Query | Reply:
        """See `Codec`."""
        request = _snowflake_body.decode(body)
        numbers = [number for number, _ in request.data]

        def wrap(values: list[Any]) -> bytes:
            return _encode({"data": list(zip(numbers, values, strict=True))})

        return self.ask([text for _, text in request.data], "data[{}][1]", self.mode, wrap)


class Warehouse:
    """The endpoint."""

    name = "warehouse"

    def __init__(self, config: Config) -> None:
        defaults = EntityDefaults(config)
        self._bigquery = BigQueryCodec(defaults, config.limits)
        self._snowflake = {
            mode: SnowflakeCodec(defaults, config.limits, mode=mode) for mode in (_REDACT, _ENTITIES)
        }
        self.routes = (
            _route("/bigquery", self._choose_bigquery, _bigquery_body, "replies", _BIGQUERY_ERRORS),
            _route("/snowflake", self._choose_snowflake, _snowflake_body, "data", _SNOWFLAKE_ERRORS),
        )

    def _choose_bigquery(self, header: Header) -> BigQueryCodec:
        require_json(header)
        return self._bigquery

    def _choose_snowflake(self, header: Header) -> SnowflakeCodec:
        require_json(header)
        codec = self._snowflake.get(header(_MODE_HEADER) or _REDACT)
        if codec is None:
            raise InvalidRequest(
                f"header {_MODE_HEADER}: unknown value; known values: {_REDACT}, {_ENTITIES}"
            )
        return codec


def _wrap_replies(values: list[Any]) -> bytes:
    return _encode({"replies": values})


def _route(
    path: str,
    choose_codec: Callable[[Header], Any],
    body: JsonBody[Any],
    field: str,
    errors: ErrorForm,
) -> PostRoute:
    def describe() -> Description:
        request, schemas = body.schema()
        answer = {"type": "object", "properties": {field: {"type": "array"}}, "required": [field]}
        summary = f"Redact rows of a table, or find their entities, for {path.strip('/').title()}"
        rows = [[EXAMPLE_TEXT], [None]] if field == "replies" else [[0, EXAMPLE_TEXT], [1, None]]
        return Description(
            summary=summary,
            answer_text="A value for each row",
            media_types=(JSON_TYPE,),
            request=request,
            answer=answer,
            schemas=schemas,
            examples={"rows": {"calls" if field == "replies" else "data": rows}},
        )

    return PostRoute(path, choose_codec, describe, errors)
