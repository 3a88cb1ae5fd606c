"""Versions of the server compared side by side: what is started, and the ratios made of the rounds."""

import argparse

import pytest

from bench.serving import compare
from bench.serving.compare import Version


def seen(rps: float, p50: float = 1.0, p99: float = 2.0, errors: dict[str, int] | None = None) -> dict:
    """Return what a round holds of one server."""
    return {"rps": rps, "latency_ms": {"p50": p50, "p99": p99}, "errors": errors or {}}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("old=HEAD~1", Version("old", "HEAD~1")),
        ("new=.", Version("new", ".")),
        ("less=376a769+a/no-burst.patch", Version("less", "376a769", "a/no-burst.patch")),
        ("odd=.+a=b+c.patch", Version("odd", ".", "a=b+c.patch")),
    ],
)
def test_version_is_a_name_a_revision_and_perhaps_a_patch(text: str, version: Version) -> None:
    """The result file names the source as the command line did."""
    assert compare.parse_version(text) == version
    assert f"{version.name}={version.source}" == text


@pytest.mark.parametrize("text", ["", "HEAD", "old=", "=HEAD", "old=+a.patch"])
def test_version_without_a_name_or_a_revision_is_refused(text: str) -> None:
    """The message says what is wanted."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"NAME=REVISION\[\+PATCH\]"):
        compare.parse_version(text)


def test_settings_of_one_version() -> None:
    """What follows the first equals sign is JSON."""
    assert compare.parse_settings('new={"cpu": {"mode": "a=b"}}') == ("new", {"cpu": {"mode": "a=b"}})
    with pytest.raises(ValueError, match="Expecting value"):
        compare.parse_settings("new")


def test_first_version_takes_part_twice() -> None:
    """Its second server is next to the first in the rounds."""
    old, new = Version("old", "HEAD"), Version("new", ".")
    servers = compare.list_servers({"old": old, "new": new})
    assert list(servers.items()) == [("old", old), ("old again", old), ("new", new)]


def test_ratios_are_made_within_each_round() -> None:
    """What slows a round slows all of its servers, and is not seen."""
    rounds = [
        {"old": seen(100, p50=2, p99=4), "new": seen(110, p50=1, p99=8)},
        {"new": seen(60, p50=3, p99=8), "old": seen(50, p50=4, p99=4)},
        {"old": seen(10, p50=8, p99=4), "new": seen(10, p50=8, p99=1)},
    ]
    found = compare.summarise(rounds, ["old", "new"])
    assert list(found) == ["old", "new"]
    assert found["new"]["rps"] == pytest.approx({"median": 1.1, "min": 1.0, "max": 1.2})
    assert found["new"]["p50"] == pytest.approx({"median": 0.75, "min": 0.5, "max": 1.0})
    assert found["new"]["p99"] == pytest.approx({"median": 2.0, "min": 0.25, "max": 2.0})
    assert found["old"]["rps"] == {"median": 1, "min": 1, "max": 1}


def test_summary_has_the_figures_themselves_and_the_errors() -> None:
    """A ratio of 1 says nothing of how fast that is; a round with errors cannot hide."""
    rounds = [
        {"old": seen(100), "new": seen(110, errors={"wrong": 2})},
        {"old": seen(50, p50=9), "new": seen(60)},
        {"old": seen(80, p99=7), "new": seen(10)},
    ]
    found = compare.summarise(rounds, ["old", "new"])
    assert found["old"]["absolute"] == {"rps": 80, "p50": 1, "p99": 2}
    assert found["old"]["errors"] == []
    assert found["new"]["absolute"]["rps"] == 60
    assert found["new"]["errors"] == [{"wrong": 2}]


def test_line_shows_ratios_figures_and_errors() -> None:
    """One line says all of a server."""
    row = compare.summarise([{"old": seen(100), "new": seen(120, p50=0.5)}], ["old", "new"])["new"]
    line = compare.table_line("new", {**row, "errors": [{"wrong": 2}]})
    assert line.endswith("120.0/s p50 0.50 p99 2.00  ERRORS [{'wrong': 2}]")
    for ratio in ("rps 1.200 (1.20-1.20)", "p50 0.500 (0.50-0.50)", "p99 1.000 (1.00-1.00)"):
        assert ratio in line
