"""Writes the ONNX graph of an encoder in the operators that ONNX Runtime has fused kernels for.

Inputs: `input_ids` int32 (B, T), right-padded with anything, and `lengths` int32 (B,).
Outputs: `label_ids` int64 (B, T), `scores` float32 (B, T), `logits` float32 (B, T, L); what stands at
padded positions has no meaning. A run that asks for `label_ids` and `scores` computes nothing else.

Every operator works on one row (token) or on one (sequence, head) at a time, and none sums over an
extent that padding changes, so an answer does not depend on batch mates; docs/explanation/exactness.md says why.

B = sequences, T = longest of them, E = embedding size, H = hidden size, F = feed-forward size, L = labels.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from nerve.graph.attention import PaddedAttention
from nerve.graph.embedding import embed
from nerve.graph.experts import float_products, mix
from nerve.graph.layers import LayerWriter
from nerve.graph.writing import GraphWriter, activate, linear, normalize, product

if TYPE_CHECKING:
    import onnx

    from nerve.graph.architectures.encoder import Convolution, Encoder, Experts

BUILDER_VERSION = 10


def build(encoder: Encoder) -> onnx.ModelProto:
    """Return the float32 graph of `encoder`."""
    graph = GraphWriter()
    hidden = PaddedLayers(graph, encoder).write_all(embed(graph, encoder))  # (B, T, H)
    classify(graph, encoder, hidden)  # (B, T, L)
    return finish(graph, "logits", len(encoder.classifier.weight))


class PaddedLayers(LayerWriter):
    """Adds layers over padded batches; values between layers are (B, T, H)."""

    def __init__(self, graph: GraphWriter, encoder: Encoder) -> None:
        super().__init__(graph, encoder)
        self._attention = PaddedAttention(graph, encoder)

    def attend(self, index: int, parts: list[str]) -> str:
        """Add attention over query, key and value without their biases."""
        return self._attention.attend(self.encoder.layers[index], parts, f"layer.{index}")

    def mix(self, index: int, experts: Experts, value: str) -> str:
        """Add the results of the experts that each token of `value` (B, T, H) takes."""
        graph, name = self.graph, f"layer.{index}.experts"
        width = graph.integers(-1, self.encoder.hidden_size)
        rows = graph.node("Reshape", [value, width], f"{name}.tokens_in_rows")
        shape = graph.node("Shape", [value], f"{name}.shape")
        mixed = mix(graph, experts, rows, name, partial(float_products, graph))
        return graph.node("Reshape", [mixed, shape], f"{name}.grid")

    def convolve(self, convolution: Convolution, embeddings: str, hidden: str) -> str:
        """Add norm(hidden + act(conv(embeddings))), each (B, T, H); beyond a text the embeddings count as 0.

        The tokens that a filter sees are put side by side, so that one matrix product serves and every token is
        computed on its own.
        """
        graph = self.graph
        size = convolution.weight.shape[2]
        half = size // 2
        time = graph.node("Shape", ["input_ids"], "conv.time", start=1, end=2)
        ends = graph.node("Squeeze", [time], "conv.end")
        bounds = [graph.constant(f"conv.{value}", np.array(value, np.int64)) for value in (0, 1)]
        places = graph.node("Range", [bounds[0], ends, bounds[1]], "conv.places")
        lengths = graph.node("Cast", ["lengths"], "conv.lengths", to=TensorProto.INT64)
        lengths = graph.node("Unsqueeze", [lengths, graph.integers(1)], "conv.lengths_column")
        inside = graph.node("Less", [places, lengths], "conv.inside")  # (B, T)
        kept = graph.node("Unsqueeze", [inside, graph.integers(2)], "conv.kept")
        nothing = graph.constant("conv.nothing", np.zeros((), np.float32))
        real = graph.node("Where", [kept, embeddings, nothing], "conv.real")
        padded = graph.node("Pad", [real, graph.integers(0, half, 0, 0, half, 0)], "conv.padded")
        seen = []
        for at in range(size):
            end = graph.node("Add", [time, graph.integers(at)], f"conv.end_{at}")
            seen.append(
                graph.node("Slice", [padded, graph.integers(at), end, graph.integers(1)], f"conv.from_{at}")
            )
        beside = graph.node("Concat", seen, "conv.beside", axis=2) if size > 1 else seen[0]  # (B, T, KH)
        weight = graph.constant("conv.weight", np.concatenate(list(convolution.weight.transpose(2, 1, 0))))
        value = graph.node("MatMul", [beside, weight], "conv.product")
        value = activate(graph, convolution.activation, value, convolution.bias, "conv")
        return self.skip_norm(value, hidden, None, convolution.norm, "conv.output")


def classify(graph: GraphWriter, encoder: Encoder, hidden: str) -> None:
    """Add what follows the last layer; its last operator gives `logits`."""
    if encoder.final_norm is not None:
        hidden = normalize(graph, hidden, encoder.final_norm, encoder.epsilon, "final")
    if encoder.head is not None:
        head = encoder.head
        value = product(graph, hidden, head.dense, "head")
        value = activate(graph, head.activation, value, head.dense.bias, "head")
        hidden = normalize(graph, value, head.norm, encoder.epsilon, "head")
    linear(graph, hidden, encoder.classifier, "classifier")
    graph.graph.node[-1].output[0] = "logits"


def finish(graph: GraphWriter, logits: str, labels: int) -> onnx.ModelProto:
    """Append softmax and the best label, and wrap everything up as a model.

    TopK puts the lower index first among equals (ONNX, operator TopK): the smallest label id wins a tie.
    """
    probabilities = graph.node("Softmax", [logits], "probabilities", axis=-1)
    one = graph.constant("one", np.array([1], np.int64))
    results = ["best.scores", "best.ids"]
    graph.node("TopK", [probabilities, one], "best", outputs=results, axis=-1, largest=1)
    last = graph.constant("last_axis", np.array([-1], np.int64))
    graph.node("Squeeze", ["best.ids", last], "squeeze_ids", output="label_ids")
    graph.node("Squeeze", ["best.scores", last], "squeeze_scores", output="scores")
    info = helper.make_tensor_value_info
    graph.graph.name = "token_classifier"
    graph.graph.input.extend(
        [info("input_ids", TensorProto.INT32, ["B", "T"]), info("lengths", TensorProto.INT32, ["B"])]
    )
    graph.graph.output.extend(
        [
            info("label_ids", TensorProto.INT64, ["B", "T"]),
            info("scores", TensorProto.FLOAT, ["B", "T"]),
            info("logits", TensorProto.FLOAT, ["B", "T", labels]),
        ]
    )
    return graph.model
