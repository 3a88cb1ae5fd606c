"""The Helm chart: Helm's own lint, Kubernetes' own schemas, and what no schema sees."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cases import CASES, EVERYTHING, GPU, NASTY, REFUSED, RELEASES
from helm_python import HelmError, HelmValuesError  # type: ignore[import-not-found]
from relations import faults
from rendering import (
    CHART,
    DEPLOY,
    REPOSITORY,
    chart,
    config_of,
    environment,
    findings,
    of_kind,
    only,
    pod_spec,
    render,
    server,
)
from schemas import VERSIONS, custom_faults, kubernetes_faults, needs_node

each_case = pytest.mark.parametrize("values", CASES.values(), ids=CASES)


@each_case
def test_helm_lints(values: dict[str, Any]) -> None:
    """`helm lint --strict` has no warning, whatever the values."""
    assert findings(values) == []


@each_case
def test_kubernetes_takes_it(values: dict[str, Any]) -> None:
    """Every version of Kubernetes that the chart is for knows every field, and all parts fit together."""
    manifests = render(values)
    thorough = values in ({}, GPU, EVERYTHING)
    for version in VERSIONS if thorough else (VERSIONS[0], VERSIONS[-1]):
        assert kubernetes_faults(manifests, version) == []
    assert faults(manifests) == []


@needs_node
@each_case
def test_operators_take_it(values: dict[str, Any]) -> None:
    """The schemas of KEDA, of Prometheus' operator and of the gateway API accept what is theirs."""
    assert custom_faults(render(values)) == []


@needs_node
def test_operators_schemas_see_mistakes() -> None:
    """A wrong type in each kind of custom resource is found: the check above can fail."""
    manifests = render(EVERYTHING)
    only(manifests, "ScaledObject")["spec"]["maxReplicaCount"] = "ten"
    only(manifests, "HTTPRoute")["spec"]["parentRefs"][0]["port"] = "http"
    only(manifests, "ServiceMonitor")["spec"]["endpoints"][0]["interval"] = "often"
    only(manifests, "PrometheusRule")["spec"]["groups"][0].pop("name")
    assert len(custom_faults(manifests)) == 4


def test_kubernetes_schemas_see_mistakes() -> None:
    """A misspelt field is found: the check above can fail."""
    manifests = render()
    container = server(manifests)
    container["readynessProbe"] = container.pop("readinessProbe")
    assert "readynessProbe" in kubernetes_faults(manifests, VERSIONS[-1])[0]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_any_release_name(release: str, values: dict[str, Any]) -> None:
    """Every name that Helm takes for a release gives names that Kubernetes takes."""
    manifests = render(values, name=release)
    assert faults(manifests) == []
    assert kubernetes_faults(manifests, VERSIONS[0]) == []


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_no_cluster_takes(values: dict[str, Any], message: str) -> None:
    """A value that cannot work is refused before anything is sent, and the message names its place."""
    with pytest.raises(HelmError) as refused:
        render(values)
    assert message in str(refused.value).replace(".", "/")


@pytest.mark.timeout(1200)
def test_null_for_any_value() -> None:
    """What is left without a value renders to what a cluster takes, or the schema names what is missing."""
    default = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in _paths(default):
        values: dict[str, Any] = json.loads(json.dumps(EVERYTHING))
        inner = values
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = None
        refusal = _refusal(values)
        if refusal is not None:
            assert "missing propert" in refusal, path
            continue
        manifests = render(values)
        assert faults(manifests) == [], path
        if path[-2:] != ("seccompProfile", "type"):  # a Kubernetes object, handed on as it is
            assert kubernetes_faults(manifests, VERSIONS[-1]) == [], path
    assert "replicas" not in only(render({"replicaCount": None}), "Deployment")["spec"]


def _refusal(values: dict[str, Any]) -> str | None:
    try:
        chart().validate_schema(values)
    except HelmValuesError as error:
        return str(error)
    return None


def _paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))


def test_a_scrape_ends_before_the_next() -> None:
    """The operator drops a monitor whose timeout is longer than its interval, and says so in its own log only."""
    for interval, timeout, expected in (("5s", "10s", "5s"), ("1m", "900ms", "900ms"), ("60s", "1m", "1m")):
        monitor = {"enabled": True, "interval": interval, "scrapeTimeout": timeout}
        (endpoint,) = only(render({"metrics": {"serviceMonitor": monitor}}), "ServiceMonitor")["spec"][
            "endpoints"
        ]
        assert endpoint["scrapeTimeout"] == expected


def test_texts_arrive_as_they_are() -> None:
    """Quotes, newlines and braces in values are data: nothing evaluates or changes them."""
    annotated = render(CASES["annotations-nasty"])
    for each in (only(annotated, "Deployment")["spec"]["template"], only(annotated, "Service")):
        assert each["metadata"]["annotations"]["note"] == NASTY
    assert environment(server(render(CASES["environment"])))["NOTE"] == NASTY
    assert server(render(CASES["model-nasty"]))["args"] == [
        "serve",
        '/models/it\'s "mine": {{ x }}',
        "",
        NASTY,
    ]
    config = config_of(render(CASES["config-nasty"]))
    assert config["model"]["name"] == NASTY
    assert config["redaction"] == CASES["config-nasty"]["config"]["redaction"]


def test_safe_by_default() -> None:
    """No root, nothing writable but volumes, no capability, no token, a profile; what Pod Security calls restricted."""
    manifests = render(EVERYTHING)
    spec = pod_spec(manifests)
    assert spec["automountServiceAccountToken"] is False
    assert only(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (test,) = of_kind(manifests, "Pod")
    for container in [*spec["containers"], *test["spec"]["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context.get("runAsUser", spec["securityContext"]["runAsUser"]) > 0
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    # No secret stands in an environment, where `kubectl describe` and every child process would see it.
    assert "secretKeyRef" not in json.dumps(manifests)


@each_case
def test_drain_fits_the_grace_period(values: dict[str, Any]) -> None:
    """Kubernetes kills no pod that still drains."""
    spec = pod_spec(render(values))
    names = environment(spec["containers"][0])
    drain = sum(int(names[f"NERVE_SERVER__DRAIN_{part}_MS"]) for part in ("DELAY", "TIMEOUT")) / 1000
    if values is CASES["environment"]:
        assert names["NERVE_SERVER__DRAIN_DELAY_MS"] == "9000"
    assert spec["terminationGracePeriodSeconds"] > drain


def test_start_may_take_a_download() -> None:
    """The start-up probe waits as long as asked, and nothing restarts the pod before."""
    probe = server(render({"probes": {"startupSeconds": 901}}))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 901


@pytest.mark.parametrize(
    ("kind", "volume"), [("download", "emptyDir"), ("volume", "persistentVolumeClaim"), ("image", None)]
)
def test_cache(kind: str, volume: str | None) -> None:
    """A checkpoint in the image is not hidden by a volume; otherwise the cache has one, of the kind that was asked."""
    spec = pod_spec(render({"cache": {"kind": kind}}))
    found = [each for each in spec["volumes"] if each["name"] == "cache"]
    mounted = [each["mountPath"] for each in spec["containers"][0]["volumeMounts"] if each["name"] == "cache"]
    assert [volume in each for each in found] == ([True] if volume else [])
    assert mounted == (["/var/cache/nerve"] if volume else [])


def test_gpu() -> None:
    """A GPU pod asks for the device, tolerates its taint, and has the image that never turns to the CPU."""
    manifests = render(CASES["gpu"])
    container, spec = server(manifests), pod_spec(manifests)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].endswith("-gpu")
    assert environment(container)["NERVE_MODEL__DEVICE"] == "cuda"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_config_without_a_model() -> None:
    """Settings alone change nothing about which model is served; a model that is named is served as it is."""
    shipped = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    default = {"checkpoint_repository": shipped["model"]["checkpoint_repository"]}
    patterns = {"patterns": shipped["runtime"]["patterns"]}
    limits = {"max_inputs": 1}
    assert config_of(render({"config": {"limits": limits}})) == {
        "model": default,
        "runtime": patterns,
        "limits": limits,
    }
    off = {"patterns": [], "truncate": False}
    assert config_of(render({"config": {"runtime": off}}))["runtime"] == off
    assert config_of(render({"config": {"limits": limits}, "model": "a/b"})) == {"limits": limits}
    for own in (
        {"model": {"checkpoint_repository": {"source": "HF", "repo": "a/b"}}},
        {"trt_llm": {"build": {"checkpoint_repository": {"source": "HF", "repo": "a/b"}}}},
    ):
        assert config_of(render({"config": own})) == own


def test_new_config_makes_new_pods() -> None:
    """The server reads its configuration at start, so a change of it changes the pods."""
    first, second = (
        only(render({"config": {"limits": {"max_inputs": most}}}), "Deployment")["spec"]["template"]
        for most in (1, 2)
    )
    assert first["metadata"]["annotations"] != second["metadata"]["annotations"]
    assert first["spec"] == second["spec"]


def test_one_place_for_each_fact() -> None:
    """Rules, dashboard and Nginx's configuration are the repository's own files; the version is pyproject's."""
    links = {"prometheus-rules.yaml": "monitoring", "grafana-dashboard.json": "monitoring"}
    links |= {"nginx.conf": "", "nginx-http2.conf": "nginx", "config.yaml": ".."}
    for name, folder in links.items():
        assert (CHART / "files" / name).resolve() == (DEPLOY / folder / name).resolve()
    assert {path.name for path in (CHART / "files").iterdir()} == set(links)
    manifests = render(EVERYTHING)
    rules = yaml.safe_load((DEPLOY / "monitoring/prometheus-rules.yaml").read_text())
    assert only(manifests, "PrometheusRule")["spec"] == rules
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
    dashboard = json.loads((DEPLOY / "monitoring/grafana-dashboard.json").read_text())
    assert json.loads(maps["demo-nerve-dashboard"]["nerve.json"]) == dashboard
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert chart().metadata["appVersion"] == project["version"]


def test_nginx_has_the_numbers_of_the_config() -> None:
    """Nginx's limits follow from config and drain; all else in its file is as in the repository."""
    manifests = render({**EVERYTHING, "drain": {"delaySeconds": 2, "timeoutSeconds": 21}})
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
    ours, theirs = maps["demo-nerve-nginx"]["nginx.conf"], (DEPLOY / "nginx.conf").read_text()
    changed = [
        line.strip()
        for line, other in zip(ours.splitlines(), theirs.splitlines(), strict=True)
        if line.strip() != other.strip()
    ]
    assert [re.sub(r"\s*#.*", "", line) for line in changed if not line.startswith("#")] == [
        "worker_shutdown_timeout 21s;",
        "server 127.0.0.1:8000 max_fails=3 fail_timeout=1s;",
        "client_max_body_size 8388608;",
        "proxy_read_timeout 18s;",
        "client_body_buffer_size 8388608;",
        changed[-1],
    ]
    assert "limits.max_body_bytes = 8388608;" in changed[-1]


def test_readme_names_every_value() -> None:
    """The chart's README has each top value once."""
    named = re.findall(r"^\| `(\w+)", (CHART / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(chart().values)
