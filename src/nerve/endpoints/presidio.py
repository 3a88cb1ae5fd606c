"""Presidio's analyzer and anonymizer: `POST /analyze`, `GET /supportedentities`, `POST /anonymize`.

As Presidio's RemoteRecognizer and LiteLLM's presidio guardrail ask: https://microsoft.github.io/presidio/api-docs/
What would run a client's own expressions is refused. An unknown entity is refused, too, where Presidio would not look
for it: who asks for CREDIT_CARD must not believe that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from nerve.config import Score, load_redaction_key
from nerve.config.operators import Operator
from nerve.endpoints.bodies import encode_list
from nerve.endpoints.entity_options import encode_rows, extend
from nerve.endpoints.json_bodies import (
    AT_LEAST_ONE,
    EMPTY,
    JsonBody,
    check_texts,
    error_in_field,
    one_of,
    require_json,
)
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description, GetRoute, PostRoute
from nerve.engine.codec import Query, Reply
from nerve.engine.entities import EntityDefaults, EntityQuery
from nerve.errors import InvalidRequest
from nerve.text.operators import Operators
from nerve.text.patterns import Patterns
from nerve.text.span_conflicts import Span, anonymize

if TYPE_CHECKING:
    from nerve.config import Config, LimitsConfig
    from nerve.endpoints.protocol import Header, ModelFacts
    from nerve.types import Row

_REF = "#/components/schemas/{name}"
_ANALYZER_ERRORS = error_in_field("error", {422: 400})
_ANONYMIZER_ERRORS = error_in_field("error")
_EXACT = "exact"
_encode = msgspec.json.Encoder().encode


class AnalyzeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for entities.

    entities: only these; none or an empty list for all. score_threshold: the least score. allow_list: texts that are no
    entities, whole and exact. language, correlation_id, return_decision_process, context, regex_flags: without effect.
    """

    text: str | Annotated[list[str], AT_LEAST_ONE]
    language: str
    entities: list[str] | None = None
    score_threshold: Score | None = None
    allow_list: list[str] | None = None
    allow_list_match: Annotated[str, one_of(_EXACT)] | None = None
    ad_hoc_recognizers: Annotated[list[Any], EMPTY] | None = None
    correlation_id: str | None = None
    return_decision_process: bool | None = None
    context: list[str] | None = None
    regex_flags: int | None = None


class AnalyzerResult(msgspec.Struct, frozen=True, gc=False):
    """One entity as the analyzer answers it, and the anonymizer takes it; offsets in code points."""

    entity_type: str
    start: Annotated[int, msgspec.Meta(ge=0)]
    end: Annotated[int, msgspec.Meta(ge=0)]
    score: float = 1.0
    analysis_explanation: Any = None


class AnonymizeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text, what was found in it, and what becomes of that: operators by entity type, DEFAULT for all others."""

    text: str
    analyzer_results: list[AnalyzerResult]
    anonymizers: dict[str, Operator] | None = None


class AnonymizedItem(msgspec.Struct, frozen=True, gc=False):
    """One entity in the new text."""

    start: int
    end: int
    entity_type: str
    text: str
    operator: str


class AnonymizedText(msgspec.Struct, frozen=True):
    """The new text; its items go from the last to the first, as Presidio's do."""

    text: str
    items: list[AnonymizedItem]


class AnalyzeQuery(EntityQuery, frozen=True):
    """What a request asks for. is_list: the answer has a list for each text. allowed: texts that are no entities."""

    is_list: bool
    allowed: frozenset[str]

    def place(self, index: int) -> str:
        """See `Query`."""
        return f"text[{index}]" if self.is_list else "text"


_analyze_body = JsonBody(AnalyzeRequest)
_anonymize_body = JsonBody(AnonymizeRequest)


@dataclass(frozen=True, slots=True)
class AnalyzeCodec:
    """Reads and writes one request for entities."""

    defaults: EntityDefaults
    limits: LimitsConfig
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query:
        """See `Codec`."""
        request = _analyze_body.decode(body)
        if request.ad_hoc_recognizers:
            raise InvalidRequest(
                "ad_hoc_recognizers: expressions of a client are not run; the server's own rules are runtime.patterns"
            )
        if request.allow_list_match not in (None, _EXACT):
            raise InvalidRequest(
                "allow_list_match: expressions of a client are not run; leave it out, or say exact"
            )
        is_list = not isinstance(request.text, str)
        texts = request.text if isinstance(request.text, list) else [request.text]
        check_texts(texts, "text", self.limits)
        query = self.defaults.query(
            texts,
            labels=request.entities or None,
            min_score=request.score_threshold,
            labels_field="entities",
        )
        return extend(AnalyzeQuery, query, is_list, frozenset(request.allow_list or ()))

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, AnalyzeQuery)  # noqa: S101 - `decode` has made it
        found = [
            [
                AnalyzerResult(entity.label, entity.start, entity.end, entity.score)
                for entity in entities
                if text[entity.start : entity.end] not in query.allowed
            ]
            for text, entities in zip(query.texts, query.entities(rows), strict=True)
        ]
        return encode_rows(found) if query.is_list else encode_list(found[0], msgpack=False)


@dataclass(frozen=True, slots=True)
class AnonymizeCodec:
    """Answers a request for a text without the entities that it names; the model is not asked."""

    operators: Operators
    key: bytes
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Reply:
        """See `Codec`."""
        request = _anonymize_body.decode(body)
        for index, result in enumerate(request.analyzer_results):
            if not result.start <= result.end <= len(request.text):
                raise InvalidRequest(f"analyzer_results[{index}]: its start and end are not within the text")
        return Reply(partial(self._write, request))

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`; never called."""
        raise NotImplementedError

    def _write(self, request: AnonymizeRequest) -> bytes:
        chosen = request.anonymizers
        operators = self.operators if chosen is None else Operators(chosen, self.key)
        spans = [
            Span(each.entity_type, each.score, each.start, each.end) for each in request.analyzer_results
        ]
        text, pieces = anonymize(request.text, spans, operators)
        items = [
            AnonymizedItem(start, start + len(new), label, new, operators.of(label).name)
            for label, start, new in reversed(pieces)
        ]
        return _encode(AnonymizedText(text, items))


class Presidio:
    """The endpoint."""

    name = "presidio"

    def __init__(self, config: Config) -> None:
        self._analyze = AnalyzeCodec(EntityDefaults(config), config.limits)
        key = load_redaction_key(config.redaction)
        self._anonymize = AnonymizeCodec(Operators(config.redaction.operators, key), key)
        runtime = config.runtime
        self._pattern_labels = Patterns(runtime.patterns, runtime.rename_labels).labels
        names = {"type": "array", "items": {"type": "string"}}
        self.routes = (
            PostRoute("/analyze", self._choose_analyze, _describe_analyze, _ANALYZER_ERRORS),
            PostRoute("/anonymize", self._choose_anonymize, _describe_anonymize, _ANONYMIZER_ERRORS),
            GetRoute("/supportedentities", "The entities", self._entities, names, errors=_ANALYZER_ERRORS),
        )

    def _choose_analyze(self, header: Header) -> AnalyzeCodec:
        require_json(header)
        return self._analyze

    def _choose_anonymize(self, header: Header) -> AnonymizeCodec:
        require_json(header)
        return self._anonymize

    def _entities(self, facts: ModelFacts) -> bytes:
        return _encode(list(dict.fromkeys((*facts.tags, *self._pattern_labels))))


def _describe_analyze() -> Description:
    request, schemas = _analyze_body.schema()
    (result,), results = msgspec.json.schema_components([AnalyzerResult], ref_template=_REF)
    each = {"type": "array", "items": result}
    return Description(
        summary="Find the entities of one or more texts, as Presidio's analyzer",
        answer_text="The entities of a text; a list of them for each text of a list",
        media_types=(JSON_TYPE,),
        request=request,
        answer={"anyOf": [each, {"type": "array", "items": each}]},
        schemas={**schemas, **results},
        examples={"analyze": {"text": EXAMPLE_TEXT, "language": "en"}},
    )


def _describe_anonymize() -> Description:
    request, schemas = _anonymize_body.schema()
    (answer,), answers = msgspec.json.schema_components([AnonymizedText], ref_template=_REF)
    return Description(
        summary="Write a text without entities that were found before, as Presidio's anonymizer",
        answer_text="The new text",
        media_types=(JSON_TYPE,),
        request=request,
        answer=answer,
        schemas={**schemas, **answers},
        examples={
            "anonymize": {
                "text": EXAMPLE_TEXT,
                "analyzer_results": [{"entity_type": "PERSON", "start": 0, "end": 10, "score": 0.9}],
            }
        },
    )
