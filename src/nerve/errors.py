"""Every way a start-up or a request can fail.

Lowest layer: it imports nothing of `nerve` and knows nothing of HTTP; `responses` holds the one table
from these classes to status codes. Two families by who must act: a `StartupError` is for the
operator (the process exits non-zero and prints it), a `PredictError` for the client.

Messages say what was wrong and what to do. They never contain input text: they reach clients,
logs and metrics.
"""

from __future__ import annotations

import traceback


def stack_of(error: BaseException) -> str:
    """Render a defect for the log: its class and stack, but not its message, which could quote a text."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__qualname__}\n{stack}"


class NerveError(Exception):
    """Base of everything that `nerve` raises on purpose."""


class StartupError(NerveError):
    """The process cannot start; the operator must change something."""


class ConfigError(StartupError):
    """The configuration is wrong; the message names the path of the key."""


class CheckpointError(StartupError):
    """A checkpoint could not be brought here or is not complete."""


class ModelError(StartupError):
    """The parts of a model do not agree, or the model cannot run as asked."""


class PredictError(NerveError):
    """One request cannot be answered.

    reason: why, in one word for the metrics; one of `REASONS`.
    """

    reason = "internal_error"


class InvalidRequest(PredictError):
    """The request is well-formed but asks for something that is not possible.

    index: of the text that is at fault, where it is one of them; `message` says what it has, and its place, as the
    request's format names it, is put before that (`at`).
    """

    reason = "invalid"

    def __init__(self, message: str = "", index: int | None = None) -> None:
        super().__init__(message if index is None else f"inputs[{index}]: {message}")
        self.index = index
        self._message = message

    def at(self, place: str) -> InvalidRequest:
        """Return the same about a text at a place."""
        return InvalidRequest(f"{place}: {self._message}")


class MalformedRequest(PredictError):
    """The body cannot be decoded at all."""

    reason = "malformed"


class PayloadTooLarge(PredictError):
    """The body is larger than `limits.max_body_bytes`."""

    reason = "body_size"


class UnsupportedMediaType(PredictError):
    """The content type is neither JSON nor MessagePack."""

    reason = "media_type"


class UnsupportedEncoding(PredictError):
    """The body is compressed in a way that is not decoded."""

    reason = "encoding"


class Unauthorized(PredictError):
    """An API key is configured and the request does not carry it."""

    reason = "unauthorized"


class Overloaded(PredictError):
    """There is no room for the request now.

    `retry_after_seconds` is the time the queue needs to drain, at the measured rate. `reason` names the limit:
    one of `queue_tokens`, `queue_wait`, `queue_deadline`, `pool` and `pending_bytes`.
    """

    def __init__(self, message: str, retry_after_seconds: float, reason: str) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.reason = reason


class DeadlineExceeded(PredictError):
    """The deadline of the request passed before its answer was ready."""

    reason = "deadline"


class Unavailable(PredictError):
    """The server is starting, draining, or its device has failed."""

    reason = "unavailable"


class DeviceFailed(PredictError):
    """The device will not compute anything in this process any more; the process must end."""

    reason = "device_failed"


class InferenceFailed(PredictError):
    """A batch failed on the device; each of its requests gets its own instance."""

    reason = "inference_failed"


class ClientGone(PredictError):
    """The client left before its answer was ready; nobody reads what is raised here."""

    reason = "client_gone"


# Every `PredictError.reason`, and "internal_error" for what is none.
REASONS = (
    *("malformed", "invalid", "media_type", "encoding", "body_size", "unauthorized"),
    *("queue_tokens", "queue_wait", "queue_deadline", "pool", "pending_bytes", "deadline", "client_gone"),
    *("unavailable", "device_failed", "inference_failed", "internal_error"),
)
