"""What the bench makes of the numbers that wrk and k6 print."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.serving.generators import percentiles_ms, read_k6, read_wrk, undo_correction


def correct(histogram: Counter[int], interval: int) -> Counter[int]:
    """Do what wrk 4.1 does to its histogram at the end of a run (`stats_correct`)."""
    out = Counter(histogram)
    for value, count in histogram.items():
        if value >= 2 * interval:
            for lower in range(value - interval, interval, -interval):
                out[lower] += count
    return out


@given(
    st.dictionaries(st.integers(1, 20_000), st.integers(1, 50), min_size=1, max_size=30),
    st.integers(200, 5_000),
)
def test_wrk_s_correction_is_undone_exactly(counts: dict[int, int], interval: int) -> None:
    """Percentiles are of measured latencies only: nothing that wrk guesses is left in."""
    measured = Counter(counts)
    assert undo_correction(correct(measured, interval), interval) == measured


def test_correction_changes_the_histogram_of_a_slow_answer() -> None:
    """The test above is about something: wrk adds latencies that nobody measured."""
    assert correct(Counter({5_000: 1}), 1_000).total() == 4


def test_percentile_is_the_first_value_with_enough_at_or_below() -> None:
    """A percentile is an observed latency, in ms, never one between two."""
    histogram = Counter({1_000: 500, 2_000: 400, 7_000: 99, 90_000: 1})
    assert percentiles_ms(histogram) == {"p50": 1.0, "p90": 2.0, "p99": 7.0, "p999": 7.0, "max": 90.0}


def test_percentiles_of_one_latency() -> None:
    """One request is every percentile."""
    assert set(percentiles_ms(Counter({1_500: 1})).values()) == {1.5}


def test_wrk_counts_right_answers_only(tmp_path: Path) -> None:
    """Requests/s are of right answers; wrong and refused ones and lost connections are errors, never dropped."""
    out = tmp_path / "wrk.txt"
    out.write_text(
        "right 60\nnear 10\nwrong 4\nrefused 26\nerror_connect 0\nerror_read 3\nerror_write 0\nerror_timeout 1\n"
        "error_status 26\nrequests 100\nduration_us 2000000\nus 1000 100\n"
    )
    seen = read_wrk(out, connections=1, cpu_seconds=0.5)
    assert seen["rps"] == 35.0
    assert seen["errors"] == {"wrong": 4, "refused": 26, "read": 3, "timeout": 1}
    assert seen["generator_cores"] == 0.25
    assert not seen["invalid"]


def k6_metrics(**changes: float) -> dict:
    """Return a summary as k6 writes it, of 100 requests."""
    counts = {"answers_right": 90, "answers_near": 5, "answers_wrong": 3, "answers_refused": 2} | changes
    trend = {"p(50)": 1.0, "p(90)": 2.0, "p(99)": 3.0, "p(99.9)": 4.0, "max": 5.0, "count": 100}
    late = trend | {"p(99)": changes.pop("late", 0.5)}
    counters = {name: {"values": {"count": count}} for name, count in counts.items() if name != "late"}
    return {**counters, "latency": {"values": trend}, "lateness": {"values": late}}


def test_k6_counts_right_answers_only() -> None:
    """Requests/s are of right answers; all others are errors, never dropped."""
    seen = read_k6(k6_metrics(answers_unanswered=7), seconds=10, cpu_seconds=1)
    assert seen["rps"] == 9.5
    assert seen["requests"] == 107
    assert seen["errors"] == {"wrong": 3, "refused": 2, "unanswered": 7}
    assert seen["latency_ms"] == {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p999": 4.0, "max": 5.0}


@pytest.mark.parametrize(
    ("changes", "what"), [({"dropped_iterations": 2}, "dropped 2"), ({"late": 11.0}, "11 ms late")]
)
def test_open_loop_that_was_not_one_is_marked(changes: dict[str, float], what: str) -> None:
    """A run in which requests were left out, or left late, is not passed off as a measurement of the server."""
    assert what in "; ".join(read_k6(k6_metrics(**changes), seconds=10, cpu_seconds=1)["invalid"])
    assert not read_k6(k6_metrics(), seconds=10, cpu_seconds=1)["invalid"]
