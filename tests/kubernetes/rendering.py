"""The chart, rendered by Helm's own library, as manifests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart, lint  # type: ignore[import-not-found]

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
CHART = DEPLOY / "helm" / "nerve"

Manifest = dict[str, Any]


@cache
def chart() -> Chart:
    """Return the chart, loaded once."""
    return Chart.load(CHART)


def render(
    values: dict[str, Any] | None = None, *, name: str = "demo", namespace: str = "ner"
) -> list[Manifest]:
    """Return the manifests of a release, Kubernetes' order aside."""
    rendered = chart().render(values or {}, name=name, namespace=namespace)
    found: list[Manifest] = []
    for path, text in rendered.items():
        if path.endswith(".yaml"):
            found += [document for document in yaml.safe_load_all(text) if document]
    return found


def findings(values: dict[str, Any] | None = None, kube_version: str | None = None) -> list[str]:
    """Return what `helm lint --strict` finds, but for what is only a hint."""
    report = lint(CHART, values or {}, strict=True, kube_version=kube_version)
    messages = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] > 1]
    return [*messages, *report["errors"]]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the manifests of a kind."""
    return [each for each in manifests if each["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the one manifest of a kind."""
    (found,) = of_kind(manifests, kind)
    return found


def pod_spec(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the spec of the server's pods."""
    spec: dict[str, Any] = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def server(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the server's container."""
    container: dict[str, Any] = pod_spec(manifests)["containers"][0]
    return container


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return a container's variables that have a value."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def config_of(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the server's configuration as rendered."""
    maps = [each["data"] for each in of_kind(manifests, "ConfigMap") if "config.yaml" in each["data"]]
    config: dict[str, Any] = yaml.safe_load(maps[0]["config.yaml"])
    return config
