"""How a run of the bench goes through its servers and rounds."""

from pathlib import Path
from typing import Any

import pytest

from bench.serving import results, run
from bench.serving.run import Course
from bench.serving.scenarios import Scenario
from bench.serving.servers import ServerSpec

SCENARIO = Scenario(name="s", description="", model="m", servers=["a", "b", "c"])
SPECS = [ServerSpec(name=name, variant="1", command=[]) for name in "abc"]


class Measured:
    """Stands in for load generator and servers: notes who was measured, and fails when told."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.fails: str | None = None
        self.stop_after = 1000

    def __call__(self, bench: Any, scenario: Scenario, spec: ServerSpec, target: Any) -> list[dict]:
        """Take the place of `measure_in_round`."""
        if len(self.order) == self.stop_after:
            raise KeyboardInterrupt
        self.order.append(spec.name)
        if spec.name == self.fails:
            raise RuntimeError("k6 exited with 1")
        latency = {"p50": 1.0, "p99": 2.0}
        rps = {"a": 100.0, "b": 90.0, "c": 10.0}[spec.name]
        return [{"requests": 9, "rps": rps, "latency_ms": latency, "errors": {}, "invalid": []}]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """All servers are ready; measuring them takes no time."""
    one = Measured()
    monkeypatch.setattr(run, "measure_in_round", one)
    monkeypatch.setattr(
        Course, "prepare", lambda self: self.ready.update({spec.label: None for spec in self.specs})
    )
    return one


def begin(file: Path) -> Course:
    """Begin or continue the scenario in a file."""
    facts: dict = {"commit": "abc", "machine": {}, "versions": {}}
    content = results.begin(file, facts, "")
    entry = results.entry_of(content, "s", {"seconds": 1})
    return Course(run.Bench(), SCENARIO, content, entry, file, SPECS)


def test_rounds_are_interleaved_and_rotated(tmp_path: Path, measured: Measured) -> None:
    """Every server once a round, another one first each time: what disturbs a round disturbs all."""
    begin(tmp_path / "r.json").run(3, qualify=False)
    assert "".join(measured.order) == "abcbcacab"


def test_run_that_was_cut_off_goes_on_where_it_ended(tmp_path: Path, measured: Measured) -> None:
    """Nothing is measured twice and nothing is left out, wherever the run was cut off."""
    measured.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "r.json").run(3, qualify=False)
    measured.stop_after = 1000
    again = begin(tmp_path / "r.json")
    assert not again.is_done(3)
    again.run(3, qualify=False)
    assert sorted(measured.order) == sorted("abc" * 3)
    after = begin(tmp_path / "r.json")
    assert after.is_done(3)
    assert not after.is_done(4)
    assert [sorted(seen) for seen in after.entry["rounds"]] == [["a/1", "b/1", "c/1"]] * 3


def test_server_that_fails_is_left_out_of_all_rounds_and_named(tmp_path: Path, measured: Measured) -> None:
    """A failing server is neither dropped silently nor does it end the run of the others."""
    course = begin(tmp_path / "r.json")
    course.run(1, qualify=False)
    measured.fails = "b"
    course.run(2, qualify=False)
    assert [sorted(seen) for seen in course.entry["rounds"]] == [["a/1", "c/1"]] * 2
    assert course.content["skipped"] == {"s: b/1": "k6 exited with 1"}
    assert course.is_done(2)


def test_server_that_cannot_win_is_measured_once(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qualification: one short measurement, kept in the file with the reason, and no rounds."""
    goal = run.read_goals()[0]
    compared = type(goal)("m", "s", "rps", of=["a"], over=["b", "c"], best_by="rps", at_least=1.0)
    monkeypatch.setattr(run, "read_goals", lambda: [compared])
    course = begin(tmp_path / "r.json")
    course.run(2, qualify=True)
    assert "".join(measured.order) == "abcabba"
    again = begin(tmp_path / "r.json")
    assert again.is_done(2)
    assert list(again.entry["left_out"]) == ["c/1"]
    assert again.entry["qualification"]["c/1"][0]["rps"] == 10.0
