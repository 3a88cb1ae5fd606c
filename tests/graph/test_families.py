"""A family of architectures from another package: an object and an entry point, and no builder is touched."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import Graph, GraphKind, is_buildable, load_graph
from nerve.graph.architectures import NotBuildable, find_family
from nerve.runtime.backend import Provider
from nerve.runtime.devices import CPU, CUDA
from nerve.runtime.sessions import create_session
from packed_reference import on_cpu

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
LAYER = "bert.encoder.layer.0."


# The module of another package: a made-up family, BERT with one layer, which is computed `n_times`.
REPEATED = """
import dataclasses

from nerve.graph.architectures import NotBuildable
from nerve.graph.architectures.bert import BERT


class Repeated:
    word_table = BERT.word_table
    position_table = BERT.position_table

    def is_needed(self, name):
        return not name.startswith("made_up_head.")

    def most_positions(self, config):
        return None

    def check(self, config):
        if "n_times" not in config:
            raise NotBuildable("n_times is missing")

    def describe(self, config, tensors):
        once = BERT.describe({**config, "num_hidden_layers": 1}, tensors)
        return dataclasses.replace(once, layers=once.layers * config["n_times"])


FAMILY = Repeated()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the module as a package is, and write a checkpoint of the made-up family."""
    site = tmp_path / "site"
    info = site / "made_up-1.dist-info"
    info.mkdir(parents=True)
    (site / "made_up.py").write_text(REPEATED)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1\n")
    points = "[nerve.architectures]\nrepeated = made_up:FAMILY\nbroken = made_up:NONE\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "made_up", raising=False)
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


def test_a_package_that_cannot_be_loaded_is_named(folder: Path) -> None:
    """The message says whose fault it is; it is not one of the checkpoint."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "broken"}))
    with pytest.raises(ModelError, match=r"another package \(made_up:NONE\)"):
        load_graph(folder, Precision.AUTO, folder.parent)


def test_a_type_that_nobody_reads_is_refused_with_those_that_are_read(folder: Path) -> None:
    """Types of other packages are in the list, too."""
    with pytest.raises(NotBuildable, match=r"model type t5 is not one that can be built: albert.*repeated"):
        find_family({"model_type": "t5"})
