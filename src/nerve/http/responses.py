"""Answers that are no predictions: the one table from failures to statuses, and error bodies."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import msgspec

from nerve.endpoints.protocol import JSON_TYPE
from nerve.errors import (
    ClientGone,
    DeadlineExceeded,
    DeviceFailed,
    InferenceFailed,
    InvalidRequest,
    MalformedRequest,
    Overloaded,
    PayloadTooLarge,
    PredictError,
    Unauthorized,
    Unavailable,
    UnsupportedEncoding,
    UnsupportedMediaType,
    stack_of,
)
from nerve.http.gzip import ACCEPTED
from nerve.http.request import Headers, Response
from nerve.observability.defects import log_defect

if TYPE_CHECKING:
    from nerve.endpoints.protocol import ErrorForm

log = logging.getLogger(__name__)

# Class -> (status, error_type). A test walks the subclasses.
ERROR_TABLE: dict[type[PredictError], tuple[int, str]] = {
    MalformedRequest: (400, "Validation"),
    Unauthorized: (401, "Unauthorized"),
    PayloadTooLarge: (413, "PayloadTooLarge"),
    UnsupportedMediaType: (415, "UnsupportedMediaType"),
    UnsupportedEncoding: (415, "UnsupportedMediaType"),
    InvalidRequest: (422, "Validation"),
    Overloaded: (429, "Overloaded"),
    ClientGone: (499, "ClientGone"),  # nobody reads it; Nginx's number, for the metrics
    InferenceFailed: (500, "Backend"),
    DeviceFailed: (503, "Unhealthy"),
    Unavailable: (503, "Unhealthy"),
    DeadlineExceeded: (504, "DeadlineExceeded"),
}


class ErrorBody(msgspec.Struct, frozen=True):
    """Body of every answer that is not 200."""

    error: str
    error_type: str


def encode_json(value: object) -> bytes:
    """Encode an answer that is no prediction."""
    return msgspec.json.encode(value)


def error_response(
    error: BaseException, headers: Headers, request_id: str, form: ErrorForm | None = None
) -> Response:
    """Return the answer to a failed request; `headers` are those it has so far, content type first.

    form: how the request's format says no; None for the contract's own.

    Anything but a `PredictError` is a defect: fixed text outside, the stack in the log (without the message,
    which could quote the client's text). Never raises: whoever failed must be answered.
    """
    try:
        if isinstance(error, PredictError):
            return _refusal(error, headers, request_id, form)
        log.error("defect while answering a request: %s", stack_of(error), extra={"request_id": request_id})
    except Exception as defect:  # noqa: BLE001 - an error that cannot be told is a defect, too
        log_defect(defect, "in an answer that says no")
    return defect_response(headers, form)


def defect_response(headers: Headers, form: ErrorForm | None = None) -> Response:
    """Return the answer to a request that met a defect, whose details are in the log."""
    response = error_body(500, "Backend", "internal error; the server's log has the details", headers, form)
    response.rejection = PredictError.reason
    return response


def _refusal(error: PredictError, headers: Headers, request_id: str, form: ErrorForm | None) -> Response:
    if isinstance(error, (InferenceFailed, DeviceFailed)):
        log.error("the model failed on the request", extra={"request_id": request_id})
    # Another package may have made a class of its own of one of these.
    status, kind = next(ERROR_TABLE[known] for known in type(error).__mro__ if known in ERROR_TABLE)
    if isinstance(error, Overloaded):
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_seconds)))))
    elif isinstance(error, UnsupportedEncoding):
        headers.append(("accept-encoding", ACCEPTED))
    response = error_body(status, kind, str(error), headers, form)
    response.rejection = error.reason
    return response


def error_body(
    status: int, kind: str, message: str, headers: Headers, form: ErrorForm | None = None
) -> Response:
    """Return an answer that is not 200; status, kind: as the contract has them."""
    headers[0] = ("content-type", JSON_TYPE)
    if form is not None:
        return Response(form.status_of(status), headers, form.encode(message, kind))
    return Response(status, headers, encode_json(ErrorBody(error=message, error_type=kind)))
