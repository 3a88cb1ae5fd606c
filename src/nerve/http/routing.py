"""Which path is whose: the server's own, and those of endpoints. What requests are counted and logged by.

A path is the client's, and may hold anything; what leaves this module is a path that is served, or `unknown`.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import TYPE_CHECKING

from nerve.http.responses import error_body
from nerve.pages import PATHS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from nerve.endpoints import Served
    from nerve.endpoints.protocol import ErrorForm, GetRoute
    from nerve.http.request import Headers, Response

    Get = Callable[[Headers], Response]

_GET_ROUTES = (
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/info",
    "/metrics",
    "/openapi.json",
    *PATHS,
)
# Routes that answer without an API key, and who asks there without one; those of endpoints that are probes as well.
# All else wants it, be it a route or not; so does whatever is posted.
OPEN_ROUTES = {
    "/": "probes",
    "/health": "probes",
    "/health/live": "probes",
    "/health/ready": "probes",
    "/metrics": "scrapes",
}
_UNKNOWN = "unknown"
# Letters of a path that are compared with those that are served.
_LONGEST = 100
# How like a path must be to be taken for it; difflib.SequenceMatcher.ratio().
_LIKENESS = 0.7
_SERVER, _NONE = "server", "none"  # stand for an endpoint where requests are counted


def routes_of(endpoints: Mapping[str, Served]) -> list[tuple[str, str]]:
    """Return what requests are counted by: each endpoint with each of its routes; `server` and `none` stand for one."""
    routes = [route for here in endpoints.values() for route in (here.post, here.get) if route is not None]
    counted = [
        *((_SERVER, path) for path in _GET_ROUTES),
        *((route.endpoint, route.path) for route in routes),
        (_NONE, _UNKNOWN),
    ]
    return list(dict.fromkeys(counted))


class Routing:
    """The table of all paths.

    endpoints: what they serve, by path. own: what the server itself answers to GET; it goes before what an endpoint
    has at the same path, which is a probe, too. answer: answers what an endpoint has. pages: paths of pages for people,
    which `App` answers.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Served],
        own: Mapping[str, Get],
        answer: Callable[[GetRoute, Headers], Response],
        pages: Collection[str] = (),
    ) -> None:
        self.posts = {path: here.post for path, here in endpoints.items() if here.post is not None}
        self.gets = dict(own)
        self._open = set(OPEN_ROUTES)
        self._foreign: dict[str, GetRoute] = {}
        for path, here in endpoints.items():
            if here.get is not None and path not in own and path not in pages:
                self._foreign[path] = here.get
                self.gets[path] = partial(answer, here.get)
                if here.get.is_health:
                    self._open.add(path)
        self._got = {*self.gets, *pages}
        self._open.update(pages)

    def is_open(self, path: str) -> bool:
        """Tell whether a path that is not posted to needs no API key."""
        return path in self._open

    def route_of(self, path: str) -> str:
        """Return the route of a path, `unknown` for any that is none."""
        return path if path in self._got or path in self.posts else _UNKNOWN

    def counted_as(self, method: str, path: str) -> tuple[str, str]:
        """Return the endpoint and the route that a request is counted by; one of `routes_of`."""
        post = self.posts.get(path)
        if post is not None and (method == "POST" or path not in self._got):
            return post.endpoint, path
        if path in self._got:
            get = self._foreign.get(path)
            return (_SERVER if get is None else get.endpoint), path
        return _NONE, _UNKNOWN

    def errors_of(self, method: str, path: str) -> ErrorForm | None:
        """Return how the format of a request says no; None for the contract's own form."""
        route = (self.posts.get(path) if method == "POST" else None) or self._foreign.get(path)
        route = route or (None if path in self._got else self.posts.get(path))
        return None if route is None else route.errors

    def _near(self, path: str) -> str:
        """Return what a client may have meant; the path itself is not told."""
        found = difflib.get_close_matches(path[:_LONGEST], [*self.posts, *self._got], n=1, cutoff=_LIKENESS)
        if found:
            methods = "POST" if found[0] in self.posts else "GET"
            return f"did you mean {methods} {found[0]}? All routes are in GET /openapi.json"
        routes = ", ".join(f"POST {route}" for route in self.posts if route != "/")
        return f"predictions are at {routes}; all routes are in GET /openapi.json"

    def refuse(self, method: str, path: str, headers: Headers) -> Response:
        """Answer a request that asks for nothing that is here."""
        allowed = [
            *(["GET", "HEAD"] if path in self._got else []),
            *(["POST"] if path in self.posts else []),
        ]
        if not allowed:
            return error_body(404, "NotFound", f"no such route; {self._near(path)}", headers)
        names = ", ".join(allowed)
        headers.append(("allow", names))
        errors = self.errors_of(method, path)
        return error_body(405, "MethodNotAllowed", f"{path} takes {names}", headers, errors)
