"""The table of sources: a row for each, and a new one is a file and a row."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from builders import write_lookup_model
from nerve.checkpoint import SOURCES, ModelFolder, Source, fetch_checkpoint
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig
from nerve.errors import CheckpointError
from nerve.graph import is_buildable

LOCAL = ModelConfig(checkpoint_repository=CheckpointConfig(source=CheckpointSource.LOCAL, path="/unused"))


def test_every_source_of_the_configuration_has_a_row() -> None:
    """What can be written in config.yaml can be fetched."""
    assert set(SOURCES) == set(CheckpointSource)


@pytest.mark.parametrize("source", CheckpointSource)
def test_every_row_is_a_source(source: CheckpointSource) -> None:
    """Its module has a `fetch` that can be called as the protocol says; it may take more."""
    wanted = dict(inspect.signature(Source.__call__).parameters)
    del wanted["self"]
    found = inspect.signature(importlib.import_module(SOURCES[source]).fetch).parameters
    for name, parameter in wanted.items():
        assert found[name].kind == parameter.kind
    assert all(found[name].default is not inspect.Parameter.empty for name in set(found) - set(wanted))


def test_a_source_from_outside_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of anybody's brings folders, and they are proven as all others are."""
    module = ModuleType("made_up_source")
    monkeypatch.setitem(sys.modules, "made_up_source", module)
    monkeypatch.setitem(SOURCES, CheckpointSource.LOCAL, "made_up_source")
    folder = write_lookup_model(tmp_path / "model")
    module.fetch = lambda *_, **__: ModelFolder(folder, "made-up", "1")  # type: ignore[attr-defined]
    assert fetch_checkpoint(LOCAL, tmp_path, is_buildable=is_buildable).model_id == "made-up"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        fetch_checkpoint(LOCAL, tmp_path, is_buildable=is_buildable)


def test_other_sources_do_not_wait_for_the_library_of_the_hub(lookup_model: Path, tmp_path: Path) -> None:
    """Importing huggingface_hub takes half a second, which only source HF pays."""
    script = (
        "import sys, msgspec; from pathlib import Path; from nerve.checkpoint import fetch_checkpoint; "
        "from nerve.config import ModelConfig; "
        "source = {'source': 'LOCAL', 'path': sys.argv[1]}; "
        "model = msgspec.convert({'checkpoint_repository': source}, ModelConfig); "
        "fetch_checkpoint(model, Path(sys.argv[2]), is_buildable=lambda *_: False); "
        "assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, lookup_model, tmp_path], check=True)
