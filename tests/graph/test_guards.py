"""What is refused, what falls back to a ready graph, and what the messages say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from builders import write_lookup_model
from nerve.api import load
from nerve.checkpoint.choice import sort_graphs
from nerve.config import Precision
from nerve.errors import CheckpointError, ModelError, StartupError
from nerve.graph import GraphKind, is_buildable, load_graph
from nerve.graph.architectures import NotBuildable, describe

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))


def change_config(folder: Path, **changes: Any) -> None:
    """Write `changes` into the config of a model folder."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write_ready(
    file: Path,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    outputs: int = 1,
    rank: int = 3,
    kind: int = TensorProto.FLOAT,
    batch: str | int = "batch",
) -> None:
    """Write a graph that looks token ids up in a table of logits."""
    info = helper.make_tensor_value_info
    table = numpy_helper.from_array(np.eye(8, 5, dtype=np.float32), "table")
    names = [f"out{index}" for index in range(outputs)]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], [name]) for name in names]
    axes = ["batch", "token", 5, 1][:rank]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [info(name, TensorProto.INT64, [batch, "token"]) for name in inputs],
        [info(name, kind, axes) for name in names],
        [table],
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "convbert"}, "model type convbert"),
        ({"model_type": None}, "has no model_type; add it"),
        ({"hidden_act": "prelu"}, "activation prelu"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"architectures": ["BertCrfForNer"]}, "BertCrfForNer"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"is_decoder": True}, "is_decoder"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_hidden_layers": 4}, "3 layers"),
        ({"num_attention_heads": 5}, "5 attention heads"),
        ({"num_attention_heads": "4"}, "num_attention_heads is not a whole number"),
        ({"layer_norm_eps": None}, "layer_norm_eps is not a number"),
        ({"hidden_act": {"name": "gelu"}}, "activation"),
        ({"hidden_size": 64}, "embeddings_project"),
    ],
)
def test_an_unknown_config_is_not_guessed(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """A config the builder does not know is refused with its reason, and runs where there is an ONNX file."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    change_config(folder, **changes)
    with pytest.raises(ModelError, match=reason) as caught:
        load_graph(folder, Precision.AUTO, tmp_path)
    assert "nerve export" in str(caught.value)
    write_ready(folder / "model.onnx")
    graph = load_graph(folder, Precision.AUTO, tmp_path)
    assert (graph.kind, graph.source) == (GraphKind.READY, folder / "model.onnx")


def test_config_alone_tells_what_cannot_be_built(caplog: pytest.LogCaptureFixture) -> None:
    """`is_buildable` follows the guards on the config, and the log has the reason of a refusal."""
    caplog.set_level("INFO")
    assert is_buildable({"model_type": "bert"})
    assert caplog.text == ""
    assert not is_buildable({"model_type": "bert", "position_embedding_type": "relative_key"})
    assert "position_embedding_type is relative_key" in caplog.text
    assert not is_buildable({"model_type": "convbert"})
    assert not is_buildable({})


def _lora(tensors: dict[str, Any]) -> None:
    tensors["bert.encoder.layer.1.attention.self.key.lora_A.weight"] = np.zeros((4, 32), np.float32)


def _peft(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[f"base_model.model.{name}".replace("key.weight", "key.base_layer.weight")] = tensors.pop(name)


def _bits(tensors: dict[str, Any]) -> None:
    tensors["bert.encoder.layer.1.attention.self.key.weight.absmax"] = np.zeros(4, np.float32)


def _wrapped(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors["module." + name] = tensors.pop(name)


def _no_bias(tensors: dict[str, Any]) -> None:
    del tensors["bert.encoder.layer.1.attention.self.key.bias"]


def _no_classifier(tensors: dict[str, Any]) -> None:
    del tensors["classifier.weight"]


def _narrow(tensors: dict[str, Any]) -> None:
    tensors["bert.encoder.layer.0.output.dense.weight"] = np.zeros((32, 63), np.float32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_lora, "adapter .LoRA., such as .*lora_A"),
        (_peft, "adapter .LoRA., such as .*base_layer"),
        (_bits, "quantised weights .*key.weight.absmax"),
        (
            _wrapped,
            "word_embeddings.weight is missing .there is module.bert.embeddings.word_embeddings.weight",
        ),
        (_no_bias, "layer.1.attention.self.key.bias is missing"),
        (_no_classifier, "classifier.weight is missing"),
        (_narrow, "shape"),
    ],
)
def test_missing_and_changed_tensors_are_refused(change: Any, reason: str, tmp_path: Path) -> None:
    """No weight is made up, and none that others need is dropped."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    tensors = tiny.make_tensors("bert")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=reason):
        load_graph(folder, Precision.AUTO, tmp_path)


def test_leftovers_of_pretraining_are_ignored(tmp_path: Path) -> None:
    """Pooler, language-model head and buffers change nothing."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    plain = load_graph(folder, Precision.AUTO, tmp_path)
    tensors: dict[str, Any] = tiny.make_tensors("bert") | {
        "bert.pooler.dense.weight": np.ones((32, 32), np.float32),
        "cls.predictions.bias": np.ones(100, np.float32),
        "bert.embeddings.position_ids": np.arange(48, dtype=np.int64)[None],
    }
    save_file(tensors, folder / "model.safetensors")
    assert load_graph(folder, Precision.AUTO, tmp_path) == plain


@pytest.mark.parametrize(
    "name", ["crf.transitions", "classifier2.weight", "loss_fct.weight", "bert.adapter.0.bias"]
)
def test_what_transformers_does_not_use_is_not_used(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second head or a CRF changes nothing, as in transformers, and a warning names it at every start."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    plain = load_graph(folder, Precision.AUTO, tmp_path)
    save_file(tiny.make_tensors("bert") | {name: np.ones((5, 5), np.float32)}, folder / "model.safetensors")
    for _ in range(2):
        caplog.clear()
        assert load_graph(folder, Precision.AUTO, tmp_path) == plain
        (warned,) = caplog.records
        assert warned.levelname == "WARNING"
        assert name in warned.getMessage()


def test_a_graph_with_more_tensors_is_run_as_it_is() -> None:
    """What lies in an ONNX file the graph computes with, so it is not left out."""
    tensors = tiny.make_tensors("bert")
    describe(tiny.make_config("bert"), tensors, takes_all=True)
    with pytest.raises(NotBuildable, match="no place in the architecture, such as extra"):
        describe(tiny.make_config("bert"), tensors | {"extra.weight": np.ones(3, np.float32)}, takes_all=True)


def test_labels_must_fit_the_classifier(tmp_path: Path) -> None:
    """Too many or too few labels are an error even where a ready graph lies beside."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    change_config(folder, id2label={"0": "O"})
    write_ready(folder / "model.onnx")
    with pytest.raises(ModelError, match="1 labels in id2label, the classifier 5"):
        load_graph(folder, Precision.AUTO, tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_a_cut_safetensors_file_is_refused(keep: int, tmp_path: Path) -> None:
    """A half-fetched file is a clear error, not a traceback."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="fetch the checkpoint again"):
        load_graph(folder, Precision.AUTO, tmp_path)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    """Weights that are not floating point numbers are not cast."""
    folder = tiny.write_checkpoint(tmp_path / "model", dtype=np.int8)
    with pytest.raises(ModelError, match="is int8"):
        load_graph(folder, Precision.AUTO, tmp_path)


@pytest.mark.parametrize(
    "index", ["{", "[]", '{"weight_map": {"a": "gone.safetensors"}}', '{"weight_map": {"a": "../x"}}']
)
def test_a_wrong_index_is_refused(index: str, tmp_path: Path) -> None:
    """The index of shards must be one, and must name files that are beside it."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(StartupError, match="index"):
        load_graph(folder, Precision.AUTO, tmp_path)


@pytest.mark.parametrize("content", [None, "", "[1]", "{"])
def test_a_folder_needs_its_config(content: str | None, tmp_path: Path) -> None:
    """Without a readable config.json nothing is tried."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_graph(tmp_path, Precision.AUTO, tmp_path)


def test_a_named_graph_comes_before_the_weights(tmp_path: Path) -> None:
    """`model.graph` is used as it is, even when the weights could be built from."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    write_ready(folder / "onnx" / "other.onnx", inputs=("input_ids",))
    graph = load_graph(folder, Precision.AUTO, tmp_path, graph_file="onnx/other.onnx")
    assert (graph.source, graph.kind) == (folder / "onnx" / "other.onnx", GraphKind.READY)
    assert graph.precision is Precision.FLOAT32
    with pytest.raises(ModelError, match="no file"):
        load_graph(folder, Precision.AUTO, tmp_path, graph_file="gone.onnx")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"inputs": ("input_ids", "bbox")}, "bbox"),
        ({"inputs": ("attention_mask",)}, "needed are input_ids"),
        ({"outputs": 2}, "one output"),
        ({"batch": 1}, r"input_ids has a fixed size \(1\).*nerve export"),
        ({"rank": 2}, "2 axes"),
        ({"kind": TensorProto.INT64}, "one output"),
    ],
)
def test_a_ready_graph_must_be_a_token_classifier(shape: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Inputs and output of a foreign graph are checked before it is run."""
    write_ready(tmp_path / "model.onnx", **shape)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=reason):
        load_graph(tmp_path, Precision.AUTO, tmp_path, graph_file="model.onnx")


@pytest.mark.parametrize("names", [("hidden", "logits"), ("logits", "hidden")])
def test_of_several_outputs_the_logits_are_taken(names: tuple[str, str], tmp_path: Path) -> None:
    """Wherever they stand; the other output, of the same shape, says the opposite."""
    folder = write_lookup_model(tmp_path / "model")
    with load(folder) as classifier:
        expected = classifier.predict("anna x bob", "none", raw_scores=True)
    model = onnx.load(folder / "model.onnx")
    (logits,) = model.graph.output
    model.graph.node.append(helper.make_node("Neg", [logits.name], ["hidden"]))
    hidden = onnx.ValueInfoProto()
    hidden.CopyFrom(logits)
    hidden.name = "hidden"
    model.graph.ClearField("output")
    model.graph.output.extend({"logits": logits, "hidden": hidden}[name] for name in names)
    onnx.save(model, folder / "model.onnx")
    assert [output.name for output in onnx.load(folder / "model.onnx").graph.output] == list(names)
    with load(folder) as classifier:
        assert classifier.predict("anna x bob", "none", raw_scores=True) == expected


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08\xff\xff"])
def test_a_damaged_ready_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    """A file that is no graph is a clear error."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx is not an ONNX graph, or a damaged one"):
        load_graph(tmp_path, Precision.AUTO, tmp_path)


def test_ready_graphs_are_preferred_in_the_documented_order(tmp_path: Path) -> None:
    """The order in which the checkpoint's files are chosen: what is fetched and logged is what is loaded."""
    (tmp_path / "config.json").write_text('{"model_type": "unknown"}')
    order = ["model.onnx", "a.onnx", "b.onnx", "onnx/model.onnx", "onnx/a.onnx", "other/model.onnx"]
    order.append("model_fp16.onnx")
    assert sort_graphs(order[::-1], Precision.AUTO) == order
    for name in order:
        write_ready(tmp_path / name)
    for name in order:
        assert load_graph(tmp_path, Precision.AUTO, tmp_path).source == tmp_path / name
        (tmp_path / name).unlink()


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.BFLOAT16])
def test_half_precision_is_not_offered(precision: Precision, tmp_path: Path) -> None:
    """A precision in which no graph is built is refused, not replaced."""
    with pytest.raises(ModelError, match="is not available on cpu"):
        load_graph(tiny.write_checkpoint(tmp_path / "model"), precision, tmp_path)


def test_a_ready_graph_is_not_passed_off_as_int8(tmp_path: Path) -> None:
    """A precision that a ready graph does not compute in is refused."""
    (tmp_path / "config.json").write_text("{}")
    write_ready(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="computes in float32"):
        load_graph(tmp_path, Precision.INT8, tmp_path)
