"""The protocol that every wire format follows, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nerve.engine.codec import Codec

JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Description:
    """What the OpenAPI document says of an endpoint; the rest is the same for all.

    media_types: of requests and answers. request, answer: their JSON schemas, which may refer to `schemas` as
    `#/components/schemas/NAME`.
    """

    summary: str
    answer_text: str
    media_types: Sequence[str]
    request: Mapping[str, Any]
    answer: Mapping[str, Any]
    schemas: Mapping[str, Any] = field(default_factory=dict)


class Endpoint(Protocol):
    """One wire format."""

    @property
    def name(self) -> str:
        """Its name, as in `server.endpoints`."""

    @property
    def routes(self) -> Sequence[str]:
        """The paths that its clients post to."""

    def choose_codec(self, header: Callable[[str], str | None]) -> Codec:
        """Return what reads a request with these headers and writes its answer. Raises `UnsupportedMediaType`.

        header: gives the value of a header by its lower-case name.
        """

    def describe(self) -> Description:
        """Describe the format for the OpenAPI document."""
