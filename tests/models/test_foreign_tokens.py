"""Tokens that the tokenizer has and the model has no row for: known at start, and refused before any batch."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builders import (
    LABELS,
    open_engine,
    open_model,
    write_gather_graph,
    write_lookup_model,
    write_troubled_model,
)
from nerve.config import Precision
from nerve.engine.in_process import collect, submit
from nerve.errors import InvalidRequest, ModelError
from nerve.graph import load_graph
from nerve.types import PredictOptions, TruncationDirection

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
STRIDE = {"window_stride": 4}
OPTIONS = PredictOptions()


def add_tokens(folder: Path, n_words: int, *tokens: str) -> Path:
    """Add tokens behind a vocabulary of `n_words`, as users do who forget to resize the embedding."""
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    known = document["model"]["vocab"]
    known |= {f"word{number}": number for number in range(len(known), n_words)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    document["added_tokens"] = [
        {"id": number, "content": f"[{token}]", **flags} for number, token in enumerate(tokens, n_words)
    ]
    file.write_text(json.dumps(document))
    return folder


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A BERT that is built from its weights, with the words of the lookup model."""
    folder: Path = tiny.write_checkpoint(tmp_path / "built")
    lookup = write_lookup_model(tmp_path / "lookup")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lookup / name, folder / name)
    return folder


@pytest.mark.parametrize("form", ["built", "int8", "ready"])
def test_a_text_with_such_a_token_is_refused_alone(
    tmp_path: Path, built: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The start names the tokens; requests without them are answered beside those that have one."""
    folder, model, n_rows = built, {}, tiny.N_WORDS
    if form == "ready":
        folder = write_lookup_model(tmp_path / "ready")
        n_rows = 26
    if form == "int8":
        model = {"precision": "int8", "min_agreement": 0}
    add_tokens(folder, n_rows, "PHONE", "FAX")
    source = {"checkpoint_repository": {"source": "LOCAL", "path": str(folder)}, "device": "cpu"}
    engine = open_engine(folder, model={**source, **model}, runtime=STRIDE)
    try:
        (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert said.startswith(
            f"the model has rows for {n_rows} tokens, but its tokenizer has '[PHONE]' ({n_rows}), '[FAX]' "
        )
        good = [submit(engine, ["anna lives in paris"], OPTIONS) for _ in range(8)]
        for text in ("anna [PHONE]", "[FAX]", "in " * 50 + "[PHONE]"):
            with pytest.raises(InvalidRequest, match=r"inputs\[1\]: it has a token .* \(id \d+\)") as caught:
                submit(engine, ["anna", text], OPTIONS)
            assert "PHONE" not in str(caught.value)
            assert "FAX" not in str(caught.value)
        first, *others = [collect(engine, one).rows for one in good]
        assert all(rows == first for rows in others)
    finally:
        engine.close()


def test_rows_that_no_graph_tells_are_found_out(tmp_path: Path) -> None:
    """Where the ids are computed with before they are looked up, the model is asked."""
    folder = write_troubled_model(tmp_path / "model")
    model, _ = open_model(folder, runtime=STRIDE)
    assert (model.n_words, model.tokenizer.foreign_tokens) == (None, {})
    add_tokens(folder, 60, "PHONE")
    model, _ = open_model(folder, runtime=STRIDE)
    assert model.n_words == 26
    assert len(model.tokenizer.foreign_tokens) == 35
    with pytest.raises(InvalidRequest, match="it has a token"):
        model.tokenizer.tokenize(["anna word30"])


def test_a_token_that_is_cut_off_does_no_harm(built: Path) -> None:
    """What does not reach the model is not refused."""
    engine = open_engine(add_tokens(built, tiny.N_WORDS, "PHONE"), runtime=STRIDE)
    text = "in " * 60 + "[PHONE]"
    try:
        kept = collect(engine, submit(engine, [text], PredictOptions(truncate=True)))
        assert kept.truncated == [0]
        left = PredictOptions(truncate=True, truncation_direction=TruncationDirection.LEFT)
        with pytest.raises(InvalidRequest, match=r"inputs\[0\]: it has a token"):
            submit(engine, [text], left)
    finally:
        engine.close()


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_tokens_that_every_text_needs_are_refused_at_start(tmp_path: Path, n_rows: int) -> None:
    """A table without a row for a special or the unknown token belongs to another tokenizer."""
    folder = write_lookup_model(tmp_path / "model")
    write_gather_graph(folder / "model.onnx", np.zeros((n_rows, len(LABELS)), np.float32))
    with pytest.raises(ModelError, match=f"has rows for {n_rows} tokens, .* which every text may need"):
        open_model(folder, runtime=STRIDE)


def test_tokens_that_the_model_has_say_nothing(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tokenizer that fits is no warning; spare rows are none either."""
    model, _ = open_model(add_tokens(built, tiny.N_WORDS - 1, "PHONE"), runtime=STRIDE)
    assert (model.n_words, model.tokenizer.foreign_tokens) == (tiny.N_WORDS, {})
    assert caplog.text == ""


def ready_graph(kind: str) -> onnx.GraphProto:
    """Return a graph that looks ids up in 30 rows, in one of the ways in which exporters write that."""
    info = helper.make_tensor_value_info
    table = np.zeros((30, 5), np.float32)
    tensors = {"table": table}
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["logits"])]
    match kind:
        case "cast":
            nodes = [
                helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.INT32),
                helper.make_node("Gather", ["table", "ids"], ["logits"], axis=0),
            ]
        case "quantised":
            tensors = {"table": table.astype(np.uint8), "scale": np.float32(1), "zero": np.uint8(0)}
            nodes = [
                helper.make_node("DequantizeLinear", ["table", "scale", "zero"], ["rows"]),
                helper.make_node("Gather", ["rows", "input_ids"], ["logits"]),
            ]
        case "constant":
            tensors = {}
            value = numpy_helper.from_array(table)
            nodes = [helper.make_node("Constant", [], ["table"], value=value), *nodes]
        case "two tables":
            tensors["more"] = np.zeros((20, 5), np.float32)
            nodes = [
                helper.make_node("Gather", ["table", "input_ids"], ["one"]),
                helper.make_node("Gather", ["more", "input_ids"], ["two"]),
                helper.make_node("Add", ["one", "two"], ["logits"]),
            ]
        case "computed":
            tensors["shift"] = np.array(2)
            nodes = [
                helper.make_node("Mod", ["input_ids", "shift"], ["ids"]),
                helper.make_node("Gather", ["table", "ids"], ["logits"]),
            ]
        case "fused":
            names = ("positions", "weight", "bias")
            tensors |= dict(zip(names, (table[:16], table[0], table[0]), strict=True))
            inputs = ["input_ids", "", "table", "positions", "", "weight", "bias"]
            nodes = [
                helper.make_node(
                    "EmbedLayerNormalization", inputs, ["logits", "unused"], domain="com.microsoft"
                )
            ]
    return helper.make_graph(
        nodes,
        kind,
        [info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [info("logits", TensorProto.FLOAT, ["batch", "tokens", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plain", 30),
        ("cast", 30),
        ("quantised", 30),
        ("constant", 30),
        ("two tables", 20),
        ("fused", 30),
        ("computed", None),
    ],
)
def test_rows_of_a_ready_graph_are_found(tmp_path: Path, kind: str, expected: int | None) -> None:
    """Whoever made the graph: the ids are followed to the table that they are looked up in."""
    folder = write_lookup_model(tmp_path / "model")
    opsets: Any = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(
        helper.make_model(ready_graph(kind), opset_imports=opsets, ir_version=8), str(folder / "model.onnx")
    )
    assert load_graph(folder, Precision.AUTO, tmp_path).n_words == expected
