"""A front has the same model as the process that runs it, but for the graph."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import write_config, write_lookup_model
from nerve.checkpoint import ModelFolder
from nerve.config import load_config
from nerve.models.front import greet, load_front
from nerve.models.loader import load_model

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))


@pytest.mark.parametrize(("case", "window_tokens"), [("bert", 40), ("openai_privacy_filter", 120)])
def test_a_front_cuts_long_texts_as_the_engine_process_would(
    case: str, window_tokens: int, tmp_path: Path
) -> None:
    """Windows, their overlap (which local attention decides), labels and words are the same."""
    path = tiny.write_checkpoint(tmp_path / "model", case)
    settings = json.loads((path / "config.json").read_text())
    if case != "bert":  # positions without a table
        (path / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 512}))
    tokenizer = write_lookup_model(tmp_path / "lookup") / "tokenizer.json"
    (path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    runtime: dict[str, Any] = {"window_tokens": window_tokens, "window_stride": None}
    config = load_config(write_config(tmp_path / "config.yaml", path, runtime=runtime))
    folder = ModelFolder(path, "test", "")
    model = load_model(config, folder, tmp_path / "cache")
    remote: Any = SimpleNamespace(link=SimpleNamespace(greeting=greet(model)))
    front = load_front(config, folder, remote)
    text = "anna lives in paris " * 100
    expected, found = (each.tokenizer.tokenize([text])[0].windows for each in (model, front))
    assert [(w.ids, w.start) for w in found] == [(w.ids, w.start) for w in expected]
    assert len(found) > 3
    assert (front.labels.names, front.lengths, front.policy) == (
        model.labels.names,
        model.lengths,
        model.policy,
    )
