"""Which entities are answered."""

from __future__ import annotations

import math

import pytest

from nerve.config import RuntimeConfig
from nerve.errors import InvalidRequest
from nerve.text.filters import check_asked, choose_filter, keeps, make_filter
from nerve.types import AggregationStrategy

KNOWN = ("PER", "LOC")
SIMPLE, NONE = AggregationStrategy.SIMPLE, AggregationStrategy.NONE


def test_what_keeps_everything_is_no_filter() -> None:
    """The usual request pays nothing."""
    assert make_filter(None, 0) is None
    assert make_filter(None, {}) is None
    assert make_filter(None, {"*": 0}) is None
    assert choose_filter(RuntimeConfig(), SIMPLE, None, None) is None
    assert choose_filter(RuntimeConfig(labels=["PER"], min_score=0.5), NONE, None, None) is None


def test_labels_and_scores() -> None:
    """A score that is equal is kept, NaN is not hidden, and `*` stands for the labels that are not named."""
    wanted = make_filter(["PER", "LOC"], {"PER": 0.9, "*": 0.5})
    assert wanted is not None
    assert [keeps(wanted, "PER", score) for score in (0.89, 0.9, 1, math.nan)] == [False, True, True, True]
    assert [keeps(wanted, "LOC", score) for score in (0.49, 0.5)] == [False, True]
    assert not keeps(wanted, "ORG", 1)
    least = make_filter(None, {"PER": 0.9})
    assert least is not None
    assert keeps(least, "LOC", 0)
    nothing = make_filter([], 0)
    assert nothing is not None
    assert not keeps(nothing, "PER", 1)


def test_a_request_replaces_the_configuration() -> None:
    """Each of the two by itself."""
    runtime = RuntimeConfig(labels=["PER"], min_score=0.5)
    for labels, min_score, expected in (
        (None, None, ({"PER"}, 0.5, ())),
        (["LOC"], None, ({"LOC"}, 0.5, (("labels", "LOC"),))),
        (None, 0.7, ({"PER"}, 0.7, ())),
        (None, {"LOC": 0.1, "*": 0.2}, ({"PER"}, 0.2, (("min_score", "LOC"),))),
    ):
        found = choose_filter(runtime, SIMPLE, labels, min_score)
        assert found is not None
        assert (found.labels, found.min_score, found.asked) == expected


def test_unknown_labels_are_refused_with_the_known_ones() -> None:
    """The message says which field and what is known, and does not quote what was sent."""
    for labels, min_score, field in ((["PER", "Anna"], None, "labels"), (None, {"Anna": 0.5}, "min_score")):
        wanted = choose_filter(RuntimeConfig(), SIMPLE, labels, min_score)
        assert wanted is not None
        with pytest.raises(InvalidRequest, match=f"^{field}: unknown label; known labels: PER, LOC$"):
            check_asked(wanted, KNOWN)
    wanted = choose_filter(RuntimeConfig(), SIMPLE, ["PER", "EMAIL"], None, also_known=["EMAIL"])
    assert wanted is not None
    check_asked(wanted, KNOWN)


@pytest.mark.parametrize(
    ("labels", "min_score", "message"),
    [
        (["PER"], None, "labels: aggregation_strategy none answers tokens"),
        (None, 0.5, "min_score: aggregation_strategy none answers"),
    ],
)
def test_none_has_no_entities(labels: list[str] | None, min_score: float | None, message: str) -> None:
    """A filter that would do nothing is refused."""
    with pytest.raises(InvalidRequest, match=message):
        choose_filter(RuntimeConfig(), NONE, labels, min_score)


@pytest.mark.parametrize("min_score", [-0.1, 1.1, math.nan, "0.5", {"PER": 2}])
def test_scores_that_are_none(min_score: object) -> None:
    """From Python anything may come."""
    with pytest.raises(InvalidRequest, match="min_score: must be a number from 0 to 1"):
        choose_filter(RuntimeConfig(), SIMPLE, None, min_score)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="labels: must be a list"):
        choose_filter(RuntimeConfig(), SIMPLE, "PER", None)
