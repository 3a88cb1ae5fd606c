"""A family of architectures from outside the package: an object and a row, and no builder is touched."""

from __future__ import annotations

import dataclasses
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nerve.config import Precision
from nerve.errors import ModelError
from nerve.graph import is_buildable, load_graph
from nerve.graph.architectures import FAMILIES, NotBuildable
from nerve.graph.architectures.bert import BERT
from nerve.graph.architectures.encoder import Encoder
from nerve.graph.architectures.reading import Tensors
from nerve.runtime.backend import Provider
from nerve.runtime.devices import CPU, CUDA

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
LAYER = "bert.encoder.layer.0."


class Repeated:
    """A made-up family: BERT with one layer, which is computed `n_times`."""

    word_table = BERT.word_table
    position_table = BERT.position_table

    def is_needed(self, name: str) -> bool:
        """Leave the head of its own pre-training out."""
        return not name.startswith("made_up_head.")

    def check(self, config: Mapping[str, Any]) -> None:
        """Want the number."""
        if "n_times" not in config:
            raise NotBuildable("n_times is missing")

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name the weights of the layer once and use them again."""
        once = BERT.describe({**config, "num_hidden_layers": 1}, tensors)
        return dataclasses.replace(once, layers=once.layers * config["n_times"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a checkpoint of the made-up family, which has its row."""
    monkeypatch.setitem(FAMILIES, "repeated", Repeated())
    folder = tiny.write_checkpoint(tmp_path / "repeated")
    config = tiny.make_config("bert") | {"model_type": "repeated", "n_times": 3}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        n: t for n, t in tiny.make_tensors("bert").items() if ".layer." not in n or n.startswith(LAYER)
    }
    save_file(tensors | {"made_up_head.weight": np.ones(3, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("provider", "precision"),
    [(CPU, Precision.FLOAT32), (CPU, Precision.INT8), (CUDA, Precision.FLOAT16)],
)
def test_every_form_of_graph_is_built_of_it(folder: Path, provider: Provider, precision: Precision) -> None:
    """Byte for byte the graph of the BERT whose layers are copies of that one."""
    bert = tiny.write_checkpoint(folder.parent / "bert")
    tensors = tiny.make_tensors("bert")
    for name in [name for name in tensors if name.startswith(LAYER)]:
        for index in (1, 2):
            tensors[name.replace(LAYER, f"bert.encoder.layer.{index}.")] = tensors[name]
    save_file(tensors, bert / "model.safetensors")
    found, expected = (load_graph(one, precision, folder.parent, provider=provider) for one in (folder, bert))
    assert found.source == expected.source
    assert (found.n_words, found.n_positions) == (tiny.N_WORDS, tiny.N_POSITIONS)


def test_its_own_checks_hold(folder: Path) -> None:
    """What the family refuses cannot be built, nor can what it did not find."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    assert is_buildable(config, folder)
    tensors = tiny.make_tensors("bert")
    del tensors["classifier.bias"]
    save_file(tensors, folder / "model.safetensors")
    assert not is_buildable(config, folder)
    del config["n_times"]
    assert not is_buildable(config)
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="n_times is missing"):
        load_graph(folder, Precision.AUTO, folder.parent)
