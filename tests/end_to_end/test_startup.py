"""Start-ups that must be refused: one clear line, a failing status, no traceback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from builders import ServerProcess, write_config
from nerve.errors import StartupError
from nerve.server.supervisor import _metrics_dir

NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
REPOSITORY = Path(__file__).parents[2]


def refused(config: Path, environment: dict[str, str] | None = None, python: str = sys.executable) -> str:
    """Start a server that must not start; returns the one line that says why."""
    done = subprocess.run(
        [python, "-m", "nerve", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(environment or {})},
        check=False,
        user=None if python == sys.executable else NOBODY,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("nerve: ") or "cannot start: " in line]
    assert len(lines) == 1, output
    assert all(line in lines or line.startswith("{") for line in output.splitlines()), (
        output
    )  # the rest is the log
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path, lookup_model: Path) -> Path:
    """Copy the lookup model, to break it."""
    return Path(shutil.copytree(lookup_model, tmp_path / "model"))


def test_refusal_leaves_no_folder_behind(lookup_model: Path, tmp_path: Path) -> None:
    """What several workers share is not made, or is removed, when none of them starts."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tls = {"certificate": "none.pem", "key": "none.key"}
    config = write_config(tmp_path / "config.yaml", lookup_model, server={"workers": 2, "tls": tls})
    assert "server.tls" in refused(config, {"TMPDIR": str(scratch)})
    assert list(scratch.iterdir()) == []


def test_several_workers_without_a_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says so, as in a container with a read-only root and no /tmp; a lone worker needs none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StartupError, match="temporary files"), _metrics_dir(2):
        pass
    with _metrics_dir(1) as folder:
        assert folder is None


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


@pytest.mark.parametrize("text", ["model: [", "model: {a: b", "\tmodel: x", "a: b: c"])
def test_file_that_is_no_yaml(tmp_path: Path, text: str) -> None:
    """What PyYAML says over several lines is said in one, with the place."""
    (tmp_path / "config.yaml").write_text(text)
    assert "is not valid YAML: " in (line := refused(tmp_path / "config.yaml"))
    assert ", in line " in line


def test_cache_that_is_no_folder(tmp_path: Path) -> None:
    """A checkpoint that has to be fetched, and nowhere to put it."""
    (tmp_path / "cache").touch()
    line = refused(REPOSITORY / "config.yaml", {"NERVE_MODEL__CACHE_DIR": str(tmp_path / "cache")})
    assert f"cannot write to {tmp_path}/cache" in line
    assert "model.cache_dir" in line


def test_cache_that_may_not_be_written() -> None:
    """The same for a folder of somebody else; root, who may write everywhere, becomes nobody for this."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    python = sys.executable
    if os.geteuid() == 0:
        python = SYSTEM_PYTHON
        probe = [python, "-c", "import sys, nerve.server.supervisor; print(sys.version_info[:2])"]
        if (
            not Path(python).exists()
            or str(sys.version_info[:2])
            not in subprocess.run(
                probe,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **environment},
                user=NOBODY,
            ).stdout
        ):
            pytest.skip("there is no Python of this version that another user may start with nerve")
    with tempfile.TemporaryDirectory() as parent:  # not tmp_path: that is closed to other users
        Path(parent).chmod(0o755)
        cache = Path(parent) / "cache"
        cache.mkdir(mode=0o555)
        config = shutil.copy(REPOSITORY / "config.yaml", parent)
        environment["NERVE_MODEL__CACHE_DIR"] = str(cache)
        line = refused(Path(config), environment, python)
    assert f"cannot write to {cache}" in line


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
