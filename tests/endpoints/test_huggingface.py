"""The task API of Hugging Face, and SageMaker's containers, which take the same body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TEXT = "Anna Maria lives in Paris."
SURE = 0.99018
ANNA = {"entity_group": "PER", "word": "Anna Maria", "start": 0, "end": 10}
PARIS = {"entity_group": "LOC", "word": "Paris", "start": 20, "end": 25}
ROUTES = ("/pipeline/token-classification", "/invocations")
SECRET = "kanarienvogel"


def without_scores(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the scores out of rows, each of which must have that of the lookup model."""
    assert all(row.pop("score") == pytest.approx(SURE, abs=1e-4) for row in rows)
    return rows


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "parameters", [{}, {"parameters": {}}, {"parameters": None, "options": {"use_cache": True}}]
)
def test_entities_of_a_text(ask: Callable[..., Any], route: str, parameters: dict[str, Any]) -> None:
    """A string is answered with one flat list, grouped by the strategy `simple`."""
    answer = ask(route, {"inputs": TEXT, **parameters})
    assert answer.status == 200
    assert without_scores(answer.json()) == [ANNA, PARIS]
    assert answer.headers["x-compute-tokens"] == "8"
    assert answer.headers["cache-control"] == "no-store"
    assert "server-timing" in answer.headers


def test_a_list_has_a_list_for_each_text(ask: Callable[..., Any]) -> None:
    """As transformers' pipeline does; one without entities has an empty one."""
    found = ask(ROUTES[0], {"inputs": ["in Paris", "", "the"]}).json()
    assert [without_scores(each) for each in found] == [[{**PARIS, "start": 3, "end": 8}], [], []]
    assert len(ask(ROUTES[0], {"inputs": [TEXT]}).json()) == 1


def test_tokens(ask: Callable[..., Any]) -> None:
    """With `none`: a row for each token that is not special; O where it is not ignored."""
    parameters = {"aggregation_strategy": "none"}
    rows = without_scores(ask(ROUTES[0], {"inputs": TEXT, "parameters": parameters}).json())
    assert rows[0] == {"entity": "B-PER", "index": 1, "word": "Anna", "start": 0, "end": 4}
    assert [(row["entity"], row["index"]) for row in rows] == [("B-PER", 1), ("I-PER", 2), ("B-LOC", 5)]
    rows = ask(ROUTES[0], {"inputs": TEXT, "parameters": {**parameters, "ignore_labels": ["B-PER"]}}).json()
    assert [row["entity"] for row in rows] == ["I-PER", "O", "O", "B-LOC", "O"]
    assert [row["index"] for row in rows] == [2, 3, 4, 5, 6]


def test_labels_are_ignored(ask: Callable[..., Any]) -> None:
    """By the name of the group where tokens are grouped."""
    for strategy in ("simple", "first", "average", "max"):
        parameters = {"aggregation_strategy": strategy, "ignore_labels": ["O", "PER"], "stride": 3}
        rows = ask(ROUTES[0], {"inputs": TEXT, "parameters": parameters}).json()
        assert without_scores(rows) == [PARIS]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b'{"inputs": "', 400, "the body is not valid JSON in UTF-8, or is cut short"),
        (b'{"inputs": "\xff"}', 400, "the body is not valid JSON in UTF-8, or is cut short"),
        ({}, 422, "inputs: required, but missing; known fields: inputs, parameters, options"),
        ({"inputs": []}, 422, "inputs: no text; send at least one"),
        ({"inputs": ["a"] * 9}, 422, "inputs: 9 texts, above limits.max_inputs = 8; send several requests"),
        ({"inputs": [SECRET, 1]}, 422, "inputs[1]: expected `str`, got `int`"),
        (
            {"inputs": "", SECRET: 1},
            422,
            "the body has an unknown field; known fields: inputs, parameters, options",
        ),
        (
            {"inputs": "", "parameters": {SECRET: 1}},
            422,
            "parameters: it has an unknown field; known fields: aggregation_strategy, ignore_labels, stride",
        ),
        ({"inputs": "", "parameters": {"stride": -1}}, 422, "parameters.stride: expected `int` >= 0"),
        (
            {"inputs": "", "parameters": {"aggregation_strategy": SECRET}},
            422,
            "parameters.aggregation_strategy: unknown value; known values: none, simple, first, average, max, viterbi",
        ),
        (
            {"inputs": "", "parameters": {"ignore_labels": []}},
            422,
            "parameters.ignore_labels: with an aggregation_strategy what is no entity is never answered; add O, or ask "
            "for aggregation_strategy none",
        ),
    ],
)
def test_bad_bodies(ask: Callable[..., Any], body: object, status: int, error: str) -> None:
    """Each says what is wrong, where clients of Hugging Face look for it, and quotes nothing."""
    answer = ask(ROUTES[0], body)
    assert (answer.status, answer.json()["error"]) == (status, error)


def test_content_types(ask: Callable[..., Any]) -> None:
    """JSON, or nothing said; what boto3 says without being told means JSON to SageMaker's route only."""
    body = {"inputs": TEXT}
    for kind in ("application/json", "application/json; charset=UTF-8", ""):
        assert ask(ROUTES[0], body, content_type=kind).status == 200
    for kind in ("text/plain", "application/msgpack", "application/octet-stream"):
        assert ask(ROUTES[0], body, content_type=kind).status == 415
    assert ask("/invocations", body, content_type="application/octet-stream").status == 200
    assert ask("/invocations", body, content_type="text/csv").status == 415


def test_ping(ask: Callable[..., Any]) -> None:
    """SageMaker's probe has an empty answer; only GET asks it."""
    assert (ask("/ping").status, ask("/ping").body) == (200, b"")
    answer = ask("/ping", {}, method="POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
