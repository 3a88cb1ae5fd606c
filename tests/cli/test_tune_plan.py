"""What `nerve tune` tries, how it finds a capacity, and when it prefers one setting to another."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nerve.cli.tune.neighbours import Neighbours, is_disturbed
from nerve.cli.tune.plan import (
    RESOLUTION,
    Measured,
    RateSearch,
    Setting,
    Standing,
    apply,
    choose,
    coordinates,
    doubts,
    finalists,
    is_step,
    nearest,
    normalize,
    setting_of,
    summarize_rounds,
)
from nerve.cli.tune.report import describe, make_report, print_report
from nerve.config import CpuMode, Precision, parse_config

START = Setting(Precision.AUTO, 1, None, CpuMode.AUTO, None, None, None)
MINIMAL: dict[str, Any] = {"model": {"checkpoint_repository": {"source": "LOCAL", "path": "/m"}}}


def measured(setting: Setting, capacity: float, p99_ms: float = 10.0) -> Measured:
    """Return a measurement in which only capacity and p99 matter."""
    return Measured(setting, capacity, 5.0, p99_ms, capacity, 0.1)


def test_setting_goes_into_a_configuration_and_back() -> None:
    """Every tuned key lands at its place, and no other key changes."""
    config = parse_config({**MINIMAL, "limits": {"max_inputs": 7}}, {}, Path("/"))
    setting = Setting(Precision.INT8, 2, 3, CpuMode.LATENCY, 8, 1024, 0.2)
    changed = apply(config, setting)
    assert setting_of(config) == START
    assert setting_of(changed) == setting
    assert changed.limits == config.limits
    assert apply(changed, START) == config


@given(st.floats(1, 1e4), st.floats(0.05, 1.2))
def test_rate_search_brackets_the_capacity(ceiling: float, share: float) -> None:
    """What is reported has passed, and nothing that failed lies below it; with probes enough it is close."""
    capacity = share * ceiling
    search = RateSearch(ceiling, max_probes=20)
    while (rate := search.next()) is not None:
        search.record(rate, rate <= capacity)
    assert search.passed <= capacity < search.failed
    assert search.failed <= RESOLUTION * search.passed


def test_rate_search_ends_after_its_probes() -> None:
    """A setting that never passes costs a bounded number of probes and has capacity 0."""
    search = RateSearch(100, max_probes=3)
    rates = []
    while (rate := search.next()) is not None:
        rates.append(rate)
        search.record(rate, passed=False)
    assert rates == sorted(rates, reverse=True)
    assert (len(rates), search.passed) == (3, 0)


def test_rate_search_begins_at_a_hint() -> None:
    """What was found before is tried first, and steps around it are small."""
    search = RateSearch(100, max_probes=3, hint=50)
    assert search.next() == 50
    search.record(50, passed=False)
    second = search.next()
    assert second is not None
    assert 40 < second < 50


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
def test_threads_never_exceed_the_cores(cores: int) -> None:
    """Workers times threads stay within what the process may use, and one worker on all cores is tried."""
    changes = dict(coordinates([Precision.FLOAT32], cores, 512, is_cpu=True))["workers, threads"]
    assert {"workers": 1, "threads": cores} in changes
    assert all(c["workers"] * c["threads"] <= cores for c in changes)
    assert len(changes) == len({tuple(c.values()) for c in changes})


def test_only_allowed_precisions_are_tried() -> None:
    """Accuracy is the user's decision: nothing but what is passed in is ever a candidate."""
    for allowed in ([], [Precision.FLOAT32], [Precision.FLOAT32, Precision.INT8]):
        lines = coordinates(allowed, 4, 512, is_cpu=True)
        tried = {change["precision"] for _, changes in lines for change in changes if "precision" in change}
        assert tried == set(allowed)


def test_gpu_is_not_tuned_by_threads_of_the_cpu() -> None:
    """On CUDA only precision and batch limits matter."""
    names = [name for name, _ in coordinates([Precision.FLOAT16], 8, 512, is_cpu=False)]
    assert names == ["precision", "max_batch_size", "max_batch_tokens"]


def test_settings_that_behave_the_same_are_tried_once() -> None:
    """Defaults equal what they stand for, and the mode says nothing about one thread."""
    spelled = Setting(Precision.FLOAT32, 1, 4, CpuMode.AUTO, 32, None, 0.05)
    assert normalize(START, 4, is_cpu=True) == normalize(spelled, 4, is_cpu=True)
    one = replace(START, threads=1)
    modes = {normalize(replace(one, mode=mode), 4, is_cpu=True) for mode in CpuMode}
    assert len(modes) == 1
    assert normalize(START, 4, is_cpu=False).precision is Precision.FLOAT16


def test_step_needs_more_than_noise() -> None:
    """A gain of a few per cent in one measurement is noise; where nothing passes, nearer is better."""
    other = replace(START, workers=2)
    assert not is_step(measured(START, 100), measured(other, 103))
    assert is_step(measured(START, 100), measured(other, 110))
    assert is_step(measured(START, 0, p99_ms=50), measured(other, 0, p99_ms=30))
    assert not is_step(measured(START, 0, p99_ms=50), measured(other, 0, p99_ms=49))
    assert not is_step(measured(START, 10), measured(other, 0, p99_ms=1))


def test_start_and_end_of_the_search_are_finalists() -> None:
    """The user's own setting is always compared with what was found; no setting stands there twice."""
    settings = [replace(START, max_batch_size=size) for size in (1, 2, 3, 4)]
    every = [measured(START, 10), *(measured(s, 20 + i) for i, s in enumerate(settings))]
    assert finalists(every, settings[1], START) == [settings[1], START, settings[3]]
    assert finalists(every[:1], START, START) == [START]


def test_own_setting_stays_unless_beaten_beyond_its_spread() -> None:
    """A median within what the user's setting reached in its best round is no reason to change anything."""
    other = replace(START, workers=2)
    rounds = [measured(START, c) for c in (90, 100, 110)]
    near = summarize_rounds([*rounds, *(measured(other, c) for c in (95, 108, 120))])
    assert choose(near, START).setting == START
    clear = summarize_rounds([*rounds, *(measured(other, c) for c in (105, 115, 120))])
    assert choose(clear, START).setting == other
    assert choose(clear, START).capacity == 115


def test_the_best_is_better_in_every_round() -> None:
    """A round in which it was not, or in which it missed the target, is enough to leave everything as it is."""
    other = replace(START, workers=2)
    begun = Standing(START, (100.0, 100.0, 100.0), 10, 20)
    assert choose([begun, Standing(other, (150.0, 150.0, 99.0), 10, 20)], START) is begun
    assert choose([begun, Standing(other, (150.0, 0.0, 150.0), 10, 20)], START) is begun
    missed = Standing(START, (0.0, 0.0, 0.0), 20, 40)
    assert choose([missed, Standing(other, (50.0, 0.0, 50.0), 10, 20)], START) is missed
    assert choose([missed, Standing(other, (50.0, 40.0, 50.0), 10, 20)], START).setting == other


def test_nearest_is_named_when_nothing_meets_the_target() -> None:
    """With capacity 0 all round, the lowest latency counts."""
    other = replace(START, workers=2)
    standings = [Standing(START, (0.0,), 20, 40), Standing(other, (0.0,), 15, 30)]
    assert choose(standings, START).setting == START
    assert nearest(standings).setting == other


@pytest.mark.parametrize(
    ("rounds", "n_requests", "others", "said"),
    [
        (3, 500, 0.05, []),
        (3, 500, 0.7, ["other programs used up to 0.7 of the machine's 4 cores"]),
        (1, 500, 0.0, ["only 1 of 3 rounds fitted into the time"]),
        (3, 99, 0.0, ["a rate was held for 99 requests only, too few for a p99"]),
        (1, 12, 3.9, ["other programs", "only 1 of 3", "a rate was held for 12"]),
    ],
)
def test_what_makes_a_result_unreliable(rounds: int, n_requests: int, others: float, said: list[str]) -> None:
    """A busy machine, too few rounds, and too few requests are each said."""
    one = Standing(START, (100.0,) * rounds, 10, 20, n_requests, others)
    found = doubts([one], one, cores=4, of_machine=4)
    assert [line[: len(words)] for line, words in zip(found, said, strict=True)] == said


def test_others_disturb_only_where_they_take_what_is_measured() -> None:
    """Four busy cores of sixty-four take nothing from two; on a machine of four they do."""
    assert not is_disturbed(4.0, cores=2, of_machine=64)
    assert is_disturbed(4.0, cores=2, of_machine=4)
    assert not is_disturbed(0.05, cores=2, of_machine=2)


def test_neighbours_are_what_is_left_of_the_machines_work(tmp_path: Path) -> None:
    """All work of the processors less our own; what waits for a disk is no work, what a hypervisor takes is."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  1000 0 0 5000 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    neighbours = Neighbours(stat)
    time.sleep(0.05)
    assert neighbours.cores() == 0.0
    stat.write_text("cpu  1000 0 0 9000 9000 0 0 0 0 0\n")
    assert neighbours.cores() == 0.0
    stat.write_text("cpu  6000 0 0 9000 9000 0 0 5000 0 0\n")  # 100 seconds at the usual 100 ticks
    assert neighbours.cores() > 1
    assert Neighbours(tmp_path / "none").cores() == 0.0
    stat.write_text("nonsense\n")
    assert Neighbours(stat).cores() == 0.0


def test_the_kernel_counts_other_programs() -> None:
    """A process that nobody has waited for counts as somebody else's."""
    code = "import time\nwhile time.process_time() < 1: pass\nprint(flush=True)\ninput()"
    begun, neighbours = time.monotonic(), Neighbours()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        others = neighbours.cores() * (time.monotonic() - begun)
        assert others > 0.5
        busy.communicate(b"\n")


def report_of(standings: list[Standing]) -> dict[str, Any]:
    """Return the report of a search that found these."""
    search = SimpleNamespace(
        target=0.1,
        cores=2,
        of_machine=2,
        client_cores=0.02,
        measured=[measured(one.setting, one.capacity) for one in standings],
        refused=[],
        start=START,
    )
    winner = choose(standings, START)
    report = make_report(search, standings, winner, {}, 0.995)  # type: ignore[arg-type]
    return report | {"texts": 5, "own_texts": True, "written": "c.yaml" if winner.setting != START else None}


def shown(report: dict[str, Any], width: int = 100) -> str:
    """Return what is printed on a terminal."""
    file = io.StringIO()
    print_report(report, Console(file=file, width=width, force_terminal=True, color_system=None))
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


def test_marks_stand_in_the_table_and_in_the_file() -> None:
    """Whoever reads the table, or only the file, sees what spoilt the figures; headings are never broken."""
    other = replace(START, workers=2)
    few = report_of([Standing(START, (50.0,), 10, 20, 500, 0.8), Standing(other, (90.0,), 10, 20, 500, 0.8)])
    text = shown(few)
    assert text.count("busy: others 0.8 cores, 1 of 3 rounds") == 2
    assert "NOT RELIABLE: other programs used up to 0.8 of the machine's 2 cores\n" in text
    assert "NOT RELIABLE: only 1 of 3 rounds fitted into the time\n" in text
    assert re.search(r" rate +rounds +p50 +p99", text)
    assert "as it is" in text
    narrow = shown(few, 70)  # the mark takes two lines there, and nothing is left out
    assert "…" not in narrow
    assert re.search(r" workers +rate +rounds +p50 +p99", narrow)
    (marked,) = [line for line in describe(few) if line.startswith("NOT RELIABLE: ")]
    assert "other programs" in marked
    assert "only 1 of 3 rounds" in marked
    good = report_of([Standing(START, (50.0,) * 3, 10, 20, 500), Standing(other, (90.0,) * 3, 10, 20, 500)])
    assert "NOT RELIABLE" not in shown(good) + "".join(describe(good))
    assert "written to c.yaml" in shown(good)


def test_nothing_better_is_said_and_nothing_written() -> None:
    """The last line says that the configuration stays."""
    other = replace(START, workers=2)
    same = report_of([Standing(START, (50.0,) * 3, 10, 20, 500), Standing(other, (50.0,) * 3, 10, 20, 500)])
    assert same["met"]
    last = shown(same, width=400).splitlines()[-1]
    assert last.startswith("the configuration stays: nothing was better in every round.")
    assert last.endswith("nothing is written")
