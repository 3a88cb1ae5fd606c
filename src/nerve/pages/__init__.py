"""The pages for people: the playground and the description of the API, with the headers that keep them to themselves.

A page is put together from the files beside this module, once, when the server starts: styles and scripts stand in
it, and its content security policy names them by their hash, so that a browser runs nothing else and talks to
nobody else. Pages hold no data: they ask the API as any client does, with a key if need be.

Files of others are stored compressed; `api/README.md` says whose they are.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from nerve.accept import read_choices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    # Gives the value of a header by its lower-case name.
    Header = Callable[[str], str | None]

_HTML = "text/html; charset=utf-8"
# Of the playground, in the order in which one needs the other.
_PLAYGROUND_SCRIPTS = ("examples.js", "calls.js", "marks.js", "snippets.js", "views.js", "main.js")
# Path -> file, content type.
_SWAGGER_UI = {
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js.gz", "text/javascript; charset=utf-8"),
    "/docs/swagger-ui.css": ("swagger-ui.css.gz", "text/css; charset=utf-8"),
}
PLAYGROUND, DOCS = "/", "/docs"
# What is served where pages are, beside the playground, which shares its path with the health check.
PATHS = (DOCS, *_SWAGGER_UI)

_COMMON = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex",
    "cache-control": "no-cache",  # kept, but asked for again: a new version of the server has new pages
}


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """What is answered: status, headers without content type, content type, body."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    body: bytes


class _File:
    """Something that is served as it is.

    is_gzip: `body` is compressed. headers: beside those that all have.
    """

    def __init__(
        self, body: bytes, content_type: str, headers: Mapping[str, str], *, is_gzip: bool = False
    ) -> None:
        self._body = body
        self._content_type = content_type
        self._is_gzip = is_gzip
        self._headers = {**_COMMON, **headers, "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'}

    def answer(self, header: Header) -> PageAnswer:
        """Answer a request; 304 where the client has it already (RFC 9110, 13.1.2)."""
        if _has_it(header("if-none-match"), self._headers["etag"]):
            return PageAnswer(304, self._headers, self._content_type, b"")
        if not self._is_gzip:
            return PageAnswer(200, self._headers, self._content_type, self._body)
        if _takes_gzip(header("accept-encoding")):
            headers = {**self._headers, "content-encoding": "gzip"}
            return PageAnswer(200, headers, self._content_type, self._body)
        plain = {name: value for name, value in self._headers.items() if name != "etag"}
        return PageAnswer(200, plain, self._content_type, gzip.decompress(self._body))


class Pages:
    """All pages, by path."""

    def __init__(self) -> None:
        # A page may talk to its own origin only, and nothing of another origin may be in it or around it.
        playground = _page("playground", _PLAYGROUND_SCRIPTS, "{hash}", "require-trusted-types-for 'script'")
        self._files = {
            PLAYGROUND: playground,
            # Swagger UI sets styles of elements, and draws its icons from addresses that hold them.
            DOCS: _page("api", ("main.js",), "{hash} 'self'"),
            **{
                path: _File(_read("api", name), kind, {"vary": "accept-encoding"}, is_gzip=True)
                for path, (name, kind) in _SWAGGER_UI.items()
            },
        }

    def answer(self, path: str, header: Header) -> PageAnswer:
        """Answer a request for a page: `PLAYGROUND`, or one of `PATHS`."""
        return self._files[path].answer(header)


def wants_html(accept: str | None) -> bool:
    """Tell whether a client names `text/html` before anything else, or with the highest q, as browsers do."""
    best, first = 0.0, ""
    for media_type, quality in read_choices(accept or ""):
        if quality > best:
            best, first = quality, media_type
    return first == "text/html"


def _page(folder: str, scripts: tuple[str, ...], sources: str, *more: str) -> _File:
    """Put a page together.

    sources: of styles and scripts; `{hash}` stands for the page's own. more: directives of the policy.
    """
    style = _read(folder, "style.css").decode()
    script = "\n".join(_read(folder, name).decode() for name in scripts)
    script = f'\n(() => {{\n"use strict";\n{script}}})();\n'
    page = _read(folder, "page.html").decode().replace("{{style}}", style).replace("{{script}}", script)
    directives = (
        "default-src 'none'",
        f"script-src {sources.format(hash=_hash(script))}",
        f"style-src {sources.format(hash=_hash(style))}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        *more,
    )
    headers = {"content-security-policy": "; ".join(directives), "vary": "accept"}
    return _File(page.encode(), _HTML, headers)


def _read(folder: str, name: str) -> bytes:
    return (files(__name__) / folder / name).read_bytes()


def _hash(text: str) -> str:
    """Return a source expression for an inline style or script (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _has_it(if_none_match: str | None, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return bool(tags & {"*", etag})


def _takes_gzip(accept_encoding: str | None) -> bool:
    for coding, quality in read_choices(accept_encoding or ""):
        if coding in ("gzip", "*"):
            return quality > 0
    return False
