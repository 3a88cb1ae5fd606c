"""KServe's V1 protocol, and Vertex AI, which has it at paths of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import write_config
from nerve.config import load_config
from nerve.endpoints import create_endpoints
from nerve.errors import ConfigError

TEXT = "Anna Maria lives in Paris."
ROUTES = ("/v1/models/lookup:predict", "/aip/predict")


@pytest.mark.parametrize("route", ROUTES)
def test_predictions(ask: Callable[..., Any], route: str) -> None:
    """One list of entities for each instance, be it a text or an object with one."""
    answer = ask(route, {"instances": [TEXT, {"text": "in Paris"}, ""], "parameters": {}})
    assert answer.status == 200
    found = answer.json()["predictions"]
    assert [[(row["entity_group"], row["word"]) for row in rows] for rows in found] == [
        [("PER", "Anna Maria"), ("LOC", "Paris")],
        [("LOC", "Paris")],
        [],
    ]
    assert found[1][0] == {**found[1][0], "start": 3, "end": 8}
    assert answer.headers["x-compute-tokens"] == str(8 + 4 + 2)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[", "the body is not valid JSON in UTF-8, or is cut short"),
        ({"instances": []}, "instances: no text; send at least one"),
        ({"instances": ["a"] * 9}, "instances: 9 texts, above limits.max_inputs = 8; send several requests"),
        ({"instances": [{"text": 1}]}, "instances[0].text: expected `str`, got `int`"),
        ({"instances": [{"text": "a", "b": 1}]}, "instances[0]: it has an unknown field; known fields: text"),
        ({"instances": [1]}, "instances[0]: expected `str | object`, got `int`"),
        ({"inputs": ["a"]}, "the body has an unknown field; known fields: instances, parameters"),
        (
            {"instances": ["a"], "parameters": {"aggregation_strategy": "none"}},
            "parameters.aggregation_strategy: this format has entities only; ask /predict_tokens for tokens",
        ),
    ],
)
def test_bad_bodies(ask: Callable[..., Any], route: str, body: object, error: str) -> None:
    """All are 400, with the message alone in the protocol's field."""
    answer = ask(route, body)
    assert (answer.status, answer.json()) == (400, {"error": error})


def test_errors_that_are_not_of_the_body(ask: Callable[..., Any]) -> None:
    """Those keep the contract's status; another model is not there."""
    answer = ask(ROUTES[0], {"instances": [TEXT]}, content_type="text/csv")
    assert (answer.status, answer.json()) == (
        415,
        {
            "error": "header content-type must be application/json; with curl: -H 'content-type: application/json'"
        },
    )
    answer = ask(ROUTES[0], {"instances": [TEXT]}, request_timeout_ms="0")
    assert (answer.status, list(answer.json())) == (504, ["error"])
    assert ask("/v1/models/other:predict", {"instances": [TEXT]}).status == 404
    answer = ask(ROUTES[0])
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_what_is_told_of_the_model(ask: Callable[..., Any]) -> None:
    """Its name and its readiness, and Vertex's probe."""
    assert ask("/v1/models/lookup").json() == {"name": "lookup", "ready": True}
    assert ask("/v1/models").json() == {"models": ["lookup"]}
    assert ask("/aip/health").status == 200


def test_vertex_has_paths_only_where_it_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its variables, before the file; a path of KServe's own is served once, a probe may be one of the server's."""
    path = write_config(tmp_path / "config.yaml", tmp_path, model={"name": "m"})
    assert not any(
        here.post and here.post.endpoint == "vertex" for here in create_endpoints(load_config(path)).values()
    )
    monkeypatch.setenv("AIP_HTTP_PORT", "8123")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/v1/endpoints/7/deployedModels/8:predict")
    config = load_config(path)
    assert config.server.port == 8123
    served = create_endpoints(config)
    post = served["/v1/endpoints/7/deployedModels/8:predict"].post
    assert post is not None
    assert post.endpoint == "vertex"
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/v1/models/m:predict")
    post = create_endpoints(load_config(path))["/v1/models/m:predict"].post
    assert post is not None
    assert post.endpoint == "kserve_v1"
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/")
    root = create_endpoints(load_config(path))["/"].post
    assert root is not None
    assert dataclasses.asdict(root)["endpoint"] == "vertex"
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict_tokens")
    with pytest.raises(
        ConfigError, match="predict_tokens and vertex both serve /predict_tokens; leave one out"
    ):
        create_endpoints(load_config(path))
