"""Measures the range of every channel that the int8 graph quantises, by running the encoder in numpy.

The inputs are random token ids from a fixed seed: which channels are outliers is a property of the weights,
and no text has to be shipped, fetched or tokenised. The result is the same at every start.

S = calibration sequences, T = their length; the other letters as in `builder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nerve.graph.architectures import Activation
from nerve.graph.builder import distance_buckets

if TYPE_CHECKING:
    import numpy.typing as npt

    from nerve.graph.architectures import Encoder, Layer, Linear, Norm
    from nerve.types import FloatArray

N_SEQUENCES = 16
LENGTH = 48
_SEED = 20240229


@dataclass(frozen=True, slots=True)
class Range:
    """Channels of one activation, float32 (K,): their mean, and how far they go from it."""

    centre: FloatArray
    reach: FloatArray


@dataclass(frozen=True, slots=True)
class LayerRanges:
    """The activations that enter the linear layers of one layer."""

    hidden: Range  # into query, key and value
    context: Range  # into the attention output
    attended: Range  # into the first layer of the feed-forward block


def calibrate(encoder: Encoder) -> list[LayerRanges]:
    """Return the ranges of every layer."""
    ids = np.random.default_rng(_SEED).integers(0, len(encoder.words), (N_SEQUENCES, LENGTH))  # (S, T)
    return measure(encoder, ids)


def measure(encoder: Encoder, ids: npt.NDArray[np.int64]) -> list[LayerRanges]:
    """Return the ranges of every layer over the sequences `ids` (S, T)."""
    first = 0 if encoder.padding_id is None else encoder.padding_id + 1
    width = min(ids.shape[1], len(encoder.positions) - first)
    ids = ids[:, :width]
    hidden = encoder.words[ids] + encoder.positions[first : first + width]  # (S, T, E)
    hidden = _normalise(hidden, encoder.embedding_norm, encoder.epsilon)
    if encoder.projection is not None:
        hidden = _linear(hidden, encoder.projection)  # (S, T, H)
    bias: FloatArray | None = None
    if encoder.relative_bias is not None:
        buckets = distance_buckets(width, len(encoder.relative_bias))
        bias = encoder.relative_bias.T[:, buckets]  # (heads, T, T)
    ranges = []
    for layer in encoder.layers:
        context = _attend(hidden, layer, encoder.heads, bias)  # (S, T, H)
        attended = hidden + _linear(context, layer.attention_output)
        attended = _normalise(attended, layer.attention_norm, encoder.epsilon)
        ranges.append(LayerRanges(_range(hidden), _range(context), _range(attended)))
        wide = _activate(_linear(attended, layer.up), encoder.activation)  # (S, T, F)
        hidden = _normalise(attended + _linear(wide, layer.down), layer.output_norm, encoder.epsilon)
    return ranges


def _range(value: FloatArray) -> Range:
    rows = value.reshape(-1, value.shape[-1])  # (S * T, K)
    centre: FloatArray = rows.mean(axis=0)
    reach: FloatArray = np.abs(rows - centre).max(axis=0)
    return Range(centre, reach)


def _linear(value: FloatArray, layer: Linear) -> FloatArray:
    rows: FloatArray = value.reshape(-1, value.shape[-1]) @ layer.weight.T  # (S * T, out), one product
    rows += layer.bias
    return rows.reshape(*value.shape[:-1], -1)


def _normalise(value: FloatArray, norm: Norm, epsilon: float) -> FloatArray:
    centred = value - value.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    result: FloatArray = centred / deviation * norm.weight + norm.bias
    return result


def _attend(hidden: FloatArray, layer: Layer, heads: int, bias: FloatArray | None) -> FloatArray:
    count, width, size = hidden.shape

    def split(linear: Linear) -> FloatArray:
        parts: FloatArray = _linear(hidden, linear).reshape(count, width, heads, -1).transpose(0, 2, 1, 3)
        return parts

    scores = split(layer.query) @ split(layer.key).transpose(0, 1, 3, 2)  # (S, heads, T, T)
    scores *= np.float32((size // heads) ** -0.5)
    if bias is not None:
        scores += bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    context: FloatArray = weights @ split(layer.value)  # (S, heads, T, H / heads)
    return context.transpose(0, 2, 1, 3).reshape(count, width, size)


def _activate(value: FloatArray, activation: Activation) -> FloatArray:
    """Apply the activation; the tanh form serves for both GELUs, whose ranges are the same."""
    if activation is Activation.RELU:
        return np.maximum(value, 0)
    inner = np.float32(0.7978845608) * (value + np.float32(0.044715) * value * value * value)
    result: FloatArray = np.float32(0.5) * value * (1 + np.tanh(inner))
    return result
