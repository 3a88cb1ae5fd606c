from collections.abc import Mapping
from typing import Any

import pytest

from nerve.checkpoint.choice import choose_graph, choose_main_file
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig, Precision
from nerve.errors import CheckpointError
from nerve.graph import is_buildable

OPTIMUM = [
    "onnx/model.onnx",
    "onnx/model_bnb4.onnx",
    "onnx/model_fp16.onnx",
    "onnx/model_int8.onnx",
    "onnx/model_q4.onnx",
    "onnx/model_q4f16.onnx",
    "onnx/model_quantized.onnx",
    "onnx/model_uint8.onnx",
]


def model(graph: str | None = None, precision: Precision = Precision.AUTO) -> ModelConfig:
    """Return a config that asks for this graph and precision."""
    source = CheckpointConfig(source=CheckpointSource.LOCAL, path="/unused")
    return ModelConfig(checkpoint_repository=source, graph=graph, precision=precision)


def is_bert(config: Mapping[str, Any]) -> bool:
    """Stand in for what `graph` can build: BERT only."""
    return config["model_type"] == "bert"


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (Precision.AUTO, "onnx/model.onnx"),
        (Precision.FLOAT32, "onnx/model.onnx"),
        (Precision.FLOAT16, "onnx/model_fp16.onnx"),
        (Precision.BFLOAT16, "onnx/model.onnx"),
        (Precision.INT8, "onnx/model_int8.onnx"),
    ],
)
def test_precision_chooses_the_graph_made_for_it_else_the_full_one(
    precision: Precision, expected: str
) -> None:
    """A usual set of exports: the precision's own graph wins, the full graph stands in for one that lacks."""
    assert expected == choose_graph(OPTIMUM, precision, None)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["onnx/model.onnx", "model.onnx"], "model.onnx"),
        (["deploy/model.onnx", "onnx/model_fp16.onnx"], "deploy/model.onnx"),
        (["model_optimized.onnx", "model.onnx"], "model.onnx"),
        (["ner.onnx", "model_optimized.onnx"], "model_optimized.onnx"),
        (["onnx/model_q4f16.onnx", "onnx/model_q4.onnx"], "onnx/model_q4.onnx"),
        (["onnx/model_q4.onnx", "onnx/model_quantized.onnx"], "onnx/model_quantized.onnx"),
        (["onnx/model_bf16.onnx", "model_O4.onnx"], "model_O4.onnx"),
        (["only-this.onnx", "config.json"], "only-this.onnx"),
        (["config.json", "model.safetensors", "model.onnx_data"], None),
    ],
)
def test_order_of_choice(files: list[str], expected: str | None) -> None:
    """Arithmetic comes before folder, folder before name; other files are never taken for a graph."""
    assert expected == choose_graph(files, Precision.AUTO, None)
    assert expected == choose_graph(list(reversed(files)), Precision.AUTO, None)


def test_explicit_graph_is_taken_or_nothing_is() -> None:
    """`model.graph` is never replaced by another graph."""
    assert choose_graph(OPTIMUM, Precision.AUTO, "./onnx/model_q4.onnx") == "onnx/model_q4.onnx"
    assert choose_graph(OPTIMUM, Precision.AUTO, "model.onnx") is None


@pytest.mark.parametrize(
    ("files", "graph", "expected"),
    [
        (["model.safetensors", "model.onnx"], None, "model.safetensors"),
        (["model.safetensors.index.json", "model.onnx"], None, "model.safetensors.index.json"),
        (["model.safetensors", "model.onnx"], "model.onnx", "model.onnx"),
        (["pytorch_model.bin", "model.onnx"], None, "pytorch_model.bin"),
        (["pytorch_model.bin.index.json", "onnx/model.onnx"], None, "pytorch_model.bin.index.json"),
        (["pytorch_model.bin", "model.safetensors"], None, "model.safetensors"),
        (["pytorch_model.bin", "model.safetensors.index.json"], None, "model.safetensors.index.json"),
        (["adapter_model.safetensors", "model.onnx"], None, "model.onnx"),
        (["model.fp16.safetensors", "pytorch_model.bin"], None, "pytorch_model.bin"),
        (["training_args.bin", "optimizer.pt", "model.onnx"], None, "model.onnx"),
    ],
)
def test_weights_win_where_a_graph_can_be_built(files: list[str], graph: str | None, expected: str) -> None:
    """Of a buildable type the weights are used, unless `model.graph` names a graph."""
    assert expected == choose_main_file(files, {"model_type": "bert"}, model(graph), is_bert, "here")


def test_graph_is_used_where_none_can_be_built() -> None:
    """Weights of an unknown type are no use; the graph is."""
    files = ["model.safetensors", "model.onnx"]
    assert choose_main_file(files, {"model_type": "deberta-v2"}, model(), is_bert, "here") == "model.onnx"


@pytest.mark.parametrize(
    ("files", "graph", "message"),
    [
        (["model.safetensors"], None, "no ONNX graph, and none can be built .*'deberta'.*nerve export"),
        (["pytorch_model.bin"], None, "no ONNX graph, and none can be built .*'deberta'.*nerve export"),
        (["model.gguf"], None, "llama.cpp only"),
        (["README.md"], None, "neither an ONNX graph .* nor weights"),
        (["adapter_model.safetensors", "adapter_config.json"], None, "is an adapter .*merge_and_unload"),
        (["adapter_model.bin", "training_args.bin"], None, "is an adapter .*merge_and_unload"),
        (["tf_model.h5"], None, r"TensorFlow, Flax or Rust only \(tf_model.h5\).*from_tf"),
        (["flax_model.msgpack", "training_args.bin"], None, r"Rust only \(flax_model.msgpack\).*from_flax"),
        (["rust_model.ot"], None, r"Rust only \(rust_model.ot\)"),
        (["model.fp16.safetensors"], None, "model.fp16.safetensors is under no name that weights have"),
        (["best.pt", "optimizer.pt"], None, "best.pt is under no name that weights have"),
        (["training_args.bin", "optimizer.pt", "scheduler.pt"], None, r"index.json\); check"),
        (["model.onnx"], "onnx/model.onnx", "no file onnx/model.onnx; its ONNX files are model.onnx"),
        (["model.safetensors"], "model.onnx", "it has no ONNX file at all"),
    ],
)
def test_nothing_usable_is_refused_with_the_remedy(files: list[str], graph: str | None, message: str) -> None:
    """The refusal tells what is missing, an adapter, other frameworks and a wrong `model.graph` apart."""
    with pytest.raises(CheckpointError, match=message):
        choose_main_file(files, {"model_type": "deberta"}, model(graph), is_bert, "here")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "bert", "position_embedding_type": "alibi"},
            "type is alibi.*nerve export",
        ),
        (
            {"model_type": "bert", "quantization_config": {"bits": 4}},
            "sets quantization_config.*; dequantise",
        ),
        (
            {"model_type": "longformer"},
            "'longformer'.*`nerve export` makes none either, since .*traced length",
        ),
        ({"model_type": "my_ner", "auto_map": {"AutoConfig": "x.Y"}}, "'my_ner'.*code of the repository"),
        ({"model_type": "span-marker"}, "'span-marker'.*architectures.md.*nerve export"),
        ({}, "has no model_type; add it"),
    ],
)
def test_weights_that_are_no_use_are_refused_with_the_reason(config: dict[str, Any], message: str) -> None:
    """The message says what of the config speaks against a graph, and advises nothing that would be refused, too."""
    with pytest.raises(CheckpointError, match=message):
        choose_main_file(["model.safetensors"], config, model(), is_buildable, "here")
