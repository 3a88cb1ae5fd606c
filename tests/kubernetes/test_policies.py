"""The chart against checkov's policies for Kubernetes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import EVERYTHING, GPU
from rendering import of_kind, render

CHECKOV = shutil.which("checkov") or shutil.which("checkov", path=str(Path(sys.executable).parent))
# Policies that the chart does not follow, by kind, and why.
WAIVED = {
    ("CKV_K8S_15", "Deployment"): "an image with a digest need not be pulled each time",
    (
        "CKV_K8S_40",
        "Deployment",
    ): "Nginx's image has the user 101, which no pod shares with a user of the node",
    ("CKV_K8S_43", "Deployment"): "Nginx's image is named by its tag; nginx.image takes a digest",
    ("CKV_K8S_8", "Pod"): "the pod of `helm test` asks once and ends",
    ("CKV_K8S_9", "Pod"): "the same",
    ("CKV2_K8S_6", "Pod"): "the same",
}


@pytest.mark.skipif(CHECKOV is None, reason="no checkov in this environment")
@pytest.mark.parametrize("profile", [{}, GPU], ids=["cpu", "gpu"])
def test_policies(profile: dict[str, Any], tmp_path: Path) -> None:
    """Nothing fails but what is waived above, with everything switched on and the image pinned; waivers are needed."""
    values = {**EVERYTHING, **profile, "image": {"repository": "nerve", "digest": "sha256:" + "a" * 64}}
    file = tmp_path / "chart.yaml"
    file.write_text(yaml.safe_dump_all(render(values)))
    command = [str(CHECKOV), "--file", str(file), "--framework", "kubernetes", "--output", "json", "--quiet"]
    done = subprocess.run([*command, "--compact"], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["summary"]["passed"] > 50 or report["summary"]["failed"], done.stderr
    failed = {
        (each["check_id"], each["resource"].split(".")[0]): each["check_name"]
        for each in report["results"]["failed_checks"]
    }
    assert {check: name for check, name in failed.items() if check not in WAIVED} == {}
    assert failed.keys() == WAIVED.keys()
    assert of_kind(render(values), "NetworkPolicy")
