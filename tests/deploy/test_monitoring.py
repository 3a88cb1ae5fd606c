"""The shipped dashboard and alert rules, against a real Prometheus that scrapes a real server."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from builders import ServerProcess, free_port
from raw_http import wait_until

REPOSITORY = Path(__file__).parents[2]
MONITORING = REPOSITORY / "deploy" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
RULES = MONITORING / "prometheus-rules.yaml"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="no prometheus; Debian's package of that name has it and promtool",
)


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Return every PromQL expression of the dashboard, its variables filled in."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    for name, value in {"$__rate_interval": "15s", "$job": ".*", "$instance": ".*"}.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def test_only_metrics_that_exist_are_used() -> None:
    """Every name in the dashboard and the rules stands in the table of docs/guide/operations.md, and all are of use."""
    table = (REPOSITORY / "docs/guide/operations.md").read_text()
    kinds = dict(re.findall(r"^\| `(nerve_\w+)` \| (\w+) \|", table, re.MULTILINE))
    known = set()
    for name, kind in kinds.items():
        known |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    used = set(re.findall(r"\bnerve_\w+", " ".join(expressions())))
    variables = {variable.get("definition", "") for variable in DASHBOARD["templating"]["list"]}
    assert used <= known
    assert set(re.findall(r"\bnerve_\w+", RULES.read_text() + " ".join(variables))) <= known
    assert {name for name in kinds if not any(each.startswith(name) for each in used)} == set()


def test_dashboard_fits_grafana() -> None:
    """Panels do not overlap, have ids of their own, and take their data source from the variable."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "job", "instance"}
    for panel in panels():
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"] is not None
        assert all('{job=~"$job", instance=~"$instance"' in target["expr"] for target in panel["targets"])


@needs_prometheus
def test_rules() -> None:
    """Prometheus takes the rules, and each alert fires when it should and not before."""
    for command in (
        ["check", "rules", str(RULES)],
        ["test", "rules", str(MONITORING / "prometheus-rules-test.yaml")],
    ):
        done = subprocess.run([str(PROMTOOL), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def server(serve: Callable[..., ServerProcess]) -> ServerProcess:
    """Run a server of the lookup model."""
    return serve()


@pytest.fixture
def prometheus(tmp_path: Path, server: ServerProcess) -> Iterator[str]:
    """Run Prometheus with the shipped rules; it scrapes the server every second. Its address."""
    port = free_port()
    target = server.url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "nerve", "static_configs": [{"targets": [target]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
    ]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@needs_prometheus
def test_dashboard_on_a_real_scrape(prometheus: str, server: ServerProcess) -> None:
    """Every panel shows a number for a server that is asked; promtool finds nothing wrong with the metrics."""

    def query(expression: str) -> list[dict[str, Any]]:
        command = [str(PROMTOOL), "query", "instant", "--format=json", prometheus, expression]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (expression, done.stderr)
        result: list[dict[str, Any]] = json.loads(done.stdout)
        return result

    def is_up() -> bool:
        try:
            return httpx.get(f"{prometheus}/-/ready").status_code == 200 and bool(query("up == 1"))
        except httpx.TransportError:
            return False

    wait_until(is_up, "Prometheus has scraped the server", timeout=60)
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url) as client:
            while not stop.wait(0.02):
                client.post(
                    "/predict_tokens", json={"inputs": ["Anna", "Bob lives in Paris"], "truncate": True}
                )
                client.post("/predict_tokens", json={})

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        wait_until(
            lambda: bool(query("count_over_time(nerve_texts_total[1m]) >= 6")),
            "there is a history",
            timeout=30,
        )
        for expression in expressions():
            values = [float(sample["value"][1]) for sample in query(expression)]
            assert values, expression
            assert not any(map(math.isnan, values)), expression
        (share,) = query("sum(rate(nerve_rejections_total[15s])) / sum(rate(nerve_requests_total[15s]))")
        assert 0.2 < float(share["value"][1]) < 0.6
    finally:
        stop.set()
        asker.join()
    groups = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    scraped = server.client.get("/metrics").content
    done = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=scraped, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
