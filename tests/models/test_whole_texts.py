"""A long text of a model whose layers look to their neighbours only is answered as if it were computed whole."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from builders import open_engine, predict_blocking
from nerve.types import PredictOptions

PARITY = Path(__file__).parents[1] / "parity"
tiny = SimpleNamespace(**runpy.run_path(str(PARITY / "tiny_checkpoints.py")))
# What transformers answered for all tokens in one call (parity/record_whole.py).
WHOLE: dict[str, Any] = json.loads((PARITY / "whole.json").read_text())
# Three layers that look 7 tokens to each side.
REACH = 21


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny privacy filter, with a word for each token id and no special tokens."""
    monkeypatch.setitem(tiny.tensor_shapes.__globals__, "N_POSITIONS", WHOLE["n_positions"])
    folder: Path = tiny.write_checkpoint(tmp_path / "model", WHOLE["case"])
    tokenizer = Tokenizer(models.WordLevel({f"w{n}": n for n in range(tiny.N_WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def answer(folder: Path, **runtime: Any) -> np.ndarray[Any, Any]:
    """Return the probabilities of every label for each token of the text, (T, L)."""
    engine = open_engine(folder, runtime={"window_stride": None, **runtime}, cpu={"threads": 1})
    try:
        text = " ".join(f"w{number}" for number in WHOLE["ids"])
        (rows,) = predict_blocking(engine, [text], PredictOptions(raw_scores=True)).rows
        return np.array([list(row.results.values()) for row in rows])
    finally:
        engine.close()


def test_windows_that_share_what_an_answer_depends_on_change_nothing(folder: Path) -> None:
    """Scores are those that transformers gives for all tokens at once, wherever windows begin and end."""
    logits = np.array(WHOLE["logits"])
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    for window in (90, 128, 512, 1024):
        np.testing.assert_allclose(answer(folder, window_tokens=window), expected, rtol=0, atol=1e-4)


def test_windows_that_share_less_do_change_answers(folder: Path) -> None:
    """The first test could fail: with a few shared tokens, scores beside the seams are others."""
    whole, cut = answer(folder, window_tokens=1024), answer(folder, window_tokens=64, window_stride=4)
    different = np.flatnonzero(np.abs(whole - cut).max(axis=1) > 1e-3)
    assert len(different)
    seams = np.arange(60, len(whole), 60)
    assert all(np.abs(seams - place).min() <= REACH + 4 for place in different)
