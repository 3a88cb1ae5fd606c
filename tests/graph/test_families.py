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

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import Graph, GraphKind, is_buildable, load_graph
from nerve.graph.architectures import FAMILIES, NotBuildable
from nerve.graph.architectures.bert import BERT
from nerve.graph.architectures.encoder import Encoder
from nerve.graph.architectures.reading import Tensors
from nerve.runtime.backend import Provider
from nerve.runtime.devices import CPU, CUDA
from nerve.runtime.sessions import create_session
from packed_reference import on_cpu

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
LAYER = "bert.encoder.layer.0."


class Repeated:
    """A made-up family: BERT with one layer, which is computed `n_times`."""

    word_table = BERT.word_table
    position_table = BERT.position_table

    def is_needed(self, name: str) -> bool:
        """Leave the head of its own pre-training out."""
        return not name.startswith("made_up_head.")

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Leave it to the table."""
        return BERT.most_positions(config)

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
    [(CPU, Precision.FLOAT32), (CPU, Precision.INT8), (CUDA, Precision.FLOAT32)],
)
def test_every_form_of_graph_is_built_of_it(folder: Path, provider: Provider, precision: Precision) -> None:
    """The logits are those of the BERT whose layers are copies of that one, to the last bit."""
    bert = tiny.write_checkpoint(folder.parent / "bert")
    tensors = tiny.make_tensors("bert")
    for name in [name for name in tensors if name.startswith(LAYER)]:
        for index in (1, 2):
            tensors[name.replace(LAYER, f"bert.encoder.layer.{index}.")] = tensors[name]
    save_file(tensors, bert / "model.safetensors")
    found, expected = (load_graph(one, precision, folder.parent, provider=provider) for one in (folder, bert))
    assert (found.n_words, found.n_positions) == (tiny.N_WORDS, tiny.N_POSITIONS)
    text = tiny.make_texts("bert")[0]
    ours, theirs = (run(graph, text) for graph in (found, expected))
    np.testing.assert_array_equal(ours, theirs)
    if precision is Precision.FLOAT32 and provider is CPU:
        assert found.n_bytes < 0.6 * expected.n_bytes  # the layer is stored once


def run(graph: Graph, text: list[int]) -> np.ndarray[Any, Any]:
    """Return the logits of one text by a graph of any form."""
    feeds = {"input_ids": np.array([text], np.int32)}
    source = graph.source
    assert isinstance(source, bytes)
    if graph.kind is GraphKind.PACKED:
        source = on_cpu(source)
        n_tokens = len(text)
        feeds |= {
            "position_ids": np.arange(n_tokens, dtype=np.int32)[None],
            "cu_seqlens": np.array([0, n_tokens], np.int32),
            "token_offset": np.arange(n_tokens, dtype=np.int32)[None],
        }
    else:
        feeds["lengths"] = np.array([len(text)], np.int32)
    session = create_session(source, Device.CPU, 0, n_threads=1)
    logits: np.ndarray[Any, Any] = session.run(["logits"], feeds)[0].reshape(len(text), -1)
    return logits


def test_its_own_checks_hold(folder: Path) -> None:
    """What the family refuses cannot be built, and what it did not take is not dropped."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    assert is_buildable(config, folder)
    save_file(
        {"crf.transitions": np.ones(3, np.float32)} | tiny.make_tensors("bert"), folder / "model.safetensors"
    )
    assert not is_buildable(config, folder)
    del config["n_times"]
    assert not is_buildable(config)
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="n_times is missing"):
        load_graph(folder, Precision.AUTO, folder.parent)
