from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

import pytest

from nerve.pages import PATHS, PLAYGROUND, Pages, wants_html

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "src/nerve/pages"
MOST_BYTES = 100_000
MOST_LINES = 400
SHOWN = [PLAYGROUND, "/docs"]


def get(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Answer a request with these headers."""
    answer = Pages().answer(path, lambda name: headers.get(name.replace("-", "_")))
    return answer.status, {**answer.headers, "content-type": answer.content_type}, answer.body


class Reader(HTMLParser):
    """Collects what a page runs and refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note addresses and handlers."""
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href", "action", "srcset") if name in given]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self._within = tag if tag in self.inline and "src" not in given else ""

    def handle_data(self, data: str) -> None:
        """Keep what stands within a style or script."""
        if self._within:
            self.inline[self._within].append(data)

    def handle_endtag(self, tag: str) -> None:
        """End a style or script."""
        self._within = ""


def policy_of(headers: dict[str, str]) -> dict[str, list[str]]:
    """Return the directives of a content security policy."""
    parts = (part.split() for part in headers["content-security-policy"].split(";"))
    return {name: values for name, *values in parts}


@pytest.mark.parametrize("path", SHOWN)
def test_policy_names_what_stands_in_the_page_and_nothing_else(path: str) -> None:
    """A browser runs what the hashes cover; the hash is of the very bytes between the tags."""
    status, headers, body = get(path)
    policy, found = policy_of(headers), Reader(body.decode())
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    for kind in ("style", "script"):
        (text,) = found.inline[kind]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        own = ["'self'"] if path == "/docs" else []
        assert policy[f"{kind}-src"] == [f"'sha256-{digest}'", *own]
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    assert not found.handlers, "what stands in an attribute is not run"


@pytest.mark.parametrize("path", [PLAYGROUND, *PATHS])
def test_headers_of_every_file(path: str) -> None:
    """No file is guessed at, tells where its reader comes from, or is kept without a question."""
    _, headers, _ = get(path)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-robots-tag"] == "noindex"


@pytest.mark.parametrize("path", SHOWN)
def test_addresses_are_relative(path: str) -> None:
    """Pages work behind any prefix, and without any other server."""
    _, _, body = get(path)
    for address in Reader(body.decode()).addresses:
        assert address.startswith("data:") or re.fullmatch(r"\./|[a-z][a-z/.-]*", address), address


def test_playground_is_small_and_needs_no_other_file() -> None:
    """Less than 100 kB; nothing is loaded beside it."""
    _, _, body = get(PLAYGROUND)
    assert len(body) < MOST_BYTES
    assert Reader(body.decode()).addresses[1:] == ["docs", "docs"]  # after its icon: links to the other page
    script = "".join(Reader(body.decode()).inline["script"])
    for forbidden in ("localStorage", "sessionStorage", "indexedDB", "document.cookie", "innerHTML", "eval("):
        assert forbidden not in script


@pytest.mark.parametrize("path", [PLAYGROUND, *PATHS])
def test_what_a_client_has_is_not_sent_again(path: str) -> None:
    """304 for the tag that was given, in any of its forms; the whole file for any other."""
    _, headers, body = get(path, accept_encoding="gzip")
    tag = headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        status, again, nothing = get(path, if_none_match=known)
        assert (status, nothing) == (304, b"")
        assert again["etag"] == tag
    assert get(path, if_none_match='"other"', accept_encoding="gzip")[2] == body


@pytest.mark.parametrize("path", PATHS[1:])
@pytest.mark.parametrize(
    ("accepted", "is_gzip"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("br", False),
    ],
)
def test_files_are_sent_compressed_to_whoever_takes_it(path: str, accepted: str, is_gzip: bool) -> None:
    """The plain file is the same; a cache is told that the two differ."""
    _, headers, body = get(path, accept_encoding=accepted)
    assert (headers.get("content-encoding") == "gzip") is is_gzip
    assert headers["vary"] == "accept-encoding"
    plain = get(path)[2]
    assert (gzip.decompress(body) if is_gzip else body) == plain


def test_files_of_others_are_unchanged() -> None:
    """What is vendored is what was published, and its licences stand beside it."""
    sums = dict(re.findall(r"\| `([\w.-]+)` \| `(\w{64})` \|", (FOLDER / "api/README.md").read_text()))
    assert sorted(sums) == ["swagger-ui-bundle.js", "swagger-ui.css"]
    for name, expected in sums.items():
        compressed = (FOLDER / f"api/{name}.gz").read_bytes()
        assert hashlib.sha256(gzip.decompress(compressed)).hexdigest() == expected
    assert "Apache License" in (FOLDER / "api/swagger-ui.LICENSE").read_text()


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),  # browsers
        ("TEXT/HTML", True),
        ("application/json;q=0.5, text/html", True),
        ("text/html;charset=utf-8;q=0.9, application/json;q=0.8", True),
        (None, False),
        ("", False),
        ("*/*", False),  # curl, probes
        ("application/json, text/html", False),
        ("text/html;q=0.8, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=much", False),
        ("text/*", False),
        ("application/json, text/plain, */*", False),
    ],
)
def test_who_is_shown_the_page(accept: str | None, is_page: bool) -> None:
    """Only who names text/html before all else: probes must go on getting the health check."""
    assert wants_html(accept) is is_page


def test_sources_stay_readable() -> None:
    """Scripts and styles keep to the length of other modules, and say what they are for."""
    for path in FOLDER.glob("*/*"):
        if path.suffix in (".js", ".css", ".html"):
            assert len(path.read_text().splitlines()) <= MOST_LINES, path
        if path.suffix == ".js":
            assert path.read_text().startswith("// "), path


def test_package_holds_every_file() -> None:
    """What the server reads comes with the installed package."""
    patterns = re.search(r"^nerve = (\[.*\])$", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert patterns is not None
    packaged = {
        path for pattern in json.loads(patterns[1]) for path in (REPOSITORY / "src/nerve").glob(pattern)
    }
    assert {path for path in FOLDER.glob("*/*") if path.is_file()} <= packaged
    assert files("nerve.pages").joinpath("playground/main.js").is_file()


def test_icon_is_an_image() -> None:
    """The icon is written as an address, where a wrong sign is not seen."""
    icon = next(address for address in Reader(get(PLAYGROUND)[2].decode()).addresses if "svg" in address)

    assert unquote(icon.partition(",")[2]).startswith("<svg xmlns=")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("path", SHOWN)
def test_scripts_can_be_read(path: str, tmp_path: Path) -> None:
    """A script with an error is a blank page."""
    (tmp_path / "page.js").write_text("".join(Reader(get(path)[2].decode()).inline["script"]))
    done = subprocess.run(["node", "--check", "page.js"], cwd=tmp_path, capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 0, done.stderr.decode()
