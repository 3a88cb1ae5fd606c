"""The autoscaling rule as Kubernetes documents it, and capacity on paper."""

import json
import tomllib

import pytest
import yaml

from bench.deploy.autoscaler import Autoscaler, Metric, wish
from bench.deploy.capacity import MODELS, Figures, NotPossible, plan, read_figures
from bench.deploy.record import read_scrape, windows_of
from bench.deploy.replicas import middle
from bench.deploy.scaling import RECORDED, VALUES, Service, percentile, recorded_load, replay
from bench.paths import BENCH

SCALING = yaml.safe_load(VALUES.read_text())["autoscaling"]
_DOUBLE = {"type": "Percent", "value": 100, "periodSeconds": 60}
_ONE = {"type": "Pods", "value": 1, "periodSeconds": 60}
UP_AT_ONCE = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [_DOUBLE]},
    "scaleDown": {"stabilizationWindowSeconds": 300, "selectPolicy": "Max", "policies": [_ONE]},
}


def busy(pods: float) -> list[Metric]:
    """Return a busy share that so many pods would hold at its limit."""
    return [Metric(pods * 0.7, 0.7, is_shared=True)]


@pytest.mark.parametrize(
    ("metric", "pods", "wished"),
    [
        (Metric(2.8, 0.7, True), 2, 4),
        (Metric(1.5, 0.7, True), 2, 2),  # 1.07 of the limit: within the tolerance
        (Metric(0.0, 0.7, True), 2, 0),
        (Metric(0.06, 0.02, False), 4, 12),
        (Metric(0.021, 0.02, False), 4, 4),
        (Metric(0.0, 1.0, False), 4, 0),
    ],
)
def test_wish(metric: Metric, pods: int, wished: int) -> None:
    """A shared metric is divided among the pods, another is compared with its limit; a tenth is no reason."""
    assert wish(metric, pods, ready=pods) == wished


def test_value_counts_ready_pods_only() -> None:
    """Pods that start are not multiplied again."""
    assert wish(Metric(2.0, 1.0, False), pods=8, ready=4) == 8


def test_up_is_limited_and_down_waits() -> None:
    """Up by no more than the policy in its period; down as far as the last five minutes allow, one a minute."""
    rule = Autoscaler(2, 20, UP_AT_ONCE)
    assert rule.decide(0, 3, 3, busy(18)) == 6
    assert rule.decide(15, 6, 3, busy(18)) == 6
    assert rule.decide(60, 6, 6, busy(18)) == 12
    for now in range(75, 360, 15):
        assert rule.decide(now, 12, 12, busy(2)) == 12
    assert rule.decide(375, 12, 12, busy(2)) == 11
    assert rule.decide(390, 11, 11, busy(2)) == 11
    assert rule.decide(435, 11, 11, busy(2)) == 10


def test_bounds() -> None:
    """Never below the least nor above the most."""
    rule = Autoscaler(2, 5, UP_AT_ONCE)
    assert rule.decide(0, 4, 4, busy(99)) == 5
    for now in range(1000, 2000, 100):
        pods = rule.decide(now, 2, 2, busy(0))
    assert pods == 2


def test_replay_of_a_steady_load_does_not_oscillate() -> None:
    """The chart's rule keeps its pods while nothing changes, refuses nobody, and replaces a pod that is lost."""
    service = Service(1 / 68, 0.025)
    load = {"unit": 60, "at": [0, 12], "rate": [100, 100], "lost": 5}
    found = replay(load, service, SCALING, start_seconds=40)
    assert (found["turns"], found["changes"], found["refused"]) == (0, 0, 0)
    assert 12 * 60 * 100 * 0.97 < found["answered"] < 12 * 60 * 100 * 1.03
    assert percentile([], 0.99) == 0


def test_replay_of_a_burst_adds_pods() -> None:
    """A load of four times as much gets its pods within minutes, and they go again."""
    load = {"unit": 1, "at": [0, 120, 130, 600, 610, 1500], "rate": [40, 40, 160, 160, 40, 40]}
    found = replay(load, Service(1 / 68, 0.025), SCALING, start_seconds=20)
    at = {each["seconds"]: each["pods"] for each in found["history"]}
    assert at[105] == 2
    assert max(at.values()) >= 4
    assert found["history"][-1]["pods"] < max(at.values())
    assert found["turns"] == 1


def test_loads_are_whole() -> None:
    """Each load has a rate at each of its times, in order."""
    for load in tomllib.loads((BENCH / "deploy/loads.toml").read_text()).values():
        assert len(load["at"]) == len(load["rate"])
        assert load["at"] == sorted(load["at"])


FIGURES = Figures("x", 100, 10, 80, ((36, 10), (128, 30), (512, 120)), 0.95, ())


def test_capacity_follows_the_inputs() -> None:
    """Longer texts, more requests and a shorter p99 take more pods; cost is machines times price."""
    usual = plan(FIGURES, 600, p99_ms=200, cores=8, price=1)
    assert usual.busy == 0.7
    assert usual.pods == 11  # 600 / (70 x 0.95), and one to spare
    assert (usual.machines, usual.cores, usual.cost) == (3, 24, 3 * 730)
    assert plan(FIGURES, 600, tokens=128, p99_ms=600).rate_of_a_pod == pytest.approx(70 / 3)
    strict = plan(FIGURES, 600, p99_ms=40)
    assert strict.busy == pytest.approx(0.5)
    assert strict.pods > usual.pods
    assert FIGURES.factor(1024) == pytest.approx((120 + 90 * 512 / 384) / 10)
    with pytest.raises(NotPossible):
        plan(FIGURES, 1, p99_ms=10)


@pytest.mark.parametrize("model", MODELS)
def test_capacity_stands_on_results(model: str) -> None:
    """At the measured share of time the plan's p99 is the measured one: the curve goes through it."""
    figures = read_figures(model)
    assert plan(figures, 1, p99_ms=figures.p99_ms, most_busy=1).busy == pytest.approx(0.7)
    assert all((BENCH.parent / source).exists() for source in figures.sources)


def test_rounds_of_replicas_come_together() -> None:
    """Medians of rates, the longest answer, sums of answers and failures, the worst exit status."""
    one = {
        "failed": {},
        "seconds": 1.0,
        "sentence": {"answered": 3, "rps": 5.0, "max_ms": 9.0},
        "exit_status": 0,
    }
    two = {
        **one,
        "failed": {"503": 2},
        "sentence": {"answered": 4, "rps": 7.0, "max_ms": 2.0},
        "shares": [0.5],
    }
    assert middle([one, two, two]) == {
        "failed": {"503": 4},
        "seconds": 1.0,
        "sentence": {"answered": 11, "rps": 7.0, "max_ms": 9.0},
        "exit_status": 0,
        "shares": [0.5],
    }
    assert middle([one, {**one, "exit_status": -9}])["exit_status"] == -9


def test_metrics_of_a_recording_are_those_of_prometheus() -> None:
    """Counters go by server: one that dies takes nothing away, and one that is started anew counts from 0 on."""
    text = "\n".join(
        [
            "nerve_engine_busy_seconds_total {busy}",
            'nerve_rejections_total{{reason="queue_deadline"}} 2.0',
            'nerve_rejections_total{{reason="unauthorized"}} 9.0',
            'nerve_request_duration_seconds_bucket{{endpoint="x",le="0.1"}} {low}',
            'nerve_request_duration_seconds_bucket{{endpoint="x",le="+Inf"}} {low}',
        ]
    )
    seen = [
        read_scrape(text.format(busy=busy, low=low)) for busy, low in ((1.0, 10.0), (3.0, 40.0), (0.5, 4.0))
    ]
    assert (seen[0].refused, seen[0].buckets[0.1]) == (2.0, 10.0)
    scrapes = [(0.0, [seen[0], seen[0]]), (2.0, [seen[1], None]), (4.0, [seen[2], seen[0]])]
    (window,) = windows_of(scrapes, 4)
    assert window == {"from": 0, "busy": 0.625, "refused": pytest.approx(2 / 36, abs=1e-4), "p99_ms": 99.0}


def test_recorded_loads_and_simulated_pods_agree() -> None:
    """What the rule would do is the same, whether it is told by the servers or by the simulated pods."""
    recording = json.loads(RECORDED.read_text())
    for name, seen in recording["loads"].items():
        for one, other in zip(seen["recorded"], seen["simulated"], strict=True):
            assert one["busy"] == pytest.approx(other["busy"], abs=0.25), (name, one)
            assert one["refused"] == pytest.approx(other["refused"], abs=0.15), (name, one)
        load, service = recorded_load(seen, recording["speed"])
        assert sum(load["rate"]) == 4 * sum(seen["arrived"])
        assert 0 < service.engine_seconds < service.lone_seconds * 2
