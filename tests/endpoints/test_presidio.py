"""Presidio's analyzer and anonymizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TEXT = "Anna Maria lives in Paris."


def analyze(ask: Callable[..., Any], text: object = TEXT, **more: Any) -> Any:
    """Ask the analyzer; it must answer."""
    answer = ask("/analyze", {"text": text, "language": "en", **more})
    assert answer.status == 200, answer.body
    return answer.json()


def places(rows: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Return what was found where."""
    return [(row["entity_type"], row["start"], row["end"]) for row in rows]


def test_analyze(ask: Callable[..., Any]) -> None:
    """One list for a text, a list of lists for a list."""
    rows = analyze(ask)
    assert places(rows) == [("PER", 0, 10), ("LOC", 20, 25)]
    assert rows[0]["analysis_explanation"] is None
    assert 0.98 < rows[0]["score"] < 1
    assert [places(each) for each in analyze(ask, ["😀 Paris", ""])] == [[("LOC", 2, 7)], []]


def test_filters(ask: Callable[..., Any]) -> None:
    """Entities, scores and texts that are none; what has no effect is taken."""
    assert places(analyze(ask, entities=["LOC"])) == [("LOC", 20, 25)]
    assert len(analyze(ask, entities=[])) == 2
    assert analyze(ask, score_threshold=0.999) == []
    assert places(analyze(ask, allow_list=["Paris", "Anna"])) == [("PER", 0, 10)]
    nothing = {"correlation_id": "7", "return_decision_process": True, "context": ["city"], "regex_flags": 26}
    assert len(analyze(ask, ad_hoc_recognizers=[], allow_list_match="exact", **nothing)) == 2


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"ad_hoc_recognizers": [{"patterns": [{"regex": "(a+)+b"}]}]}, "ad_hoc_recognizers: expressions"),
        ({"allow_list": ["(a+)+b"], "allow_list_match": "regex"}, "allow_list_match: expressions"),
        ({"entities": ["CREDIT_CARD", "PER"]}, "entities: unknown label; known labels: PER, LOC"),
        ({"language": None}, "language: expected `str`, got `null`"),
        ({"score_threshold": 2}, "score_threshold: expected"),
        ({"text": []}, "text: no text"),
        ({"txt": "Anna"}, "the body has an unknown field"),
    ],
)
def test_bad_bodies(ask: Callable[..., Any], more: dict[str, Any], error: str) -> None:
    """All are 400, Presidio's; nobody's expression is run, and what cannot be found is not passed over."""
    answer = ask("/analyze", {"text": TEXT, "language": "en", **more})
    assert (answer.status, list(answer.json())) == (400, ["error"])
    assert answer.json()["error"].startswith(error)


def test_supported_entities(ask: Callable[..., Any]) -> None:
    """What the model can find."""
    assert ask("/supportedentities").json() == ["PER", "LOC"]


def anonymize(
    ask: Callable[..., Any], text: str, results: list[tuple[str, int, int, float]], **more: Any
) -> Any:
    """Ask the anonymizer; it must answer."""
    found = [
        {"entity_type": kind, "start": start, "end": end, "score": score, "analysis_explanation": None}
        for kind, start, end, score in results
    ]
    answer = ask("/anonymize", {"text": text, "analyzer_results": found, **more})
    assert answer.status == 200, answer.body
    assert answer.headers["x-compute-tokens"] == "0"
    return answer.json()


def test_anonymize(ask: Callable[..., Any]) -> None:
    """The items go from the last to the first, with places in the new text."""
    found = anonymize(ask, TEXT, [("PER", 0, 10, 0.9), ("LOC", 20, 25, 0.9)])
    assert found == {
        "text": "<PER> lives in <LOC>.",
        "items": [
            {"start": 15, "end": 20, "entity_type": "LOC", "text": "<LOC>", "operator": "replace"},
            {"start": 0, "end": 5, "entity_type": "PER", "text": "<PER>", "operator": "replace"},
        ],
    }
    chosen = {
        "DEFAULT": {"type": "redact"},
        "PER": {"type": "mask", "masking_char": "#", "chars_to_mask": 4, "from_end": False},
    }
    found = anonymize(ask, TEXT, [("PER", 0, 10, 0.9), ("LOC", 20, 25, 0.9)], anonymizers=chosen)
    assert found["text"] == "#### Maria lives in ."


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], "Anna Maria Paris"),
        ([("A", 0, 4, 0.5), ("A", 5, 10, 0.9)], "<A> Paris"),
        ([("A", 0, 4, 0.5), ("B", 5, 10, 0.9)], "<A> <B> Paris"),
        ([("A", 0, 10, 0.5), ("B", 5, 10, 0.9)], "<A> Paris"),
        ([("A", 0, 10, 0.5), ("B", 0, 10, 0.9)], "<B> Paris"),
        ([("A", 0, 7, 0.5), ("A", 5, 10, 0.9)], "<A> Paris"),
        ([("A", 0, 7, 0.5), ("B", 5, 10, 0.9)], "<A><B> Paris"),
        ([("A", 4, 4, 0.5)], "Anna<A> Maria Paris"),
    ],
)
def test_overlaps(ask: Callable[..., Any], results: list[tuple[str, int, int, float]], expected: str) -> None:
    """As Presidio resolves them; tests/clients compares with Presidio itself."""
    assert anonymize(ask, "Anna Maria Paris", results)["text"] == expected


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            {"analyzer_results": [{"entity_type": "A", "start": 0, "end": 27}]},
            "analyzer_results[0]: its start and end",
        ),
        (
            {"analyzer_results": [{"entity_type": "A", "start": 3, "end": 2}]},
            "analyzer_results[0]: its start and end",
        ),
        (
            {"analyzer_results": [{"entity_type": "A", "start": -1, "end": 2}]},
            "analyzer_results[0].start: expected",
        ),
        (
            {"analyzer_results": [], "anonymizers": {"A": {"type": "custom"}}},
            "anonymizers[...].type: unknown value",
        ),
        (
            {"analyzer_results": [], "anonymizers": {"A": {"type": "encrypt", "key": "Anna"}}},
            "anonymizers[...].type",
        ),
        ({}, "analyzer_results: required, but missing"),
        (
            {
                "text": "Anna",
                "analyzer_results": [],
                "anonymizers": {"PER": {"type": "replace", "new_value": "x" * 257}},
            },
            "anonymizers[...].new_value: expected `str` of length <= 256",
        ),
    ],
)
def test_bad_anonymize_bodies(ask: Callable[..., Any], body: dict[str, Any], error: str) -> None:
    """422, as Presidio's anonymizer; neither a client's code nor its key is taken."""
    answer = ask("/anonymize", {"text": TEXT, **body})
    assert answer.status == 422, answer.body
    assert answer.json()["error"].startswith(error)
    assert "Anna" not in answer.json()["error"]
