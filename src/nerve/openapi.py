"""Builds the OpenAPI 3.1 document from the wire types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import nerve
from nerve import wire
from nerve.types import AggregationStrategy, OffsetUnit, Row

if TYPE_CHECKING:
    from nerve.config import LimitsConfig

_REF = "#/components/schemas/{name}"
_BODY_TYPES = (wire.JSON_TYPE, wire.MSGPACK_TYPE)
_PREDICT_ERRORS = {
    "400": "The body is not JSON or MessagePack, or is cut short",
    "401": "An API key is configured and the request lacks it",
    "413": "The body is above limits.max_body_bytes",
    "415": "The content type is neither JSON nor MessagePack",
    "422": "Wrong types, unknown fields, or a limit is exceeded",
    "429": "The queue is full; retry-after says when to try again",
    "500": "A defect of the server",
    "503": "The server is starting or shutting down, or its device failed",
    "504": "The deadline passed before the answer was ready",
}


def build_openapi(limits: LimitsConfig) -> dict[str, Any]:
    """Return the document; the limits of the configuration stand in it."""
    (request, row, error), schemas = msgspec.json.schema_components(
        [wire.PredictRequest, Row, wire.ErrorBody], ref_template=_REF
    )
    properties = schemas["PredictRequest"]["properties"]
    properties["inputs"] |= {"maxItems": limits.max_inputs, "minItems": 1}
    properties["aggregation_strategy"] = {"enum": [member.value for member in AggregationStrategy]}
    properties["offset_unit"] = {"enum": [member.value for member in OffsetUnit]}
    properties["truncation_direction"] = {
        "type": "string",
        "pattern": "^([Ll][Ee][Ff][Tt]|[Rr][Ii][Gg][Hh][Tt])$",
        "default": "Right",
    }
    answer = {"type": "array", "items": {"type": "array", "items": row}}
    predict = {
        "operationId": "predict_tokens",
        "summary": "Classify the tokens, or find the entities, of one or more texts",
        "parameters": [
            _header_parameter("Request-Timeout-Ms", "Milliseconds the answer may take"),
            _header_parameter(
                "Request-Deadline-Ms", "Unix time in milliseconds after which the answer is not wanted"
            ),
        ],
        "requestBody": {"required": True, "content": {kind: {"schema": request} for kind in _BODY_TYPES}},
        "responses": {
            "200": {
                "description": "One list per text, of one row per token or entity",
                "content": {kind: {"schema": answer} for kind in _BODY_TYPES},
            },
            **{
                status: {"description": text, "content": {wire.JSON_TYPE: {"schema": error}}}
                for status, text in _PREDICT_ERRORS.items()
            },
        },
    }
    unready = {"503": {"description": "Not ready", "content": {wire.JSON_TYPE: {"schema": error}}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nerve",
            "version": nerve.__version__,
            "description": "Token classification server",
        },
        "paths": {
            "/predict_tokens": {"post": predict},
            "/": {
                "get": _get("health_root", "Readiness", unready),
                "post": {**predict, "operationId": "predict_root"},
            },
            "/health": {"get": _get("health", "Readiness", unready)},
            "/health/live": {"get": _get("live", "Liveness")},
            "/health/ready": {"get": _get("ready", "Readiness", unready)},
            "/info": {"get": _get("info", "Model, limits and version", unready)},
            "/metrics": {"get": _get("metrics", "Prometheus text", content_type="text/plain")},
            "/openapi.json": {"get": _get("openapi", "This document")},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _get(
    name: str, summary: str, errors: dict[str, Any] | None = None, content_type: str = wire.JSON_TYPE
) -> dict[str, Any]:
    content = {content_type: {"schema": {"type": "string" if content_type == "text/plain" else "object"}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}, **(errors or {})},
    }


def _header_parameter(name: str, description: str) -> dict[str, Any]:
    return {
        "in": "header",
        "name": name,
        "description": description,
        "schema": {"type": "integer", "minimum": 0},
    }
