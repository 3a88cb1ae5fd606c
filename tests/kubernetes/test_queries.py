"""What KEDA and prometheus-adapter ask Prometheus: by promtool on made-up series, names by the table of metrics."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import DEPLOY, REPOSITORY, only, render

PROMTOOL = shutil.which("promtool")
SERIES = 'namespace="ner",job="demo-nerve"'
ADAPTER = yaml.safe_load((DEPLOY / "monitoring" / "prometheus-adapter.yaml").read_text())
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool; Debian's package prometheus has it"
)


def queries(**values: Any) -> dict[str, str]:
    """Return KEDA's queries by their names."""
    triggers = only(render({"autoscaling": {"kind": "keda", **values}}), "ScaledObject")["spec"]["triggers"]
    return {each["name"]: each["metadata"]["query"] for each in triggers}


def adapter_queries() -> dict[str, str]:
    """Return the adapter's queries by the names of the metrics, filled in as it does."""
    return {
        rule["name"]["as"]: rule["metricsQuery"]
        .replace("<<.LabelMatchers>>", 'namespace="ner",pod=~"a|b"')
        .replace("<<.GroupBy>>", "pod")
        for rule in ADAPTER["rules"]["custom"]
    }


def busy(pod: str, seconds_a_minute: float, threads: int = 2) -> list[dict[str, str]]:
    """Return the series of a pod whose engine computes for so long in each minute."""
    labels = f'{{{SERIES},pod="{pod}"}}'
    return [
        {"series": f"nerve_engine_busy_seconds_total{labels}", "values": f"0+{seconds_a_minute / 2}x10"},
        {"series": f"nerve_engine_threads{labels}", "values": f"{threads}x10"},
    ]


def answered(pod: str, refused: float, below_1s: float, below_2s: float) -> list[dict[str, str]]:
    """Return the series of a pod that refuses so many a minute, and answers so many within one and two seconds."""
    labels = f'{SERIES},pod="{pod}"'
    name = "nerve_request_duration_seconds"
    return [
        {
            "series": f'nerve_rejections_total{{{labels},reason="queue_deadline"}}',
            "values": f"0+{refused}x10",
        },
        {"series": f'nerve_rejections_total{{{labels},reason="malformed"}}', "values": "0+600x10"},
        {"series": f'{name}_bucket{{{labels},le="1"}}', "values": f"0+{below_1s}x10"},
        {"series": f'{name}_bucket{{{labels},le="2"}}', "values": f"0+{below_2s}x10"},
        {"series": f'{name}_bucket{{{labels},le="+Inf"}}', "values": f"0+{below_2s}x10"},
        {"series": f"{name}_count{{{labels}}}", "values": f"0+{below_2s}x10"},
    ]


def check(tmp_path: Path, series: list[dict[str, str]], expected: dict[str, list[tuple[str, float]]]) -> None:
    """Have promtool compare what queries give after five minutes with what they should."""
    tests = [
        {
            "expr": f"round({query}, 0.0001)",
            "eval_time": "5m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
        }
        for query, samples in expected.items()
    ]
    file = tmp_path / "test.yaml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "30s", "input_series": series, "promql_expr_test": tests}]})
    )
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_queries_say_what_they_should(tmp_path: Path) -> None:
    """Pods' worth of work; the share of refusals, bad requests aside; the 99th percentile over all pods."""
    # a: half of two threads; b: above what it has, which counts as one pod.
    series = [*busy("a", 60), *busy("b", 150), *answered("a", 10, 90, 90), *answered("b", 0, 0, 100)]
    asked, pods = queries(), adapter_queries()
    check(
        tmp_path,
        series,
        {
            asked["busy"]: [("{}", 1.5)],
            asked["refused"]: [("{}", 10 / 200)],
            asked["p99"]: [("{}", 1.981)],
            pods["nerve_engine_busy_share"]: [('{pod="a"}', 0.5), ('{pod="b"}', 1)],
            pods["nerve_refused_share"]: [('{pod="a"}', 0.1), ('{pod="b"}', 0)],
            pods["nerve_request_p99_seconds"]: [('{pod="a"}', 0.99), ('{pod="b"}', 1.99)],
        },
    )


@needs_promtool
def test_queries_of_idle_pods_give_zero(tmp_path: Path) -> None:
    """Where nobody asks, and where there are no series at all, each query gives 0 and not nothing or NaN."""
    asked, pods = queries(), adapter_queries()
    check(
        tmp_path,
        [*busy("a", 0), *answered("a", 0, 0, 0)],
        {query: [("{}", 0)] for query in asked.values()}
        | {query: [('{pod="a"}', 0)] for query in pods.values()},
    )
    check(tmp_path, [], {query: [("{}", 0)] for query in asked.values()})


@needs_promtool
def test_another_release_does_not_count(tmp_path: Path) -> None:
    """Series of another release or namespace say nothing about this one."""
    series = [{**each, "series": each["series"].replace("demo-nerve", "other")} for each in busy("a", 60)]
    series += [{**each, "series": each["series"].replace('"ner"', '"else"')} for each in busy("a", 60)]
    check(tmp_path, series, {queries()["busy"]: [("{}", 0)]})
    chosen = queries(keda={"selector": 'job="other"'})["busy"]
    check(tmp_path, series, {chosen: [("{}", 0.5)]})


def test_only_metrics_that_exist() -> None:
    """Every series that is asked for stands in the table of docs/guide/operations.md, with a reason that exists."""
    guide = (REPOSITORY / "docs/guide/operations.md").read_text()
    known = set(re.findall(r"^\| `(nerve_\w+)` \|", guide, re.MULTILINE))
    texts = [*queries().values(), *(rule["metricsQuery"] for rule in ADAPTER["rules"]["custom"])]
    texts += [rule["seriesQuery"] for rule in ADAPTER["rules"]["custom"]]
    for text in texts:
        for name in re.findall(r"\bnerve_\w+", text):
            assert re.sub(r"_(bucket|count)$", "", name) in known
        for reason in "|".join(re.findall(r'reason=~"([^"]+)"', text)).split("|"):
            assert not reason or f"`{reason}`" in guide


def test_hpa_and_keda_ask_for_the_same() -> None:
    """Plain HPA names the adapter's metrics, with the limits that KEDA has."""
    metrics = only(render({"autoscaling": {"kind": "hpa"}}), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [each["pods"]["metric"]["name"] for each in metrics] == list(adapter_queries())
    targets = [int(each["pods"]["target"]["averageValue"].removesuffix("m")) / 1000 for each in metrics]
    triggers = only(render({"autoscaling": {"kind": "keda"}}), "ScaledObject")["spec"]["triggers"]
    assert targets == [float(each["metadata"]["threshold"]) for each in triggers]
