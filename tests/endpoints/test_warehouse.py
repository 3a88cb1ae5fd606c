"""Functions that BigQuery and Snowflake call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TEXT = "Anna Maria lives in Paris."
MASKED = "<PER> lives in <LOC>."
# The example bodies of the two services' documentation, with texts as arguments.
BIGQUERY = {
    "requestId": "124ab1c",
    "caller": "//bigquery.googleapis.com/projects/myproject/jobs/myproject:US.bquxjob_5b4c112c_17961fafeaf",
    "sessionUser": "test-user@test-company.com",
    "userDefinedContext": {"key1": "value1", "key2": "v2"},
    "calls": [[TEXT], [None], ["the"], [""]],
}
SNOWFLAKE = {"data": [[0, TEXT], [1, None], [2, "the"], [7, ""]]}


def test_bigquery(ask: Callable[..., Any]) -> None:
    """A reply for each call, in order; null stays null."""
    answer = ask("/bigquery", BIGQUERY)
    assert (answer.status, answer.json()) == (200, {"replies": [MASKED, None, "the", ""]})
    found = ask("/bigquery", {**BIGQUERY, "userDefinedContext": {"mode": "entities"}}).json()["replies"]
    assert [entity["label"] for entity in found[0]] == ["PER", "LOC"]
    assert found[1:] == [None, [], []]
    assert ask("/bigquery", {"calls": [[None], [None]]}).json() == {"replies": [None, None]}
    assert ask("/bigquery", {"calls": []}).json() == {"replies": []}


def test_snowflake(ask: Callable[..., Any]) -> None:
    """A row for each, with its number."""
    answer = ask("/snowflake", SNOWFLAKE, sf_external_function_format="json")
    assert (answer.status, answer.json()) == (
        200,
        {"data": [[0, MASKED], [1, None], [2, "the"], [7, ""]]},
    )
    rows = ask("/snowflake", SNOWFLAKE, sf_custom_mode="entities").json()["data"]
    assert [entity["label"] for entity in rows[0][1]] == ["PER", "LOC"]
    assert ask("/snowflake", {"data": [[5, None]]}).json() == {"data": [[5, None]]}


@pytest.mark.parametrize(
    ("route", "body", "field", "error"),
    [
        ("/bigquery", {"calls": [["a", "b"]]}, "errorMessage", "calls[0]: send one argument, the text"),
        ("/bigquery", {"calls": [[]]}, "errorMessage", "calls[0]: send one argument, the text"),
        ("/bigquery", {"calls": [[1]]}, "errorMessage", "calls[0][0]: expected `str`, got `int`"),
        ("/bigquery", {"calls": [["a"]] * 9}, "errorMessage", "calls: 9 texts, above limits.max_inputs = 8"),
        (
            "/bigquery",
            {"calls": [["a"]], "userDefinedContext": {"mode": "x"}},
            "errorMessage",
            "userDefinedContext.mode: unknown value; known values: redact, entities",
        ),
        ("/snowflake", {"data": [[0]]}, "error", "data[0]: expected `array` of length 2"),
        ("/snowflake", {"data": [["a", "b"]]}, "error", "data[0][0]: expected `int`, got `str`"),
        ("/snowflake", [1], "error", "the body: expected `object`, got `array`"),
    ],
)
def test_bad_bodies(ask: Callable[..., Any], route: str, body: object, field: str, error: str) -> None:
    """All are 400, which neither service repeats, with the message where BigQuery looks for it."""
    answer = ask(route, body)
    assert (answer.status, list(answer.json())) == (400, [field]), answer.body
    assert answer.json()[field].startswith(error)


def test_snowflake_mode(ask: Callable[..., Any]) -> None:
    """One that is not known is refused, before anything is read."""
    answer = ask("/snowflake", SNOWFLAKE, sf_custom_mode="x")
    assert (answer.status, "sf-custom-mode" in answer.json()["error"]) == (400, True)
