"""The kustomizations: what `kubectl kustomize` makes of them equals what Helm makes of the chart."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
import yaml
from cases import GPU
from relations import faults
from rendering import DEPLOY, Manifest, render

KUBECTL = shutil.which("kubectl")
KINDS = ("ServiceAccount", "Service", "Deployment", "PodDisruptionBudget")
# Helm's own, and what follows a version that kustomize does not know.
HELMS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")


def built(folder: str) -> dict[str, Manifest]:
    """Return what kustomize builds, by kind."""
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(DEPLOY / "kustomize" / folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {each["kind"]: sorted_lists(each) for each in yaml.safe_load_all(done.stdout)}


def rendered(values: dict[str, Any]) -> dict[str, Manifest]:
    """Return what Helm renders for a release of the chart's name, without what is Helm's own."""
    found = {each["kind"]: each for each in render(values, name="nerve") if each["kind"] in KINDS}
    pods = found["Deployment"]["spec"]["template"]["metadata"]
    pods.pop("annotations")
    for each in found.values():
        each["metadata"].pop("namespace")
    for metadata in (pods, *(each["metadata"] for each in found.values())):
        for label in HELMS:
            metadata["labels"].pop(label)
    return {kind: sorted_lists(each) for kind, each in found.items()}


def sorted_lists(value: Any) -> Any:
    """Return a manifest with its lists of named things in one order: patches append elsewhere than templates."""
    if isinstance(value, dict):
        return {key: sorted_lists(each) for key, each in value.items()}
    if isinstance(value, list):
        found = [sorted_lists(each) for each in value]
        named = all(isinstance(each, dict) and "name" in each for each in found)
        return sorted(found, key=lambda each: str(each["name"])) if named else found
    return value


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl, which has kustomize in it")
@pytest.mark.parametrize(("folder", "values"), [("base", {}), ("overlays/gpu", GPU)], ids=["base", "gpu"])
def test_equal_to_the_chart(folder: str, values: dict[str, Any]) -> None:
    """One set of settings, whichever tool a team uses."""
    assert built(folder) == rendered(values)
    assert faults(list(built(folder).values())) == []
