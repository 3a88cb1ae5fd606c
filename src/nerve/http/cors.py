"""Lets pages of other origins call the API from a browser: `server.cors_origins`.

Origins are compared whole and never with credentials, so a page can use nothing but what its own code sends, an API
key among it. https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nerve.http.request import ForwardedRequest, Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nerve.http.request import Headers, Request

_METHODS = "GET, HEAD, POST"
# Beside what browsers show anyway.
_EXPOSED = "server-timing, x-request-id, x-compute-tokens, x-truncated, x-model, retry-after"
_PREFLIGHT_SECONDS = 600
# Names of headers (RFC 9110, 5.6.2), with commas.
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1000}")


class Cors:
    """The rule of one server.

    origins: exact ones, such as https://app.example.com.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    def wrap(self, request: Request) -> Request:
        """Return the request, made to say in its answer which origin may read it."""
        return _SharedRequest(request, self._allows(request))

    def preflight(self, request: Request, headers: Headers) -> Response | None:
        """Answer a browser that asks whether it may send a request; None for whatever is no such question.

        The answer to an origin that is not let in says nothing, which is no.
        """
        if request.method != "OPTIONS" or request.header("access-control-request-method") is None:
            return None
        if request.header("origin") is None:
            return None
        headers = [header for header in headers if header[0] != "content-type"]
        if self._allows(request) is not None:
            headers.append(("access-control-allow-methods", _METHODS))
            headers.append(("access-control-max-age", str(_PREFLIGHT_SECONDS)))
            asked = request.header("access-control-request-headers")
            if asked and _NAMES.fullmatch(asked):  # any: headers are the business of what reads them
                headers.append(("access-control-allow-headers", asked))
        return Response(204, headers, b"")

    def _allows(self, request: Request) -> str | None:
        origin = request.header("origin")
        return origin if origin in self._origins else None


class _SharedRequest(ForwardedRequest):
    __slots__ = ("_origin",)

    def __init__(self, request: Request, origin: str | None) -> None:
        super().__init__(request)
        self._origin = origin

    def respond(self, response: Response) -> None:
        headers = response.headers
        varies = [value for name, value in headers if name == "vary"]
        headers[:] = [header for header in headers if header[0] != "vary"]
        headers.append(("vary", ", ".join([*varies, "origin"])))
        if self._origin is not None:
            headers.append(("access-control-allow-origin", self._origin))
            headers.append(("access-control-expose-headers", _EXPOSED))
        super().respond(response)

    def answered(self, response: Response) -> None:
        """See `ForwardedRequest`; all is done before."""
