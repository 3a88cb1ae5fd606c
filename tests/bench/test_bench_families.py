"""Operations of a family, and its time for one against BERT's."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.architectures.families import count, per_operation
from nerve.graph.architectures import describe

PARITY = Path(__file__).parents[1] / "parity"
tiny = SimpleNamespace(**runpy.run_path(str(PARITY / "tiny_checkpoints.py")))
HIDDEN, INNER, LAYERS, LABELS = 32, 64, 3, 5


def operations(case: str, n_tokens: int) -> int:
    """Return what a tiny checkpoint needs."""
    return count(describe(tiny.make_config(case), tiny.make_tensors(case)), n_tokens)


def test_operations_of_bert_are_those_of_its_products() -> None:
    """Four projections, the feed-forward block, and two products of attention for each pair of tokens."""
    a_token = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER
    expected = 10 * (LAYERS * a_token + LABELS * HIDDEN) + LAYERS * 2 * 10 * 10 * HIDDEN
    assert operations("bert", 10) == expected


def test_distances_count_and_windows_do_not() -> None:
    """DeBERTa's scores by distance are products, too; tokens beyond a window are in none."""
    assert operations("deberta-v2", 10) - operations("bert", 10) == LAYERS * 2 * 10 * 10 * HIDDEN
    band = 31 + 2 * sum(31 - distance for distance in range(1, 8))  # pairs at most 7 apart, of 31 tokens
    config = tiny.make_config("openai_privacy_filter") | {"sliding_window": 7}
    tensors = tiny.make_tensors("openai_privacy_filter")
    near, far = (count(describe(config | {"sliding_window": window}, tensors), 31) for window in (7, 30))
    width = config["head_dim"] * config["num_attention_heads"]
    assert far - near == LAYERS * 2 * (31 * 31 - band) * width


def test_a_token_takes_few_experts() -> None:
    """Those that it does not take cost nothing."""
    config, tensors = (make("openai_privacy_filter") for make in (tiny.make_config, tiny.make_tensors))
    one, three = (count(describe(config | {"num_experts_per_tok": taken}, tensors), 1) for taken in (1, 3))
    assert three - one == 2 * LAYERS * 3 * HIDDEN * INNER


def test_ratios_are_made_within_rounds() -> None:
    """What slows a round slows both; a family of twice the operations may take twice the time."""
    calls = {"int8 1x36": {"gte": [4.0, 40.0, 4.0], "bert": [2.0, 20.0, 1.0]}}
    row = {"name": "gte", "operations": {"36": 2.0}, "calls": calls}
    assert per_operation(row, "int8 1x36") == pytest.approx(1.0)
