"""A running server as a source of predictions, for `nerve verify --url`; needs the standard library only."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from nerve.errors import NerveError
from nerve.types import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

# Texts of one request; fewer where the server's limits.max_inputs asks for it.
_TEXTS_PER_REQUEST = 32


class RemoteError(NerveError):
    """The server cannot be reached, or does not answer as nerve does."""


class Limits(msgspec.Struct):
    """The limits of `/info` that matter here."""

    max_inputs: int


class Info(msgspec.Struct):
    """The part of `/info` that matters here."""

    model_id: str
    dtype: str
    provider: str
    id2label: dict[str, str]
    max_length: int
    entity_labels: list[str]
    limits: Limits
    window_tokens: int | None = None  # of a server before 0.2: its `max_length` is that of a window


class RemoteClassifier:
    """Predictions of a server, one request after the other."""

    def __init__(self, url: str, api_key: str | None, timeout: float = 60) -> None:
        if not url.startswith(("http://", "https://")):
            raise RemoteError(
                f"--url must start with http:// or https://, as http://localhost:8000; it is {url}"
            )
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout = timeout
        self.info = self._decode(self._send("/info", None), Info)

    def predict_many(self, texts: Sequence[str], aggregation_strategy: str) -> Iterator[list[Row]]:
        """Yield the rows of each text, in order. Raises `RemoteError`."""
        remaining = iter(texts)
        size = min(_TEXTS_PER_REQUEST, self.info.limits.max_inputs)
        while chunk := list(islice(remaining, size)):
            # Every option that a configuration can set is sent, so that none of its defaults matters.
            body: dict[str, Any] = {
                "inputs": chunk,
                "aggregation_strategy": aggregation_strategy,
                "truncate": False,
                "raw_scores": False,
                "offset_unit": "code_point",
            }
            if aggregation_strategy != "none":
                body |= {"labels": self.info.entity_labels, "min_score": 0}
            yield from self._decode(self._send("/predict_tokens", msgspec.json.encode(body)), list[list[Row]])

    def _send(self, path: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(self._url + path, body, self._headers)  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                raise RemoteError(
                    f"{self._url}{path} answered {error.code}: {_reason(error.read())}"
                ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise RemoteError(f"cannot reach {self._url}: {reason}; is the server running?") from error

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise RemoteError(f"{self._url} does not answer as nerve does: {error}") from None


def _reason(body: bytes) -> str:
    """Return the message of an error body."""
    try:
        content: Any = msgspec.json.decode(body)
        return str(content["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no reason given"
