"""A running server answers: `--url` of `nerve predict`, `redact` and `verify`. Needs the standard library only."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from nerve.corpus.answers import Facts
from nerve.corpus.batches import batches_of, in_order
from nerve.corpus.records import Answer, Refused
from nerve.errors import NerveError
from nerve.text.redaction import Redacted
from nerve.types import Row

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from nerve.corpus.answers import Task

T = TypeVar("T")

# Texts, and about most characters, of one request; fewer where the server's limits.max_inputs asks for it.
_TEXTS_PER_REQUEST = 32
_CHARACTERS_PER_REQUEST = 32_000
# Requests at once: enough to keep a server busy that has many cores, few enough that its queue takes them.
_CONNECTIONS = 8
# How long a server that is full, starts, or is away for a moment is asked again.
_PATIENCE_SECONDS = 300.0
_LATER = frozenset((408, 429, 502, 503, 504))
_MOST_PAUSE_SECONDS = 10.0


class RemoteError(NerveError):
    """The server cannot be reached, or does not answer as nerve does."""


class Limits(msgspec.Struct):
    """The limits of `/info` that matter here."""

    max_inputs: int
    max_body_bytes: int | None = None


class Info(msgspec.Struct):
    """The part of `/info` that matters here."""

    model_id: str
    dtype: str
    provider: str
    id2label: dict[str, str]
    max_length: int
    entity_labels: list[str]
    limits: Limits
    entity_strategy: str = "simple"  # of a server before 0.2
    window_tokens: int | None = None  # of a server before 0.2: its `max_length` is that of a window


class ServerRefusal(RemoteError):
    """The server will never answer these texts."""


class RemoteClassifier:
    """Predictions of a server. Raises `RemoteError`, as all methods do, where it cannot be reached."""

    def __init__(self, url: str, api_key: str | None, timeout: float = 60) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RemoteError(f"--url is {url}; write it with http:// or https://, as http://localhost:8000")
        self._url = url.rstrip("/")
        self._parts = parts
        self._path = parts.path.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout = timeout
        self._local = threading.local()
        self.info = self._decode(self._send("/info", None), Info)

    @property
    def facts(self) -> Facts:
        """What the model says of itself."""
        info = self.info
        return Facts(info.model_id, info.entity_strategy, [*info.id2label.values()], info.entity_labels)

    def predict_many(self, texts: Sequence[str], aggregation_strategy: str) -> Iterator[list[Row]]:
        """Yield the rows of each text, in order, one request after the other."""
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

    def answer(self, task: Task, texts: Iterable[str]) -> Generator[Answer | Refused, None, None]:
        """Answer every text, in order, with several requests at once."""
        size = min(_TEXTS_PER_REQUEST, self.info.limits.max_inputs)
        with ThreadPoolExecutor(_CONNECTIONS, "nerve-request") as pool:
            batches = batches_of(texts, size, _CHARACTERS_PER_REQUEST)
            yield from in_order(
                batches, lambda batch: pool.submit(self._answer, task, batch), lambda: 2 * _CONNECTIONS
            )

    def _answer(self, task: Task, texts: list[str]) -> list[Answer | Refused]:
        """Answer a batch; where the server refuses it, find out by halves which texts it means."""
        body = msgspec.json.encode({"inputs": texts, **task.choices})
        try:
            most = self.info.limits.max_body_bytes
            if most is not None and len(body) > most:
                raise ServerRefusal(f"above the server's limits.max_body_bytes = {most}; send it in parts")
            if task.redacts:
                redacted = self._decode(self._send_patiently("/redact", body), list[Redacted])
                return [Answer(one.text, one.items) for one in redacted]
            rows = self._decode(self._send_patiently("/predict_tokens", body), list[list[Row]])
            return [Answer(None, some) for some in rows]
        except ServerRefusal as error:
            if len(texts) == 1:
                return [Refused(str(error))]
        half = len(texts) // 2
        return [*self._answer(task, texts[:half]), *self._answer(task, texts[half:])]

    def _send_patiently(self, path: str, body: bytes) -> bytes:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        pause = 0.25
        while True:
            try:
                return self._send(path, body)
            except _Later as error:
                pause = min(_MOST_PAUSE_SECONDS, max(2 * pause, error.seconds))
                if time.monotonic() + pause > give_up:
                    raise RemoteError(str(error)) from None
                time.sleep(pause)

    def _send(self, path: str, body: bytes | None) -> bytes:
        connection = self._connection()
        try:
            connection.request("GET" if body is None else "POST", self._path + path, body, self._headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            reason = getattr(error, "strerror", None) or error
            raise _Later(
                f"cannot reach {self._url}: {reason}; check the address, and that `nerve serve` runs there",
                1.0,
            ) from error
        if response.status == 200:
            return content
        said = f"{self._url}{path} answered {response.status}: {_reason(content)}"
        if response.status in _LATER:
            wait = response.headers.get("retry-after", "")
            raise _Later(said, float(wait) if wait.isdigit() else 0.0)
        reason = _reason(content)
        if response.status == 413 or (response.status == 422 and reason.startswith("inputs")):
            raise ServerRefusal(reason.partition(": ")[2] or reason)
        raise RemoteError(said)

    def _connection(self) -> http.client.HTTPConnection:
        """Return the connection of this thread; it opens itself again when it was closed."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            is_safe = self._parts.scheme == "https"
            kind = http.client.HTTPSConnection if is_safe else http.client.HTTPConnection
            connection = self._local.connection = kind(
                self._parts.hostname or "", self._parts.port, timeout=self._timeout
            )
        return connection

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise RemoteError(f"{self._url} does not answer as nerve does: {error}; check --url") from None


class _Later(RemoteError):
    """The server does not answer now; seconds: how long it wants to be left alone."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


def _reason(body: bytes) -> str:
    """Return the message of an error body."""
    try:
        content: Any = msgspec.json.decode(body)
        return str(content["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no reason given"
