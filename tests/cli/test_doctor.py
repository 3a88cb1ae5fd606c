"""`nerve doctor` as a process: what it tells, and that its status is that of a start."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub_stand_in import HubStandIn
from nerve.runtime.cores import usable_cores

Doctor = Callable[..., subprocess.CompletedProcess[str]]
SECTIONS = (
    "nerve",
    "cores",
    "processor",
    "memory",
    "runtime",
    "gpu",
    "device",
    "precision",
    "threads",
    "cpu.mode",
)


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Run `nerve doctor` in an empty folder, with a clean home and a hub where nobody is."""

    def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NERVE_", "AIP_", "HF_", "XDG_"))}
        with socket.create_server(("127.0.0.1", 0)) as gone:
            endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "nerve", "doctor", *map(str, arguments)],
            cwd=home,
            env={**kept, "HOME": str(home), "HF_ENDPOINT": endpoint, "NERVE_SERVER__PORT": "0", **more},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def found(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the object that was printed."""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_machine_without_a_model(doctor: Doctor) -> None:
    """Every section stands there, the hub is said to be out of reach, and nothing speaks against a start."""
    done = doctor()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    names = [line[:14].strip() for line in lines]
    assert [name for name in names if name in SECTIONS] == list(SECTIONS)
    assert f"{usable_cores()} usable of {os.cpu_count()}" in lines[1]
    assert any(line.startswith("hub") and "NOT reachable (ConnectError" in line for line in lines)
    assert any(line.startswith("note: no model is named") for line in lines)
    assert lines[-1] == "nothing here would keep `nerve serve` from serving a model"


def test_a_model_that_would_be_served(doctor: Doctor, lookup_model: Path) -> None:
    """With MODEL it says what is known of it; `--json` has the same."""
    done = doctor(lookup_model, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = found(done)
    assert report["model"]["name"] == lookup_model.name
    assert report["problems"] == []
    assert report["chosen"]["device"]["is"] == "cpu"
    assert report["caches"][0]["path"].endswith("home/.cache/nerve")
    assert report["caches"][0]["bytes"] == 0
    assert report["caches"][0]["is_writable"]


def test_a_hub_that_can_be_reached(doctor: Doctor) -> None:
    """HF_ENDPOINT is the hub that is asked, and a model that it has not is a problem."""
    with HubStandIn({}) as hub:
        done = doctor("owner/missing", "--json", HF_ENDPOINT=hub.url)
    report = found(done)
    assert report["hub"]["endpoint"] == hub.url
    assert report["hub"]["is_reachable"]
    assert done.returncode == 1
    assert len(report["problems"]) == 1
    assert "owner/missing" in report["problems"][0]


def test_a_model_of_a_hub_that_is_out_of_reach(doctor: Doctor) -> None:
    """It is told from what is known by then; nobody is asked again and again."""
    report = found(doctor("owner/name", "--json"))
    (problem,) = report["problems"]
    assert problem.startswith("owner/name is not whole in the cache ")
    assert "cannot be reached (ConnectError" in problem


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"NERVE_MODEL__PRECISION": "float16"}, "model.precision float16 is not available on cpu"),
        ({"NERVE_MODEL__DEVICE": "tpu"}, "model.device: unknown device tpu"),
        ({"NERVE_SERVER__PROT": "1"}, "server.prot: unknown key"),
        ({"NERVE_API_KEY": ""}, "the API key is empty"),
        ({"NERVE_SERVER__ENDPOINTS": "[nope]"}, "server.endpoints"),
        ({"NERVE_SERVER__UDS": "/no/such/folder/socket"}, "cannot listen on /no/such/folder/socket"),
        ({"NERVE_LIMITS__MAX_INPUTS": "0"}, "limits.max_inputs"),
    ],
)
def test_what_would_keep_a_server_from_starting(
    doctor: Doctor, lookup_model: Path, setting: dict[str, str], reason: str
) -> None:
    """Status 1, and the last line has the words of the start."""
    done = doctor(lookup_model, **setting)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("problem: ")
    assert reason in last


def test_a_port_that_is_taken(doctor: Doctor, lookup_model: Path) -> None:
    """Another server on it would keep this one from starting."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = doctor(lookup_model, NERVE_SERVER__PORT=str(port))
    assert done.returncode == 1
    assert f"problem: cannot listen on 127.0.0.1:{port}" in done.stdout


def test_a_cache_that_cannot_be_read_or_written(doctor: Doctor, tmp_path: Path) -> None:
    """What is not a folder of ours is said; it counts as empty."""
    (tmp_path / "file").write_text("")
    report = found(doctor("--json", NERVE_MODEL__CACHE_DIR=str(tmp_path / "file/below")))
    assert report["caches"][0]["bytes"] == 0
