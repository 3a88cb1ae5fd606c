"""What each route says of a wrong body: which field, what could stand there, and never what the client sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import write_config
from formats import BODIES, OTHER_BODIES, WITHOUT_MODEL, message_of, nested
from nerve.config import load_config
from nerve.endpoints import create_endpoints
from nerve.engine.codec import Query

SECRET = "Zebedee-Quux"
TEXT = "Anna Maria lives in Paris."
# The model of `ask` is called so.
HERE = {route: route.replace("/model", "/lookup").replace("lookups", "models") for route in BODIES}
PLACE = re.compile(r"\.?([a-zA-Z_]+)|\[(\d+)\]")
BEGINNING = re.compile(r"(the body|header [a-z-]+|[a-zA-Z_]+((\.[a-zA-Z_]+)|(\[(\d+|\.\.\.)\]))*)[ :]")


@pytest.mark.parametrize("route", sorted(set(BODIES) - {"/"}))
def test_a_wrong_body_is_told_by_its_field(ask: Callable[..., Any], route: str) -> None:
    """In every place another type, and a field that is not known: the message names the place, or what is known."""
    n_refused = 0
    for body in nested(BODIES[route](TEXT), SECRET):
        answer = ask(HERE[route], body)
        if answer.status == 200:
            continue
        n_refused += 1
        message = message_of(route, answer)
        assert SECRET not in message
        assert BEGINNING.match(message), message
        if "unknown field" in message or "required, but missing" in message:
            assert "; known fields: " in message
    assert n_refused >= 3


def _codecs(folder: Path) -> Iterator[tuple[str, Callable[[str], Any], Any]]:
    config = load_config(write_config(folder / "config.yaml", folder, model={"name": "model"}))
    posts = {path: here.post for path, here in create_endpoints(config).items() if here.post is not None}
    for route, make in (*BODIES.items(), *OTHER_BODIES):
        if route != "/" and route not in WITHOUT_MODEL:
            yield route, make, posts[route].choose_codec(lambda _: None)


def test_a_text_is_named_as_its_format_names_it(tmp_path: Path) -> None:
    """What is wrong with one text stands at a place of the body that was sent, where that text is."""
    seen = set()
    for route, make, codec in _codecs(tmp_path):
        body = make(TEXT)
        query = codec.decode(json.dumps(body).encode())
        assert isinstance(query, Query)
        for index, text in enumerate(query.texts):
            found: Any = body
            for name, number in PLACE.findall(query.place(index)):
                found = found[name] if name else ([found] if isinstance(found, str) else found)[int(number)]
            assert text in json.dumps(found)
        seen.add(route)
    assert seen == set(BODIES) - WITHOUT_MODEL - {"/"}


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        (
            "/redact",
            {"input": SECRET},
            "the body has an unknown field `input`, perhaps meant as inputs; known fields: inputs,",
        ),
        ("/redact", {"inputs": "a", SECRET: 1}, "the body has an unknown field; known fields: inputs,"),
        ("/redact", b"", "the body is empty; send JSON in UTF-8"),
        (
            "/redact",
            b"{'inputs': 1}",
            "the body is not valid JSON in UTF-8, or is cut short; see byte 1 of 13",
        ),
        (
            "/redact",
            {"inputs": "a", "operators": {SECRET: {"type": "replace", "value": SECRET}}},
            "operators[...]: it has an unknown field `value`, perhaps meant as new_value; known fields: type, and "
            "new_value with replace; masking_char,",
        ),
        ("/request", {}, "the body: it needs `body`, or `messages` in the raw format"),
        ("/predict_token", {}, "no such route; did you mean POST /predict_tokens? "),
        (f"/{SECRET}", {}, "no such route; predictions are at POST /predict_tokens, POST /redact, "),
    ],
)
def test_the_remedy_is_told(ask: Callable[..., Any], route: str, body: object, message: str) -> None:
    """What a newcomer gets wrong first: a name, an operator, quotes, a path."""
    answer = ask(route, body, method="POST")
    assert answer.json()["error"].startswith(message)
    assert SECRET not in answer.body.decode()
