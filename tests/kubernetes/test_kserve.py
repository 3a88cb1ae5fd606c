"""KServe: the manifests by its own CRDs, and a real server started with the runtime's arguments and asked."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from rendering import DEPLOY, REPOSITORY

HERE = Path(__file__).parent
NERVE = os.environ.get("NERVE_PYTHON", str(REPOSITORY / ".venv/bin/python"))
CRDS: dict[str, Any] = json.loads(gzip.decompress((HERE / "kserve/crds.json.gz").read_bytes()))
RUNTIME: dict[str, Any] = yaml.safe_load((DEPLOY / "kserve/clusterservingruntime.yaml").read_text())
SERVICES: list[dict[str, Any]] = list(
    yaml.safe_load_all((DEPLOY / "kserve/inferenceservice.yaml").read_text())
)
(CONTAINER,) = RUNTIME["spec"]["containers"]


def strict(schema: Any) -> Any:
    """Return a CRD's schema that refuses fields it does not have, as an API server does with strict validation."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        found["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"]}
    return found


def faults(manifest: dict[str, Any]) -> list[str]:
    """Return what KServe's own schema says against a manifest."""
    schema = strict(CRDS[f"{manifest['apiVersion']} {manifest['kind']}"])
    schema["properties"]["metadata"] = {"type": "object"}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


@pytest.mark.parametrize("manifest", [RUNTIME, *SERVICES], ids=lambda each: each["metadata"]["name"])
def test_crds_take_it(manifest: dict[str, Any]) -> None:
    """Every field is one of KServe's, with its type."""
    assert faults(manifest) == []


def test_crds_see_mistakes() -> None:
    """A misspelt field and a wrong type are found: the check above can fail."""
    wrong = json.loads(json.dumps(SERVICES[0]))
    wrong["spec"]["predictor"] |= {"minReplica": 1, "maxReplicas": "ten"}
    assert len(faults(wrong)) == 2


def test_services_find_the_runtime() -> None:
    """Formats and protocols of the services are the runtime's; a runtime that is not chosen by itself is named."""
    formats = {each["name"]: each["autoSelect"] for each in RUNTIME["spec"]["supportedModelFormats"]}
    for service in SERVICES:
        model = service["spec"]["predictor"]["model"]
        name = model["modelFormat"]["name"]
        assert formats[name] or model["runtime"] == RUNTIME["metadata"]["name"]
        assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
        drain = 30 + int(CONTAINER["env"][0]["value"]) / 1000
        assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] > drain
    assert CONTAINER["name"] == "kserve-container"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server with the runtime's arguments; only the folder and the port are this machine's."""
    folder = tmp_path_factory.mktemp("models")
    source = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tests')!r}); from pathlib import Path;"
    source += f"from builders import write_lookup_model; write_lookup_model(Path({str(folder)!r}))"
    paths = [str(REPOSITORY / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "NERVE_SERVER__UDS": str(folder / "s"),
    }
    environment |= {each["name"]: each["value"] for each in CONTAINER["env"]} | {
        "NERVE_SERVER__DRAIN_DELAY_MS": "0"
    }
    subprocess.run([NERVE, "-c", source], check=True, env=environment)
    arguments = [
        each.replace("{{.Name}}", "ner").replace("/mnt/models", str(folder)) for each in CONTAINER["args"]
    ]
    assert "--port=8080" in arguments
    arguments.remove("--port=8080")
    process = subprocess.Popen([NERVE, "-m", "nerve", *arguments], env=environment, cwd=folder)
    deadline = time.monotonic() + 90
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(folder / "s")), base_url="http://nerve"
    ) as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, "the server has ended"
            try:
                if client.get(CONTAINER["readinessProbe"]["httpGet"]["path"]).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
    yield str(folder / "s")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_served_as_the_runtime_says(served: str) -> None:
    """The name is the InferenceService's, both protocols answer, probes and metrics are where the runtime says."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=served), base_url="http://nerve") as client:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert client.get(CONTAINER[probe]["httpGet"]["path"]).status_code == 200
        assert client.get(RUNTIME["spec"]["annotations"]["prometheus.kserve.io/path"]).text.startswith(
            "# HELP"
        )
        assert client.get("/v2/models/ner/ready").status_code == 200
        text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Anna sees Paris"]}
        answer = client.post("/v2/models/ner/infer", json={"inputs": [text]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_name"] == "ner"
        assert "Paris" in answer.text or "LOC" in answer.text
        answer = client.post("/v1/models/ner:predict", json={"instances": ["Anna sees Paris"]})
        assert answer.status_code == 200, answer.text
        assert "LOC" in answer.text
