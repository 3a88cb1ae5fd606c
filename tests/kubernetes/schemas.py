"""Validators that other people publish: Kubernetes' schemas, and those of custom resources from npm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from rendering import Manifest

HERE = Path(__file__).parent
NODE = shutil.which("node")
MODULES = Path(os.environ.get("NERVE_NODE_MODULES", HERE.parents[1] / ".venv-deploy/node_modules"))
# The oldest of the chart's kubeVersion, some between, and the newest that there are schemas of.
VERSIONS = ["1.27", "1.29", "1.31", "1.33", "1.35", "1.37"]
GROUPS = {
    "monitoring.coreos.com": "prometheus-operator",
    "keda.sh": "keda",
    "gateway.networking.k8s.io": "gateway-api",
}
needs_node = pytest.mark.skipif(
    not (NODE and (MODULES / "@kubernetes-models").is_dir()),
    reason=f"no node, or no @kubernetes-models in {MODULES}: the schemas of custom resources come from npm",
)


def is_custom(manifest: Manifest) -> bool:
    """Whether a CRD, not Kubernetes itself, defines a manifest's kind."""
    group = manifest["apiVersion"].partition("/")[0]
    return ("." in group and not group.endswith(".k8s.io")) or group == "gateway.networking.k8s.io"


def kubernetes_faults(manifests: list[Manifest], version: str) -> list[str]:
    """Return what Kubernetes' own schemas refuse, unknown fields included."""
    found = []
    for each in manifests:
        if is_custom(each):
            continue
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version} {each['kind']}: {error}"[:500])
    return found


def custom_faults(manifests: list[Manifest]) -> list[str]:
    """Return what the CRDs' schemas refuse."""
    custom = [each for each in manifests if is_custom(each)]
    unknown = {each["apiVersion"].partition("/")[0] for each in custom} - GROUPS.keys()
    assert not unknown, f"no schemas of {unknown}"
    done = subprocess.run(
        [str(NODE), str(HERE / "custom.cjs"), str(MODULES), json.dumps(GROUPS)],
        input=json.dumps(custom),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(done.stdout)
    return found
