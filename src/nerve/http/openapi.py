"""Builds the OpenAPI 3.1 document: bodies as the endpoints describe them, the rest as `app` answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

import nerve
from nerve.endpoints.protocol import JSON_TYPE
from nerve.http.responses import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.endpoints import Served
    from nerve.endpoints.protocol import ErrorForm, GetRoute, PostRoute

_REF = "#/components/schemas/{name}"
_PREDICT_ERRORS = {
    "400": "The body is not of the content type, or is cut short",
    "413": "The body, decoded, is above limits.max_body_bytes",
    "415": "The content type is none of those listed, or the content encoding neither gzip nor identity",
    "422": "Wrong types, unknown fields, or a limit is exceeded",
    "429": "Too much waits, and the error says what; retry-after says when to try again",
    "500": "A defect of the server",
    "503": "The server is starting or shutting down, or its device failed",
    "504": "The deadline passed before the answer was ready",
}
# Any of these carries the key.
_KEYS = {
    "key": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_UNAUTHORIZED = {"401": "The API key is missing or wrong"}
_UNREADY = {"503": "The server is starting or shutting down, or its device failed"}
_DEFECT = {"500": "A defect of the server"}
_MAX_HEADER_MILLISECONDS = 10**15 - 1
_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}
_PAGE, _HTML_TYPE = {"type": "string", "description": "A page for people"}, "text/html"


def build_openapi(
    endpoints: Mapping[str, Served], *, needs_key: bool, has_pages: bool = False
) -> dict[str, Any]:
    """Return the document.

    endpoints: what they serve, by path, `/` among them. needs_key: clients must send an API key. has_pages: browsers
    are shown pages.
    """
    (error,), schemas = msgspec.json.schema_components([ErrorBody], ref_template=_REF)
    keyed = _UNAUTHORIZED if needs_key else {}
    paths: dict[str, dict[str, Any]] = {}
    for path, here in endpoints.items():
        operations = paths.setdefault(path, {})
        if here.post is not None:
            schemas |= here.post.describe().schemas
            operations["post"] = _post(here.post, error, keyed, needs_key)
        if here.get is not None:
            operations |= _get_of(here.get, error, keyed, needs_key)
    fixed = {
        "/": _get("health_root", "Readiness", _STATUS, error, _UNREADY),
        "/health": _get("health", "Readiness", _STATUS, error, _UNREADY),
        "/health/live": _get("live", "Liveness", _STATUS, error),
        "/health/ready": _get("ready", "Readiness", _STATUS, error, _UNREADY),
        "/info": _get(
            "info", "Model, limits and version", _INFO, error, {**_UNREADY, **keyed}, _security(needs_key)
        ),
        "/metrics": _get("metrics", "Prometheus text", _STRING, error),
        "/openapi.json": _get(
            "openapi", "This document", {"type": "object"}, error, keyed, _security(needs_key)
        ),
    }
    if has_pages:
        fixed["/docs"] = _get("docs", "This document, as a page", _PAGE, error)
        fixed["/"]["get"]["responses"]["200"]["headers"] = {**_ID_HEADER, **_VARY_HEADER}
        content = fixed["/"]["get"]["responses"]["200"]["content"]
        content[_HTML_TYPE] = {"schema": _PAGE}  # to whoever names it first in `accept`
    for route, operations in fixed.items():
        paths[route] = {**paths.get(route, {}), **operations}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nerve",
            "version": nerve.__version__,
            "description": "Token classification server",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            **({"securitySchemes": _KEYS} if needs_key else {}),
        },
    }


def _name_of(path: str) -> str:
    """Return the operation id of a path."""
    return re.sub(r"\W+", "_", path.strip("/")) or "predict_root"


def _post(route: PostRoute, error: dict[str, Any], keyed: dict[str, str], needs_key: bool) -> dict[str, Any]:
    """Return the POST operation of an endpoint's route."""
    found = route.describe()
    errors = _in_form({**_PREDICT_ERRORS, **keyed}, route.errors)
    bodies = {name: {"value": body} for name, body in found.examples.items()}
    examples = {"examples": bodies} if bodies else {}
    operation = {
        "operationId": _name_of(route.path),
        "tags": [route.endpoint],
        "summary": found.summary,
        "parameters": [*_ID_PARAMETERS, *_DEADLINE_PARAMETERS, *found.parameters],
        "requestBody": {
            "description": "With content-encoding: gzip it is decoded",
            "required": True,
            "content": {kind: {"schema": found.request, **examples} for kind in found.media_types},
        },
        "responses": {
            "200": {
                "description": found.answer_text,
                "headers": {**_ID_HEADER, **_NO_STORE_HEADER, **_PREDICTION_HEADERS},
                "content": {kind: {"schema": found.answer} for kind in found.media_types},
            },
            **_errors(errors, _schema_of(route.errors, error), {**_ID_HEADER, **_NO_STORE_HEADER}),
        },
        **_security(needs_key),
    }
    responses = operation["responses"]
    responses[_status_in(route.errors, "429")]["headers"] |= _RETRY_HEADER
    responses[_status_in(route.errors, "415")]["headers"] |= _ENCODING_HEADER
    return operation


def _get_of(route: GetRoute, error: dict[str, Any], keyed: dict[str, str], needs_key: bool) -> dict[str, Any]:
    """Return the operations of what an endpoint has to be got."""
    is_keyed = needs_key and not route.is_health
    errors = {**(_UNREADY if route.when_ready else {}), **(keyed if is_keyed else {})}
    name = f"get_{_name_of(route.path)}"
    form = _schema_of(route.errors, error)
    found = _get(
        name,
        route.summary,
        route.schema,
        form,
        _in_form(errors, route.errors),
        _security(is_keyed),
    )
    return {method: {**operation, "tags": [route.endpoint]} for method, operation in found.items()}


def _status_in(form: ErrorForm | None, status: str) -> str:
    return status if form is None else str(form.status_of(int(status)))


def _schema_of(form: ErrorForm | None, error: dict[str, Any]) -> dict[str, Any]:
    return error if form is None else dict(form.schema)


def _in_form(texts: dict[str, str], form: ErrorForm | None) -> dict[str, str]:
    """Put the statuses of a format in place of the contract's; what shares one then is told together."""
    found: dict[str, str] = {}
    for status, text in texts.items():
        there = _status_in(form, status)
        found[there] = f"{found[there]}. {text}" if there in found else text
    return found


def _get(
    name: str,
    summary: str,
    schema: Mapping[str, Any] | None,
    error: dict[str, Any],
    errors: dict[str, str] | None = None,
    security: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the GET and HEAD operations of a route."""
    kind = "text/plain" if schema is _STRING else _HTML_TYPE if schema is _PAGE else JSON_TYPE
    content = {} if schema is None else {"content": {kind: {"schema": dict(schema)}}}
    found = {"description": summary, "headers": _ID_HEADER}
    failed = _errors({**_DEFECT, **(errors or {})}, error, _ID_HEADER)
    common = {"summary": summary, "parameters": _ID_PARAMETERS, **(security or {})}
    bare = {
        status: {key: value for key, value in each.items() if key != "content"}
        for status, each in failed.items()
    }
    return {
        "get": {
            **common,
            "operationId": name,
            "responses": {"200": {**found, **content}, **failed},
        },
        "head": {**common, "operationId": f"{name}_head", "responses": {"200": found, **bare}},
    }


def _errors(texts: dict[str, str], error: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    return {
        status: {
            "description": text,
            "headers": dict(headers),
            "content": {JSON_TYPE: {"schema": error}},
        }
        for status, text in texts.items()
    }


def _security(needs_key: bool) -> dict[str, Any]:
    return {"security": [{name: []} for name in _KEYS]} if needs_key else {}


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"in": "header", "name": name, "description": description, "schema": schema}


def _header(description: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"description": description, "schema": schema, "required": required}


_MILLISECONDS = {**_INTEGER, "minimum": 0, "maximum": _MAX_HEADER_MILLISECONDS}
_DEADLINE_PARAMETERS = [
    _parameter(
        "Request-Timeout-Ms",
        "Milliseconds the answer may take, instead of the server's default; up to limits.max_request_timeout_ms",
        _MILLISECONDS,
    ),
    _parameter(
        "Request-Deadline-Ms", "Unix time in milliseconds after which the answer is not wanted", _MILLISECONDS
    ),
]
_ID_PARAMETERS = [_parameter("X-Request-Id", "Id of the request; one is made where it is missing", _STRING)]
_ID_HEADER = {"x-request-id": _header("Id of the request", _STRING)}
_VARY_HEADER = {"vary": _header("What the answer depends on", _STRING, required=False)}
_NO_STORE_HEADER = {"cache-control": _header("Caches must not keep the answer", {"const": "no-store"})}
_RETRY_HEADER = {"retry-after": _header("Seconds until the queue has drained", {**_INTEGER, "minimum": 1})}
_ENCODING_HEADER = {"accept-encoding": _header("What may be sent instead", _STRING, required=False)}
_PREDICTION_HEADERS = {
    "server-timing": _header("Milliseconds of tokenize, queue, inference and total", _STRING),
    "x-model": _header("NAME@REVISION of the model that answered", _STRING),
    "x-compute-tokens": _header("Tokens computed", {**_INTEGER, "minimum": 0}),
    "x-truncated": _header("Indexes of the texts that were cut", _STRING, required=False),
}
_STATUS = {"type": "object", "properties": {"status": _STRING}, "required": ["status"]}
_INFO = {
    "type": "object",
    "properties": {
        "version": _STRING,
        "model_name": _STRING,
        "model_id": _STRING,
        "revision": _STRING,
        "dtype": _STRING,
        "provider": _STRING,
        "id2label": {"type": "object", "additionalProperties": _STRING},
        "label_scheme": _STRING,
        "entity_labels": {"type": "array", "items": _STRING},
        "entity_strategy": _STRING,
        "patterns": {"type": "array", "items": _STRING},
        "max_length": _INTEGER,
        "max_length_from": _STRING,
        "window_tokens": _INTEGER,
        "window_tokens_from": _STRING,
        "limits": {"type": "object"},
    },
    "required": [
        *("version", "model_name", "model_id", "revision", "dtype", "provider", "id2label"),
        *("max_length", "window_tokens", "limits"),
    ],
}
