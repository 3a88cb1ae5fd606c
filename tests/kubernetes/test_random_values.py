"""Random values within values.schema.json: whatever the schema lets pass must render to what a cluster takes."""

from __future__ import annotations

import contextlib
import json
import os
import re
from functools import cache
from typing import Any

import pytest
from helm_python import HelmRenderError, HelmValuesError  # type: ignore[import-not-found]
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema
from relations import faults
from rendering import CHART, chart, render
from schemas import VERSIONS, kubernetes_faults

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# What the schema hands on to Kubernetes as it is: values of each kind that are valid there.
PASSED: dict[str, list[Any]] = {
    "NetworkPolicyPeer": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
    "NetworkPolicyEgressRule": [{"to": [{"podSelector": {}}]}, {}],
    "PodSecurityContext": [{}, {"runAsUser": None}, {"fsGroup": 7, "runAsNonRoot": False}],
    "SecurityContext": [{}, {"capabilities": {"add": ["SYS_NICE"]}}, {"readOnlyRootFilesystem": False}],
    "Toleration": [
        {"operator": "Exists"},
        {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 3},
    ],
    "Affinity": [{}, {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}],
    "EnvVarSource": [{"fieldRef": {"fieldPath": "status.podIP"}}],
    "EnvFromSource": [{"secretRef": {"name": "more"}}],
    "Volume": [{"name": "more", "emptyDir": {}}],
    "VolumeMount": [{"name": "tmp", "mountPath": "/more"}],
}
EXAMPLES = int(os.environ.get("NERVE_EXAMPLES", "150"))


def narrowed(schema: Any) -> Any:
    """Return the schema with Kubernetes' own objects as a choice of valid ones, and lists of them short."""
    if isinstance(schema, list):
        return [narrowed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kind = str(schema.get("description", "")).removeprefix("As Kubernetes' ")
    if kind in PASSED:
        return {"enum": PASSED[kind]}
    found = {key: narrowed(value) for key, value in schema.items()}
    if schema.get("type") == "array":
        found.setdefault("maxItems", 3)
        # Names are unique in Kubernetes' lists: no schema can say that.
        if found["items"].get("enum") in (PASSED["Volume"], PASSED["VolumeMount"]):
            found["maxItems"] = 1
    return found


@cache
def parts() -> dict[str, st.SearchStrategy[Any]]:
    """Return a strategy for each top value."""
    narrow = narrowed(SCHEMA)
    shared = {"definitions": narrow["definitions"]}
    return {
        name: from_schema({**shared, **part})
        for name, part in narrow["properties"].items()
        if name != "global"
    }


@st.composite
def some_values(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a few of the top values at a time: all together would be too much for one example."""
    strategies = parts()
    names = draw(st.lists(st.sampled_from(sorted(strategies)), max_size=6, unique=True))
    return {name: draw(strategies[name]) for name in names}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="NERVE_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(values=some_values(), version=st.sampled_from(VERSIONS))
def check_values(values: dict[str, Any], version: str) -> None:
    """Whatever Helm accepts renders, and a cluster takes it."""
    try:
        chart().validate_schema(values)
    except HelmValuesError:
        # Python's `$` matches before a last newline, Go's does not; and relations between two values.
        assume(False)
    # Names of variables are unique in Kubernetes' lists.
    names = [each["name"] for each in values.get("extraEnv", [])]
    assume(len(set(names)) == len(names))
    if re.search(r"[\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]", json.dumps(values, ensure_ascii=False)):
        with contextlib.suppress(HelmRenderError):  # the default does not always reach YAML
            render(values)
        return
    manifests = render(values)
    assert faults(manifests) == []
    assert kubernetes_faults(manifests, version) == []


@pytest.mark.timeout(1200)
def test_random_values() -> None:
    """Examples are the same each time, unless NERVE_EXAMPLES asks for as many others."""
    check_values()
