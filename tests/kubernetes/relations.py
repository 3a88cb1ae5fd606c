"""What an API server or a cluster would refuse, and no schema sees: names, labels, and what refers to what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rendering import Manifest, of_kind, only

_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def faults(manifests: list[Manifest]) -> list[str]:
    """Return what is wrong, one line each; none: everything fits together."""
    return [*_metadata_faults(manifests), *_pod_faults(manifests), *_reference_faults(manifests)]


def _metadata_faults(manifests: list[Manifest]) -> Iterator[str]:
    seen = set()
    for each in manifests:
        kind, meta = each["kind"], each["metadata"]
        name = meta["name"]
        if (kind, name) in seen:
            yield f"two of {kind} {name}"
        seen.add((kind, name))
        rule, most = (_SERVICE, 63) if kind == "Service" else (_NAME, 253)
        if not rule.fullmatch(name) or len(name) > most:
            yield f"{kind}: name {name!r}"
        pods = each.get("spec", {}).get("template", {}).get("metadata", {})
        for labels in (meta.get("labels", {}), pods.get("labels", {})):
            for key, value in labels.items():
                if not (isinstance(value, str) and _LABEL.fullmatch(value) and len(value) <= 63):
                    yield f"{kind}: label {key}={value!r}"
                if not _KEY.fullmatch(key):
                    yield f"{kind}: label's key {key!r}"
        for notes in (meta.get("annotations", {}), pods.get("annotations", {})):
            yield from (f"{kind}: annotation {k}={v!r}" for k, v in notes.items() if not isinstance(v, str))


def _pod_faults(manifests: list[Manifest]) -> Iterator[str]:
    specs = [each["spec"]["template"]["spec"] for each in of_kind(manifests, "Deployment")]
    specs += [each["spec"] for each in of_kind(manifests, "Pod")]
    for spec in specs:
        yield from _volume_faults(spec, manifests)
        ports: set[str] = set()
        for container in spec["containers"]:
            own = {each["name"] for each in container.get("ports", [])}
            if own & ports:
                yield f"two ports of one name: {own & ports}"
            ports |= own
            yield from _container_faults(container, own)


def _volume_faults(spec: dict[str, Any], manifests: list[Manifest]) -> Iterator[str]:
    maps = {each["metadata"]["name"] for each in of_kind(manifests, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(manifests, "PersistentVolumeClaim")}
    volumes = spec.get("volumes", [])
    names = [each["name"] for each in volumes]
    if len(set(names)) != len(names):
        yield "two volumes of one name"
    for volume in volumes:
        if "configMap" in volume and volume["configMap"]["name"] not in maps:
            yield f"no such map: {volume}"
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in claims and not claim.startswith("existing"):
            yield f"no such claim: {volume}"
    mounts = [each for container in spec["containers"] for each in container.get("volumeMounts", [])]
    yield from (f"no such volume: {each}" for each in mounts if each["name"] not in names)


def _container_faults(container: dict[str, Any], ports: set[str]) -> Iterator[str]:
    paths = [each["mountPath"] for each in container.get("volumeMounts", [])]
    if len(set(paths)) != len(paths):
        yield f"two mounts at one path: {paths}"
    variables = [each["name"] for each in container.get("env", [])]
    if len(set(variables)) != len(variables):
        yield f"a variable is set twice: {variables}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        check = container.get(probe, {})
        port = (check.get("httpGet") or check.get("tcpSocket") or {"port": None})["port"]
        if port is not None and port not in ports:
            yield f"{probe} asks port {port}, which the container has not"


def _reference_faults(manifests: list[Manifest]) -> Iterator[str]:
    deployment = only(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    tests = [each["metadata"]["labels"] for each in of_kind(manifests, "Pod")]
    for kind, selector in _selectors(manifests):
        if not _selects(selector, labels):
            yield f"{kind} does not select the pods"
        if any(_selects(selector, other) for other in tests):
            yield f"{kind} selects the pod of `helm test`"
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for each in of_kind(manifests, kind):
            if each["spec"]["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
                yield f"{kind} scales something else"
            if "replicas" in deployment["spec"]:
                yield f"{kind} and spec.replicas fight"
    yield from _service_faults(manifests)


def _selectors(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, str]]]:
    deployment = only(manifests, "Deployment")["spec"]
    yield "Deployment", deployment["selector"]["matchLabels"]
    yield "Service", only(manifests, "Service")["spec"]["selector"]
    for each in of_kind(manifests, "PodDisruptionBudget"):
        yield "PodDisruptionBudget", each["spec"]["selector"]["matchLabels"]
    for each in of_kind(manifests, "NetworkPolicy"):
        yield "NetworkPolicy", each["spec"]["podSelector"]["matchLabels"]
    for each in deployment["template"]["spec"].get("topologySpreadConstraints", []):
        yield "spread", each["labelSelector"]["matchLabels"]


def _service_faults(manifests: list[Manifest]) -> Iterator[str]:
    service = only(manifests, "Service")
    name, ports = service["metadata"]["name"], service["spec"]["ports"]
    containers = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    open_ports = {port["name"] for container in containers for port in container["ports"]}
    yield from (f"the port {port} leads nowhere" for port in ports if port["targetPort"] not in open_ports)
    if len({port["port"] for port in ports}) != len(ports):
        yield "two ports of the Service have one number"
    backends = [
        path["backend"]["service"]["name"]
        for ingress in of_kind(manifests, "Ingress")
        for rule in ingress["spec"].get("rules", [])
        for path in rule["http"]["paths"]
    ]
    for route in of_kind(manifests, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                backends.append(backend["name"])
                if backend["port"] not in [port["port"] for port in ports]:
                    yield f"the route's port {backend['port']} is none of the Service's"
    yield from (f"{each} is no Service" for each in backends if each != name)
    for monitor in of_kind(manifests, "ServiceMonitor"):
        if not _selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"]):
            yield "the ServiceMonitor does not select the Service"
        names = [port["name"] for port in ports]
        yield from (
            f"no port {end['port']}" for end in monitor["spec"]["endpoints"] if end["port"] not in names
        )


def _selects(selector: dict[str, str], labels: dict[str, Any]) -> bool:
    return bool(selector) and selector.items() <= labels.items()
