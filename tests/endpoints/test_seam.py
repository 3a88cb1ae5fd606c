"""A wire format of somebody else's: one module and an entry point, and everything around it comes by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import ServerProcess
from nerve.endpoints import BUILT_IN
from raw_http import metric

MOST_LINES = 40
SHOUT = '''"""Answers a text with the entities in it, in capitals."""
import json

from nerve.endpoints.protocol import JSON_TYPE, Description
from nerve.engine.codec import Query
from nerve.errors import InvalidRequest, MalformedRequest
from nerve.types import AggregationStrategy, PredictOptions

OPTIONS = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE)


class ShoutCodec:
    media_type = JSON_TYPE

    def decode(self, body):
        try:
            text = json.loads(body)["text"]
        except (ValueError, TypeError, KeyError):
            raise MalformedRequest("the body is no JSON object with a text") from None
        if not isinstance(text, str):
            raise InvalidRequest("text: must be a string")
        return Query([text], OPTIONS)

    def encode(self, query, rows):
        return json.dumps({"TEXT": [row.token.upper() for row in rows[0]]}).encode()


class Shout:
    name, routes = "shout", ("/shout", "/v1/shout")

    def __init__(self, config):
        self.codec = ShoutCodec()

    def choose_codec(self, header):
        return self.codec

    def describe(self):
        return Description("Shout", "The entities", (JSON_TYPE,), {"required": ["text"]}, {"type": "object"})
'''
TEXT = "Anna Maria lives in Paris."


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Install the module as a package is; returns the environment of a Python that finds it."""
    folder = tmp_path / "site"
    info = folder / "toy-1.dist-info"
    info.mkdir(parents=True)
    (folder / "toy.py").write_text(SHOUT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[nerve.endpoints]\nshout = toy:Shout\n")
    others = os.environ.get("PYTHONPATH")
    paths = [str(folder), *(os.path.abspath(path) for path in (others.split(os.pathsep) if others else []))]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def test_endpoint_of_another_package_is_served(
    serve: Callable[..., ServerProcess], installed: dict[str, str]
) -> None:
    """Under forty lines answer small texts and large ones, errors, /metrics and /openapi.json, beside the rest."""
    assert SHOUT.count("\n") < MOST_LINES
    server = serve(environment=installed)
    for route in ("/shout", "/v1/shout"):
        answer = server.client.post(route, json={"text": TEXT})
        assert (answer.status_code, answer.json()) == (200, {"TEXT": ["ANNA MARIA", "PARIS"]})
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-compute-tokens"] == "8"
    large = server.client.post("/shout", json={"text": TEXT + " x" * 10_000})  # tokenized on the pool
    assert (large.status_code, large.json()) == (200, {"TEXT": ["ANNA MARIA", "PARIS"]})
    for body, status in ((b"{", 400), (b'{"text": 1}', 422)):
        refused = server.client.post("/shout", content=body)
        assert (refused.status_code, refused.json()["error_type"]) == (status, "Validation")
    assert server.client.get("/shout").headers["allow"] == "POST"
    assert "POST /shout" in server.client.post("/none").json()["error"]
    assert [row["token"] for row in server.predict("Anna", aggregation_strategy="simple").json()[0]] == [
        "Anna"
    ]
    assert server.client.post("/", json={"inputs": "Anna"}).status_code == 200

    counted = {("/shout", 200): 2, ("/v1/shout", 200): 1, ("/shout", 400): 1, ("/predict_tokens", 200): 1}
    for (route, status), count in counted.items():
        assert metric(server, f'nerve_requests_total{{route="{route}",status="{status}"}}') == count
    paths = server.client.get("/openapi.json").json()["paths"]
    described = paths["/v1/shout"]["post"]
    assert (described["summary"], described["operationId"]) == ("Shout", "v1_shout")
    assert described["requestBody"]["content"] == {"application/json": {"schema": {"required": ["text"]}}}
    assert {"/predict_tokens", "/shout", "/"} <= set(paths)


def test_endpoints_are_chosen_by_the_configuration(
    serve: Callable[..., ServerProcess], installed: dict[str, str]
) -> None:
    """What is not named is not there, and `/` leads to the route that the configuration says."""
    server = serve(
        environment=installed,
        server={"endpoints": ["shout"]},
        runtime={"webserver_default_route": "/v1/shout"},
    )
    for route in ("/", "/shout"):
        assert server.client.post(route, json={"text": TEXT}).json() == {"TEXT": ["ANNA MARIA", "PARIS"]}
    assert server.predict("Anna").status_code == 404
    assert "/predict_tokens" not in server.client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (
            {"server": {"endpoints": ["predict_tokens", "whisper"]}},
            f"nerve: server.endpoints: unknown endpoint whisper; known: {', '.join(sorted([*BUILT_IN, 'shout']))}",
        ),
        (
            {
                "runtime": {"webserver_default_route": "/whisper"},
                "server": {"endpoints": ["predict_tokens", "shout"]},
            },
            "nerve: runtime.webserver_default_route: nothing is served at /whisper; "
            "served by POST: /predict_tokens, /shout, /v1/shout",
        ),
    ],
    ids=["endpoint", "route"],
)
def test_unknown_name_ends_the_start(
    serve: Callable[..., ServerProcess], installed: dict[str, str], sections: dict[str, object], reason: str
) -> None:
    """One line names the known ones, before anything is loaded."""
    server = serve(environment=installed, wait=False, **sections)
    assert server.process.wait(60) == 1
    assert server.log().splitlines() == [reason]
