"""An int8 graph is judged when it is built, and refused below `model.min_agreement`."""

from __future__ import annotations

import json
import logging
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import write_lookup_model
from nerve.api import load_classifier
from nerve.checkpoint import ModelFolder
from nerve.cli.verify import compare, reference_config
from nerve.config import Config, parse_config
from nerve.errors import ModelError
from nerve.models.comparison import summarize_texts
from nerve.models.loader import load_model
from nerve.models.model import Model
from nerve.models.samples import sample_texts
from nerve.types import AggregationStrategy

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a small transformer with random weights, whose int8 graph is far from perfect."""
    folder = write_lookup_model(tmp_path / "model")
    (folder / "model.onnx").unlink()
    tiny.write_checkpoint(folder)
    return folder


def make_config(folder: Path, min_agreement: float | None) -> Config:
    """Return a configuration that serves a folder in int8."""
    model: dict[str, Any] = {
        "checkpoint_repository": {"source": "LOCAL", "path": str(folder)},
        "device": "cpu",
        "precision": "int8",
        "cache_dir": str(folder.parent / "cache"),
    }
    if min_agreement is not None:
        model["min_agreement"] = min_agreement
    return parse_config({"model": model, "runtime": {"window_stride": 4}}, {}, folder)


def load(folder: Path, min_agreement: float | None = None) -> Model:
    """Load a folder in int8."""
    config = make_config(folder, min_agreement)
    return load_model(config, ModelFolder(folder, "test", ""), folder.parent / "cache")


def figures_file(folder: Path) -> Path:
    """Return the only file of figures in the cache."""
    (file,) = (folder.parent / "cache/graphs").glob("*/agreement.json")
    return file


def test_figures_are_logged_and_are_those_of_verify(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says at the build what `nerve verify` would say afterwards."""
    with caplog.at_level(logging.INFO):
        load(folder, 0.0)
    config = make_config(folder, 0.0)
    with load_classifier(config) as served, load_classifier(reference_config(config, 48)) as reference:
        expected = summarize_texts(compare(served, reference, sample_texts(), AggregationStrategy.SIMPLE))
    (message,) = [record.getMessage() for record in caplog.records if record.name == "nerve.models.agreement"]
    assert 0.3 < expected.token_agreement < 1
    assert f"{expected.token_agreement:.4%} of {expected.n_tokens} tokens" in message
    assert f"span F1 {expected.span_f1:.4f}" in message
    assert json.loads(figures_file(folder).read_text())["figures"] == {
        "token_agreement": expected.token_agreement,
        "span_f1": expected.span_f1,
        "texts": expected.n_texts,
        "tokens": expected.n_tokens,
    }


def test_below_the_minimum_nothing_is_served(folder: Path) -> None:
    """The refusal has the figures and names the key; a lower minimum is the user's decision."""
    for _ in range(2):  # built, and from the cache
        with pytest.raises(ModelError, match=r"int8 against float32: .*below model.min_agreement 1.0: use"):
            load(folder, 1.0)
    assert load(folder, 0.0).precision == "int8"


def test_rounding_of_random_weights_fails_the_default(folder: Path) -> None:
    """Without a word in the configuration the gate is closed to what disagrees."""
    with pytest.raises(ModelError, match=r"model.min_agreement 0.995"):
        load(folder)


def test_figures_are_kept_with_the_graph(folder: Path) -> None:
    """A start from the cache judges by the kept figures; another tokenizer or a damaged file is measured anew."""
    load(folder, 0.0)
    file = figures_file(folder)
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "figures": {**kept["figures"], "token_agreement": 1.0}}))
    load(folder, 1.0)
    file.write_text("{")
    load(folder, 0.0)
    assert json.loads(file.read_text()) == kept
    tokenizer = folder / "tokenizer.json"
    document = json.loads(tokenizer.read_text())
    document["model"]["max_input_chars_per_word"] = 99
    tokenizer.write_text(json.dumps(document))
    load(folder, 0.0)
    assert json.loads(file.read_text())["of"] != kept["of"]


def test_cache_that_cannot_be_written_costs_nothing_but_time(folder: Path, tmp_path: Path) -> None:
    """Without a cache the agreement is measured at every start."""
    (tmp_path / "cache").write_text("a file in its place")
    for _ in range(2):
        with pytest.raises(ModelError, match=r"model.min_agreement 1.0"):
            load(folder, 1.0)
