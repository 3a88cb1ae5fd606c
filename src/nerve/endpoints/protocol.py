"""The protocol that every wire format follows, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nerve.engine.codec import Codec

    # Gives the value of a header by its lower-case name.
    Header = Callable[[str], str | None]

JSON_TYPE = "application/json"
# The text of examples.
EXAMPLE_TEXT = "Anna Maria lives in Paris."


@dataclass(frozen=True, slots=True)
class Description:
    """What the OpenAPI document says of a route that is posted to; the rest is the same for all.

    media_types: of requests and answers. request, answer: their JSON schemas, which may refer to `schemas` as
    `#/components/schemas/NAME`. parameters: OpenAPI parameters beside the headers that every route knows. examples:
    bodies, by what they show; every model answers them.
    """

    summary: str
    answer_text: str
    media_types: Sequence[str]
    request: Mapping[str, Any]
    answer: Mapping[str, Any]
    schemas: Mapping[str, Any] = field(default_factory=dict)
    parameters: Sequence[Mapping[str, Any]] = ()
    examples: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """How a format says no.

    encode: gives the body, JSON, of a message and of an `error_type` of the contract. schema: that body's.
    statuses: of the contract -> of the format, where the two differ.
    """

    encode: Callable[[str, str], bytes]
    schema: Mapping[str, Any]
    statuses: Mapping[int, int] = field(default_factory=dict)

    def status_of(self, status: int) -> int:
        """Return the format's status for one of the contract's."""
        return self.statuses.get(status, status)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an answer may say of the model that is served. tags: the kinds of entities that it finds."""

    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PostRoute:
    """A path that texts are posted to.

    choose_codec: returns what reads a request with these headers and writes its answer; raises
        `UnsupportedMediaType`.
    errors: how it says no; None for the contract's own form.
    endpoint: filled in by the table of endpoints, as `GetRoute.endpoint` is.
    """

    path: str
    choose_codec: Callable[[Header], Codec]
    describe: Callable[[], Description]
    errors: ErrorForm | None = None
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class GetRoute:
    """A path that is got: a probe, or what the format tells of the model.

    body: JSON, empty, or what makes it of the model; that needs `when_ready`.
    schema: of the body; None where it is empty.
    is_health: it says no more than that the server is well, so that no API key is needed.
    when_ready: until the server is ready, 503 is the answer.
    """

    path: str
    summary: str
    body: bytes | Callable[[ModelFacts], bytes]
    schema: Mapping[str, Any] | None
    is_health: bool = False
    when_ready: bool = True
    errors: ErrorForm | None = None
    endpoint: str = ""


class Endpoint(Protocol):
    """One wire format.

    `routes` are its paths. One that is a string is posted to, and stands for a `PostRoute` of `choose_codec` and
    `describe`; only an endpoint with such a path needs these two.
    """

    @property
    def name(self) -> str:
        """Its name, as in `server.endpoints`."""

    @property
    def routes(self) -> Sequence[str | PostRoute | GetRoute]:
        """What its clients ask for."""


class SimpleEndpoint(Endpoint, Protocol):
    """A wire format whose paths are all posted to, and mean the same."""

    def choose_codec(self, header: Header) -> Codec:
        """Return what reads a request with these headers and writes its answer. Raises `UnsupportedMediaType`."""

    def describe(self) -> Description:
        """Describe the format for the OpenAPI document."""
