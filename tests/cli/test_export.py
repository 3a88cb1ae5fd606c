"""`nerve export` refuses what is no checkpoint before it loads PyTorch or asks a hub. What it makes: tests/parity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("./nothing", "./nothing does not exist; name a config file, a folder with a config.json, or"),
        (
            "config.yaml",
            "config.yaml is a config file; name the model folder or the repository that it serves",
        ),
        ("https://hub.example/a/b", "https://hub.example/a/b is an address; write OWNER/NAME"),
        ("/", "the folder / has no config.json; name a model folder"),
    ],
)
def test_what_is_no_checkpoint_is_refused_at_once(source: str, said: str, tmp_path: Path) -> None:
    """One line says what to name instead."""
    (tmp_path / "config.yaml").write_text("model: {}\n")
    command = [sys.executable, "-m", "nerve", "export", source, "made"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"nerve: {said}")
