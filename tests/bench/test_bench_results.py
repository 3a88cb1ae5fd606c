"""Result sets of the bench: continued, merged, summarised; goals: ratios, and who contends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.paths import REPOSITORY, RESULTS
from bench.serving import goals, machine, results
from bench.serving.goals import Goal
from bench.serving.results import Result
from bench.serving.scenarios import read_scenarios, read_sets, to_plain
from bench.serving.servers import read_specs

FACTS = {
    "commit": "abc",
    "machine": {"cpu": "X", "cores": 2, "load_before": 0.1},
    "versions": {"python": "3.11.7", "granian": "2.8.7"},
}


def seen(rps: float, p50: float = 1.0, p99: float = 2.0) -> list[dict]:
    """Return what a round holds of one server."""
    latency = {"p50": p50, "p90": p50, "p99": p99, "p999": p99, "max": p99}
    return [{"requests": int(rps), "rps": rps, "latency_ms": latency, "errors": {}}]


def goal(**changes: Any) -> Goal:
    """Return a goal: requests/s of `a` at least twice the better of `b` and `c`."""
    usual = {"measure": "m", "scenario": "s", "metric": "rps", "of": ["a"], "over": ["b", "c"], "at_least": 2}
    return Goal(**{"best_by": "rps", **usual, **changes})


def result(*rounds: dict[str, list[dict]]) -> dict[str, Result]:
    """Return one scenario's result of these rounds."""
    return {"s": Result("s", "f.json", {"servers": ["a", "b", "c"], "share": []}, list(rounds))}


def test_ratio_is_made_within_each_round_against_the_best() -> None:
    """The best variant of ours over the best of the peers, round by round: what slows a round slows both."""
    found = goal().ratios(
        result(
            {"a/1": seen(100), "a/2": seen(220), "b/1": seen(100), "c/1": seen(110)},
            {"a/1": seen(50), "a/2": seen(90), "b/1": seen(40), "c/1": seen(60)},
        )
    )
    assert found == ([2.0, 1.5], "a/2 / c/1")


def test_smaller_is_better_for_latencies() -> None:
    """The best p50 is the smallest."""
    found = goal(metric="p50", best_by="p50").ratios(
        result({"a/1": seen(1, p50=2), "a/2": seen(1, p50=3), "b/1": seen(1, p50=8), "c/1": seen(1, p50=4)})
    )
    assert found == ([0.5], "a/1 / c/1")


def test_p99_is_compared_with_the_peer_of_the_best_throughput() -> None:
    """`best_by` chooses the peer; its p99 is compared, not the smallest of all."""
    found = goal(metric="p99", best_by="rps").ratios(
        result({"a/1": seen(9, p99=6), "b/1": seen(8, p99=3), "c/1": seen(2, p99=1)})
    )
    assert found == ([2.0], "a/1 / b/1")


def test_goal_of_one_server() -> None:
    """p99 over p50 needs no other server."""
    found = goal(metric="p99_over_p50", best_by="p99", over=[], at_least=None, at_most=2.5).ratios(
        result({"a/1": seen(9, p50=2, p99=5)}, {"a/1": seen(9, p50=2, p99=4)})
    )
    assert found == ([2.5, 2.0], "a/1")


def test_unfinished_round_counts_where_both_were_measured() -> None:
    """A run that was cut off in a round leaves the rounds before it of use."""
    found = goal().ratios(result({"a/1": seen(4), "b/1": seen(2)}, {"a/1": seen(4)}))
    assert found == ([2.0], "a/1 / b/1")


def test_goal_that_was_not_measured() -> None:
    """No measurement, no ratio."""
    assert goal().ratios({}) is None
    assert goal().ratios(result({"a/1": seen(4)})) is None


def test_reaching_a_goal_includes_its_bound() -> None:
    """At most and at least are meant as written."""
    assert goal(at_least=2).is_reached(2.0)
    assert not goal(at_least=2).is_reached(1.99)
    assert goal(at_least=None, at_most=1.2).is_reached(1.2)
    assert not goal(at_least=None, at_most=1.2).is_reached(1.21)


def test_server_that_cannot_win_is_left_out_with_the_reason() -> None:
    """Who is far from the best of its comparison is left out; the best, who is near, and who is not compared stay."""
    measured = {"a/1": seen(100), "a/2": seen(60), "b/1": seen(90), "c/1": seen(80), "c/2": seen(10)}
    measured["floor/1"] = seen(1)
    left_out = goals.eliminate([goal()], {label: column[0] for label, column in measured.items()})
    assert sorted(left_out) == ["a/2", "c/2"]
    assert left_out["c/2"] == "rps 10, b/1 has 90 in the qualification"


def test_server_that_may_win_one_comparison_stays() -> None:
    """Throughput and latency have different winners; each stays for its own comparison."""
    measured = {
        "a/1": seen(100)[0],
        "b/quick": seen(10, p50=1)[0],
        "b/busy": seen(100, p50=9)[0],
        "b/neither": seen(10, p50=9)[0],
    }
    both = [goal(over=["b"]), goal(over=["b"], metric="p50", best_by="p50")]
    assert list(goals.eliminate(both, measured)) == ["b/neither"]


def test_every_goal_names_scenarios_and_servers_that_exist() -> None:
    """A goal with a misspelt name would stay `not measured` unnoticed."""
    scenarios = {scenario.name: scenario for scenario in read_scenarios()}
    for one in goals.read_goals():
        scenario = scenarios[one.scenario]
        labels = [spec.label for spec in read_specs() if scenario.takes(spec)]
        for name in (*one.of, *one.over):
            assert any(results.is_one_of(label, [name]) for label in labels), (one.measure, name)


def test_sets_and_scenarios_agree() -> None:
    """Sets name scenarios that exist, two have all that goals need, with `rest` they have everything."""
    names = {scenario.name for scenario in read_scenarios()}
    sets = read_sets()
    for one in sets.values():
        assert set(one.scenarios) <= names, one.name
    with_goals = {*sets["goals"].scenarios, *sets["precisions"].scenarios}
    assert {one.scenario for one in goals.read_goals()} == with_goals
    assert with_goals | set(sets["rest"].scenarios) == names
    variants = {spec.variant for spec in read_specs()}
    for scenario in read_scenarios():
        assert set(scenario.variants) <= variants, scenario.name


def test_run_that_was_cut_off_is_continued(tmp_path: Path) -> None:
    """The same command goes on with what the file holds."""
    file = tmp_path / "set.json"
    content = results.begin(file, FACTS, "--set goals")
    entry = results.entry_of(content, "s", {"seconds": 5, "servers": ["a"]})
    entry["rounds"].append({"a/1": seen(4)})
    results.save(content, file)

    again = results.begin(file, FACTS | {"machine": FACTS["machine"] | {"load_before": 9.0}}, "--set goals")
    assert results.entry_of(again, "s", {"seconds": 5, "servers": ["a"]})["rounds"] == [{"a/1": seen(4)}]
    assert len(again["runs"]) == 2
    assert again["started"] == content["started"]


def test_scenarios_of_several_runs_come_together(tmp_path: Path) -> None:
    """A run of another scenario adds to the file."""
    file = tmp_path / "set.json"
    for name in ("one", "two"):
        content = results.begin(file, FACTS, name)
        results.entry_of(content, name, {"seconds": 5})["rounds"].append({"a/1": seen(4)})
        results.save(content, file)
    found, _ = results.read_results([file])
    assert list(found) == ["one", "two"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"commit": "def"}, "commit abc, now def"),
        ({"versions": {"python": "3.11.7", "granian": "3.0"}}, "granian 2.8.7, now 3.0"),
        ({"machine": {"cpu": "Y", "cores": 2, "load_before": 0.1}}, "cpu X, now Y"),
    ],
)
def test_results_of_other_conditions_do_not_mix(tmp_path: Path, changes: dict, what: str) -> None:
    """One file is one commit on one machine with one set of versions."""
    file = tmp_path / "set.json"
    results.save(results.begin(file, FACTS, "first"), file)
    with pytest.raises(results.OtherConditions, match=what):
        results.begin(file, FACTS | changes, "second")
    assert len(results.begin(file, FACTS | changes, "second", fresh=True)["runs"]) == 1


def test_measurements_of_other_lengths_do_not_mix(tmp_path: Path) -> None:
    """Rounds of one scenario are all alike."""
    content = results.begin(tmp_path / "set.json", FACTS, "first")
    results.entry_of(content, "s", {"seconds": 5})
    with pytest.raises(results.OtherConditions, match="seconds 5, now 3"):
        results.entry_of(content, "s", {"seconds": 3})


def test_every_scenario_survives_being_written_and_read(tmp_path: Path) -> None:
    """A scenario read back from a file is the same to `entry_of`, or no run could be continued."""
    file = tmp_path / "set.json"
    plain = {scenario.name: to_plain(scenario) for scenario in read_scenarios()}
    for _ in range(2):
        content = results.begin(file, FACTS, "")
        for name, one in plain.items():
            results.entry_of(content, name, one)
        results.save(content, file)


def test_summary_is_median_least_and_greatest() -> None:
    """Spread is shown, not hidden; a server that was measured in fewer rounds says so."""
    found = results.summarise([{"a/1": seen(4)}, {"a/1": seen(9), "b/1": seen(1)}, {"a/1": seen(5)}])
    assert found["a/1"][0]["rps"] == {"median": 5, "min": 4, "max": 9}
    assert found["a/1"][0]["rounds"] == 3
    assert found["b/1"][0]["rounds"] == 1


def test_results_and_pages_do_not_make_the_commit_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result being written is not a change of what is measured; a changed source is."""
    for name in ("bench/results/a.json", "docs/benchmarks/results.md", "src/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "machine.py"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)  # noqa: S607
    commit = machine.find_commit()
    assert len(commit) == 12
    (tmp_path / "bench/results/a.json").write_text("2")
    (tmp_path / "bench/results/new.json").write_text("2")
    (tmp_path / "docs/benchmarks/results.md").write_text("2")
    assert machine.find_commit() == commit
    (tmp_path / "src/a.py").write_text("2")
    assert machine.find_commit() == f"{commit}-dirty"


def test_published_results_can_be_rendered() -> None:
    """The tables of docs/benchmarks/results.md can be made again from what is in the repository."""
    files = [file for file in RESULTS.glob("*.json") if "scenarios" in json.loads(file.read_text())]
    assert files
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving.render", *map(str, files)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "## Against the goals" in done.stdout
