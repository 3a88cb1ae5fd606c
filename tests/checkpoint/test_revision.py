"""The revision of a folder: the same for the same files, another one for any other content."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import ServerProcess
from nerve.checkpoint import fetch_checkpoint
from nerve.checkpoint.revision import hash_file, revision_of
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig
from nerve.graph import is_buildable


def revision(folder: Path) -> str:
    """Return the revision of a folder as a server would say it."""
    source = CheckpointConfig(source=CheckpointSource.LOCAL, path=str(folder))
    found = fetch_checkpoint(
        ModelConfig(checkpoint_repository=source), folder.parent / "cache", is_buildable=is_buildable
    )
    return revision_of(found.path, found.files)


@pytest.fixture
def folder(tmp_path: Path, lookup_model: Path) -> Path:
    """Return a copy of a model folder."""
    return Path(shutil.copytree(lookup_model, tmp_path / "a"))


def test_same_files_same_revision(folder: Path, tmp_path: Path) -> None:
    """Place, name and times of a folder have no part in it, nor has what the server does not read."""
    other = Path(shutil.copytree(folder, tmp_path / "b"))
    before = revision(folder)
    assert re.fullmatch("files-[0-9a-f]{16}", before)
    (other / "README.md").write_text("A model.")
    (other / "optimizer.pt").write_bytes(b"x" * 1000)
    for file in other.iterdir():
        file.touch()
    assert revision(other) == before


def test_any_change_gives_another(folder: Path) -> None:
    """One byte of each file that is read counts, and so does a file that comes or goes."""
    seen = {revision(folder)}
    source = CheckpointConfig(source=CheckpointSource.LOCAL, path=str(folder))
    used = fetch_checkpoint(
        ModelConfig(checkpoint_repository=source), folder.parent / "cache", is_buildable=is_buildable
    ).files
    assert {"config.json", "tokenizer.json"} < set(used)
    for name in used:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
        found = revision_of(folder, used)
        assert found not in seen, name
        seen.add(found)
        content[-1] ^= 1
        (folder / name).write_bytes(content)
    assert revision_of(folder, used) in seen
    (folder / "special_tokens_map.json").write_text("{}")
    assert revision(folder) not in seen


def test_a_file_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's cache entry and the revision share one reading of the weights."""
    file = folder / "config.json"
    found = hash_file(file)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert hash_file(file) == found


def test_a_server_says_it_everywhere(
    serve: Callable[..., ServerProcess], folder: Path, lookup_model: Path
) -> None:
    """`/info`, the metric and each answer name the same model and revision; another folder has another."""
    server = serve(folder=folder, model={"name": "mine"})
    found = revision(folder)
    answer = server.predict("Anna")
    assert answer.headers["x-model"] == f"mine@{found}"
    hub = server.client.post("/pipeline/token-classification", json={"inputs": "Anna"})
    redacted = server.client.post("/redact", json={"inputs": "Anna"})
    assert hub.headers["x-model"] == redacted.headers["x-model"] == f"mine@{found}"
    assert "x-model" not in server.predict(3).headers
    info = server.client.get("/info").json()
    assert (info["model_name"], info["revision"]) == ("mine", found)
    (line,) = [line for line in server.client.get("/metrics").text.splitlines() if line[:11] == "nerve_info{"]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
    assert line.endswith(" 1.0")
    assert labels == {
        "model": "mine",
        "revision": found,
        "version": info["version"],
        "precision": info["dtype"],
        "provider": info["provider"],
    }
