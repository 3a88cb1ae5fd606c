"""Files that this user may not read, as a container's user often meets them: one line names the file and the remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_checkpoints as tiny

from builders import write_lookup_model

SETPRIV = shutil.which("setpriv")
STRANGER = 54321

Predict = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that every user may read, with a model of weights and one of an ONNX graph."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        made.chmod(0o755)
        write_lookup_model(made / "graph")
        (made / "graph/onnx").mkdir()
        (made / "graph/model.onnx").rename(made / "graph/onnx/model.onnx")
        tiny.write_checkpoint(made / "weights")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(made / "graph" / file, made / "weights")
        for file in made.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors closes its own to others
        yield made


@pytest.fixture
def predict(folder: Path) -> Predict:
    """Run `nerve predict` with a model as a user who owns nothing."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache")}
    user = [str(SETPRIV), "--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*user, sys.executable, "-B", "-m", "nerve", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=folder,
            env=environment,
        )

    if os.geteuid() != 0 or SETPRIV is None or run("--version").returncode != 0:
        pytest.skip("only root can become another user, who must be able to start Python")
    return lambda model: run("predict", "--model", str(model), "--json", "anna")


@pytest.mark.parametrize("model", ["graph", "weights"])
def test_folder_that_may_be_read_is_served(predict: Predict, folder: Path, model: str) -> None:
    """What is broken below is whole before."""
    done = predict(folder / model)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("weights/model.safetensors", 0o600),
        ("weights/config.json", 0o600),
        ("weights/tokenizer.json", 0o600),
        ("weights/tokenizer_config.json", 0o600),
        ("graph/onnx/model.onnx", 0o600),
        ("graph/onnx", 0o700),
        ("graph/onnx", 0o711),
        ("weights", 0o700),
        ("weights", 0o711),
        ("weights", 0o744),
    ],
)
def test_what_may_not_be_read_is_named(predict: Predict, folder: Path, name: str, mode: int) -> None:
    """Status 1, one line, no traceback."""
    (folder / name).chmod(mode)
    done = predict(folder / name.split("/", maxsplit=1)[0])
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("nerve: ")]
    assert str(folder / name) in line
    assert "Permission denied" in line
    assert "chmod" in line or "permissions" in line
