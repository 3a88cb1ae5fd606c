"""Writes the token-packed CUDA graph of an encoder: the tokens of all sequences in one row, no padding.

Inputs, all int32: `input_ids` (1, T), `position_ids` (1, T), `cu_seqlens` (B + 1,), where each sequence
starts and the last one ends, `token_offset` (B, S), where each token would lie if sequences were padded to
S, and for a bias by distance `distances` (S, S). Outputs: `label_ids` int64 (T, 1), `scores` float32 (T, 1), `logits`
float32 (T, L). `nerve.runtime.packing` fills the inputs; `nerve.runtime.packed` runs the graph.

Everything the graph needs of the host comes in as an input of a shape known in advance: there is no node
whose result is a shape, so no node for the CPU and no synchronisation, as CUDA graphs demand. Softmax and
the best label are computed in float32 whatever the precision.

T = tokens of a step, B = sequences, S = room for the longest of them, P = positions, L = labels; other
letters as in `builder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from nerve.errors import ModelError
from nerve.graph import builder
from nerve.graph.architectures.deberta import NO_CONVOLUTION
from nerve.graph.architectures.encoder import Activation
from nerve.graph.architectures.privacy_filter import NO_EXPERTS
from nerve.graph.architectures.reading import NotBuildable
from nerve.graph.attention import repeat_heads, rotate
from nerve.graph.embedding import add_embeddings
from nerve.graph.layers import LayerWriter
from nerve.graph.relative import PackedDisentangled, bias_by_distance
from nerve.graph.writing import GraphWriter, add_bias

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt
    import onnx

    from nerve.graph.architectures.encoder import Convolution, Encoder, Experts, Layer, Linear, Norm
    from nerve.types import FloatArray

# Positions of an encoder that bounds none: `distances` goes as far to each side.
_FARTHEST = 2**15
# Numbers for each head and pair of tokens that exist at once where scores have parts by distance: the products with up
# to twice as many rows, their two lookups and their sum, and the scores.
_PARTS_BY_DISTANCE = 6
# Added to scores that are masked; float16 holds it, and no weight is left of it in a softmax.
_MASKED = -1e4


def build(encoder: Encoder, *, half: bool) -> onnx.ModelProto:
    """Return the packed graph of `encoder` in float16 (`half`) or float32.

    Raises `ModelError` when a weight is too large for float16, `NotBuildable` when the encoder has no packed form.
    """
    graph = _PackedWriter(half)
    layers = _PackedLayers(graph, encoder)
    embeddings = add_embeddings(graph, encoder, "position_ids")  # (1, T, H)
    hidden = layers.write_all(graph.node("Reshape", [embeddings, layers.rows], "rows"))  # (T, H)
    builder.classify(graph, encoder, hidden)  # (T, L)
    model = _finish(graph, len(encoder.classifier.weight), has_distances=layers.has_distances)
    # What the host must know to fill the inputs; it travels with the graph, also through the cache.
    facts = {"n_words": str(len(encoder.words)), "n_positions": str(encoder.n_positions or _FARTHEST)}
    if encoder.distance_rows is not None:
        facts["n_score_heads"] = str(_PARTS_BY_DISTANCE * encoder.heads)
    elif not half:  # of float16 fused kernels do without the scores
        facts["n_score_heads"] = str(encoder.heads)
    if encoder.padding_id is not None:
        facts["padding_id"] = str(encoder.padding_id)
    helper.set_model_props(model, facts)
    return model


class _PackedWriter(GraphWriter):
    """Stores float32 constants as float16 when the graph is to compute in that."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.half = half

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add `value` as an initializer, once per name."""
        if self.half and value.dtype == np.float32:
            with np.errstate(over="ignore"):
                value = value.astype(np.float16)
            if not np.isfinite(value).all():
                raise ModelError(f"{name} has values that float16 cannot hold; set model.precision: float32")
        return super().constant(name, value)


class _PackedLayers(LayerWriter):
    """Adds layers whose values between layers are (T, H), in the operators that are quickest on CUDA."""

    def __init__(self, graph: _PackedWriter, encoder: Encoder) -> None:
        super().__init__(graph, encoder)
        self.rows = graph.integers(-1, encoder.hidden_size)
        self._biases: dict[int | None, str] = {}
        if encoder.relative_bias is not None:
            self._biases[None] = self._learned_bias(encoder.relative_bias)
        for window in {layer.window for layer in encoder.layers if layer.window is not None}:
            self._biases[window] = self._band(window)
        self._disentangled = None
        if encoder.distance_rows is not None:
            n_positions = encoder.n_positions or _FARTHEST
            self._disentangled = PackedDisentangled(
                graph, encoder.distance_rows, n_positions, encoder.heads, encoder.head_size
            )
        self.has_distances = bool(self._biases) or encoder.distance_rows is not None
        self._positions = ""
        if any(layer.rotary is not None for layer in encoder.layers):
            places = graph.node("Cast", ["position_ids"], "long_positions", to=TensorProto.INT64)
            self._positions = graph.node("Reshape", [places, graph.integers(-1, 1)], "places")  # (T, 1)

    def products(self, index: int, site: str, value: str, layers: dict[str, Linear]) -> list[str]:
        """Multiply; queries, keys and values that nothing changes are multiplied by the attention operator itself."""
        if site == "hidden" and self._is_plain(self.encoder.layers[index]):
            return [value]
        return super().products(index, site, value, layers)

    def _is_plain(self, layer: Layer) -> bool:
        has_parts = self.encoder.distance_rows is not None
        return layer.rotary is None and self.encoder.key_heads is None and not has_parts

    def attend(self, index: int, parts: list[str]) -> str:
        """Add attention within each sequence."""
        graph, encoder, name = self.graph, self.encoder, f"layer.{index}"
        layer = encoder.layers[index]
        options: dict[str, Any] = {"num_heads": encoder.heads}
        if encoder.scale is not None:
            options["scale"] = encoder.scale
        places = ["token_offset", "cu_seqlens"]
        if bias := self._biases.get(layer.window):
            places.append(bias)
        projections = layer.projections.values()
        if self._is_plain(layer):
            joined = np.concatenate([projection.weight for projection in projections])
            shifts = [_bias_of(projection) for projection in projections]
            constants = [
                graph.constant(f"{name}.qkv.weight", joined.T),  # (H, 3K)
                graph.constant(f"{name}.qkv.bias", np.concatenate(shifts)),
            ]
            inputs = [*parts, *constants, *places]
            return graph.node("PackedAttention", inputs, f"{name}.attention", fused=True, **options)
        parts = [
            add_bias(graph, part, projection.bias, f"{name}.{kind}")
            for part, (kind, projection) in zip(parts, layer.projections.items(), strict=True)
        ]
        if self._disentangled is not None:
            places.append(self._disentangled.bias(layer, parts[0], parts[1], name))
            inputs = [*parts, "", *places]
            return graph.node("PackedMultiHeadAttention", inputs, f"{name}.attention", fused=True, **options)
        # Each token is a sequence of its own, (T, 1, K): a row is longer than the tables of rotary positions.
        parts = [graph.node("Unsqueeze", [part, graph.integers(1)], f"{part}.alone") for part in parts]
        parts = repeat_heads(
            graph, encoder, rotate(graph, encoder, layer, parts, name, self._positions), name
        )
        width = graph.integers(-1, encoder.heads * encoder.head_size)
        parts = [graph.node("Reshape", [part, width], f"{part}.rows") for part in parts]  # (T, K)
        inputs = [*parts, "", *places]
        return graph.node("PackedMultiHeadAttention", inputs, f"{name}.attention", fused=True, **options)

    def mix(self, index: int, experts: Experts, value: str) -> str:
        """Refuse: how many rows an expert gets is not known in advance, as a captured graph wants it."""
        raise NotBuildable(NO_EXPERTS)

    def convolve(self, convolution: Convolution, embeddings: str, hidden: str) -> str:
        """Refuse: a token in the row does not know its neighbours of the same sequence."""
        raise NotBuildable(NO_CONVOLUTION)

    def skip_norm(self, value: str, skip: str, bias: FloatArray | None, norm: Norm | None, name: str) -> str:
        """Normalise value + skip + bias in one operator."""
        if norm is None or norm.bias is None:
            return super().skip_norm(value, skip, bias, norm, name)
        inputs = [
            value,
            skip,
            self.graph.constant(f"{name}.norm.weight", norm.weight),
            self.graph.constant(f"{name}.norm.bias", norm.bias),
        ]
        if bias is not None:
            inputs.append(self.graph.constant(f"{name}.bias", bias))
        epsilon = self.encoder.epsilon
        return self.graph.node("SkipLayerNormalization", inputs, f"{name}.norm", fused=True, epsilon=epsilon)

    def activate(self, value: str, bias: FloatArray | None, name: str) -> str:
        """Activation of x + bias, in one operator where there is one."""
        if self.encoder.activation is Activation.GELU and bias is not None:
            inputs = [value, self.graph.constant(f"{name}.bias", bias)]
            return self.graph.node("BiasGelu", inputs, f"{name}.gelu", fused=True)
        return super().activate(value, bias, name)

    def _learned_bias(self, relative_bias: FloatArray) -> str:
        """MPNet's bias by distance, (1, heads, S, S), the same in every sequence.

        `distances` (S, S) holds query minus key plus P - 1, so that the table has a column for each.
        """
        by_distance = bias_by_distance(relative_bias, self.encoder.n_positions or 0)
        return self._by_distance("relative_bias", by_distance)  # (heads, 2P - 1)

    def _band(self, window: int) -> str:
        """Mask the tokens beyond a window, (1, 1, S, S)."""
        farthest = (self.encoder.n_positions or _FARTHEST) - 1
        distance = np.abs(np.arange(-farthest, farthest + 1))
        table = np.where(distance <= window, 0, _MASKED).astype(np.float32)[None]  # (1, 2P - 1)
        return self._by_distance(f"window_{window}", table)

    def _by_distance(self, name: str, table: FloatArray) -> str:
        bias = self.graph.node(
            "Gather", [self.graph.constant(name, table), "distances"], f"{name}.bias", axis=1
        )
        return self.graph.node("Unsqueeze", [bias, self.graph.integers(0)], f"{name}.attention_bias")


def _bias_of(layer: Linear) -> FloatArray:
    return np.zeros(len(layer.weight), np.float32) if layer.bias is None else layer.bias


def _finish(graph: _PackedWriter, n_labels: int, *, has_distances: bool) -> onnx.ModelProto:
    """Append softmax and the best label. TopK puts the lower index first among equals, as `builder` says."""
    logits = "logits"
    if graph.half:
        graph.graph.node[-1].output[0] = "narrow_logits"
        graph.node("Cast", ["narrow_logits"], "wide_logits", output=logits, to=TensorProto.FLOAT)
    probabilities = graph.node("Softmax", [logits], "probabilities", axis=-1)
    one = graph.constant("one", np.array([1], np.int64))
    graph.node("TopK", [probabilities, one], "best", outputs=["scores", "label_ids"], axis=-1, largest=1)
    info = helper.make_tensor_value_info
    inputs: dict[str, list[str | int]] = {
        "input_ids": [1, "T"],
        "position_ids": [1, "T"],
        "cu_seqlens": ["B+1"],
        "token_offset": ["B", "S"],
    }
    if has_distances:
        inputs["distances"] = ["S", "S"]
    graph.graph.name = "packed_token_classifier"
    graph.graph.input.extend(info(name, TensorProto.INT32, shape) for name, shape in inputs.items())
    graph.graph.output.extend(
        [
            info("label_ids", TensorProto.INT64, ["T", 1]),
            info("scores", TensorProto.FLOAT, ["T", 1]),
            info("logits", TensorProto.FLOAT, ["T", n_labels]),
        ]
    )
    return graph.model
