"""Scripts outside this repository make checkpoints of other sizes with `tiny_checkpoints`."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_checkpoints as tiny

from nerve.config import Precision
from nerve.graph import load_graph


@pytest.mark.parametrize("case", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_sizes_that_are_set_in_the_module_hold(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Config and tensors agree, so that the checkpoint is built."""
    for name, size in {
        "N_HIDDEN": 48,
        "N_INNER": 40,
        "N_POSITIONS": 70,
        "N_LAYERS": 5,
        "N_LABELS": 7,
    }.items():
        monkeypatch.setattr(tiny, name, size)
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    graph = load_graph(folder, Precision.FLOAT32, tmp_path / "cache")
    assert (graph.n_words, graph.n_positions) == (tiny.N_WORDS, 70)
