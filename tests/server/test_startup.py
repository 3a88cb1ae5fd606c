"""Start-ups that must be refused: one clear line, a failing status, no traceback."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders import ServerProcess, write_config


def refused(config: Path, environment: dict[str, str] | None = None) -> str:
    """Start a server that must not start; returns the one line that says why."""
    done = subprocess.run(
        [sys.executable, "-m", "nerve", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("nerve: ") or "cannot start: " in line]
    assert len(lines) == 1, output
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path, lookup_model: Path) -> Path:
    """Copy the lookup model, to break it."""
    return Path(shutil.copytree(lookup_model, tmp_path / "model"))


def test_port_of_another_nerve(server: ServerProcess, lookup_model: Path, tmp_path: Path) -> None:
    """A second server on the same port is refused; it does not take half of the first one's connections."""
    port = int(server.url.rsplit(":")[-1])
    line = refused(write_config(tmp_path / "config.yaml", lookup_model, server={"port": port}))
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert "server.port" in line


def test_port_of_another_program(lookup_model: Path, tmp_path: Path) -> None:
    """A port that some other program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refused(write_config(tmp_path / "config.yaml", lookup_model, server={"port": port}))
    assert f"cannot listen on 127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"server": {"prot": 1}}, "server.prot"),
        ({"server": {"uds": "/nonexistent/nerve.sock"}}, "cannot listen on /nonexistent/nerve.sock"),
        ({"server": {"tls": {"certificate": "none.pem", "key": "none.key"}}}, "server.tls"),
        ({"model": {"device": "cuda"}}, "model.device is cuda"),
    ],
)
def test_wrong_configuration(
    lookup_model: Path, tmp_path: Path, sections: dict[str, dict[str, Any]], named: str
) -> None:
    """A configuration that cannot be served; the line names what to change."""
    if "device" in sections.get("model", {}) and Path("/dev/nvidia0").exists():
        pytest.skip("this machine may have the device that the test needs to be missing")
    assert named in refused(write_config(tmp_path / "config.yaml", lookup_model, **sections))


def test_empty_key(lookup_model: Path, tmp_path: Path) -> None:
    """An API key that is set but empty would leave the server open: refused."""
    config = write_config(tmp_path / "config.yaml", lookup_model)
    assert "API key is empty" in refused(config, {"NERVE_API_KEY": ""})


def test_broken_graph(folder: Path, tmp_path: Path) -> None:
    """A graph that is no ONNX file."""
    (folder / "model.onnx").write_bytes(b"not a graph")
    assert "model.onnx" in refused(write_config(tmp_path / "config.yaml", folder))


def test_label_count_with_two_workers(folder: Path, tmp_path: Path) -> None:
    """Labels that do not fit the graph; two workers still give one line, and are not started for ever."""
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"].popitem()
    (folder / "config.json").write_text(json.dumps(settings))
    line = refused(write_config(tmp_path / "config.yaml", folder, server={"workers": 2}))
    assert "names 4 labels in id2label, but the graph gives 5" in line
