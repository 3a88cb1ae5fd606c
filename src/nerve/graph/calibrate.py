"""Measures the channels that the int8 graph quantises, by running the encoder in numpy on calibration texts.

The texts are `nerve.models.samples.calibration_texts`, tokenized by the model's own tokenizer; where a graph is built
without one, random token ids from a fixed seed. The result is the same at every start.

S = calibration sequences, T = the length of one, R = their tokens together; the other letters as in `builder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nerve.graph.architectures.encoder import Activation
from nerve.graph.builder import bias_by_distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from nerve.graph.architectures.encoder import Encoder, Layer, Linear, Norm
    from nerve.types import FloatArray

N_SEQUENCES = 16
LENGTH = 48
_SEED = 20240229
# Sequences that are computed together.
_GROUP = 12


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
    inner: FloatArray  # mean of what enters its second layer, float32 (F,)


def calibrate(encoder: Encoder, sequences: Sequence[Sequence[int]] = ()) -> list[LayerRanges]:
    """Return the ranges of every layer over `sequences` of token ids, or over random ones where there are none.

    Sequences without a token, or with one that the encoder has no row for, are left out.
    """
    known = [ids for ids in sequences if len(ids) and max(ids) < len(encoder.words)]
    if known:
        return measure(encoder, _batches(known))
    random = np.random.default_rng(_SEED).integers(0, len(encoder.words), (N_SEQUENCES, LENGTH))  # (S, T)
    return measure(encoder, [random])


def _batches(sequences: Sequence[Sequence[int]]) -> list[npt.NDArray[np.int64]]:
    """Group sequences of about equal length, each group cut to its shortest: few large products, and no padding."""
    ordered = sorted(sequences, key=len)
    groups = [ordered[at : at + _GROUP] for at in range(0, len(ordered), _GROUP)]
    return [np.array([ids[: len(group[0])] for ids in group], np.int64) for group in groups]


def measure(encoder: Encoder, batches: Sequence[npt.NDArray[np.int64]]) -> list[LayerRanges]:
    """Return the ranges of every layer over batches of sequences, each (S, T), layer after layer."""
    hidden = [_embed(encoder, ids) for ids in batches]  # each (S, T, H)
    ranges = []
    for layer in encoder.layers:
        context = [_attend(part, layer, encoder.heads, _bias(encoder, part.shape[1])) for part in hidden]
        attended = [
            _normalise(part + _linear(mixed, layer.attention_output), layer.attention_norm, encoder.epsilon)
            for part, mixed in zip(hidden, context, strict=True)
        ]
        inner = [_activate(_linear(part, layer.up), encoder.activation) for part in attended]  # (S, T, F)
        ranges.append(
            LayerRanges(_range(hidden), _range(context), _range(attended), _rows(inner).mean(axis=0))
        )
        hidden = [
            _normalise(part + _linear(wide, layer.down), layer.output_norm, encoder.epsilon)
            for part, wide in zip(attended, inner, strict=True)
        ]
    return ranges


def _embed(encoder: Encoder, ids: npt.NDArray[np.int64]) -> FloatArray:
    first = 0 if encoder.padding_id is None else encoder.padding_id + 1
    width = min(ids.shape[1], len(encoder.positions) - first)
    ids = ids[:, :width]
    hidden = encoder.words[ids] + encoder.positions[first : first + width]  # (S, T, E)
    hidden = _normalise(hidden, encoder.embedding_norm, encoder.epsilon)
    return hidden if encoder.projection is None else _linear(hidden, encoder.projection)


def _bias(encoder: Encoder, width: int) -> FloatArray | None:
    """Return MPNet's bias by distance, (heads, T, T)."""
    if encoder.relative_bias is None:
        return None
    at = np.arange(width)
    by_distance = bias_by_distance(encoder.relative_bias, width)  # (heads, 2T - 1)
    found: FloatArray = by_distance[:, at[:, None] - at[None, :] + width - 1]
    return found


def _rows(parts: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])  # (R, K)


def _range(parts: Sequence[FloatArray]) -> Range:
    rows = _rows(parts)
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
