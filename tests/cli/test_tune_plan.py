"""What `nerve tune` tries, how it finds a capacity, and when it prefers one setting to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve.cli.tune.plan import (
    RESOLUTION,
    Measured,
    RateSearch,
    Setting,
    Standing,
    apply,
    choose,
    coordinates,
    finalists,
    is_step,
    normalize,
    setting_of,
    summarize_rounds,
)
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


def test_nearest_is_chosen_when_nothing_meets_the_target() -> None:
    """With capacity 0 all round, the lowest latency wins."""
    other = replace(START, workers=2)
    standings = [Standing(START, (0.0,), 20, 40), Standing(other, (0.0,), 15, 30)]
    assert choose(standings, START).setting == other
