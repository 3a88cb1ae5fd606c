"""The neutral description of an encoder: all that the builders of graphs know of a checkpoint.

A family (a file beside this one) makes it, `builder`, `int8`, `packed` and `calibrate` read it. What differs
between families stands here as a value, so that a new family needs no change in a builder unless it brings
an operation that none has had.

Linear weights are kept as PyTorch stores them, (out, in).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nerve.types import FloatArray


class Activation(enum.Enum):
    """Between the two layers of the feed-forward block."""

    GELU = "erf"  # x * Phi(x)
    GELU_TANH = "tanh"  # 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
    RELU = "relu"


@dataclass(frozen=True, slots=True)
class Linear:
    """weight: float32 (out, in); bias: float32 (out,)."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation; weight and bias: float32 (H,)."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer, normalised after each residual sum."""

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm

    @property
    def projections(self) -> dict[str, Linear]:
        """What attention reads, in the order in which its operators want them."""
        return {"query": self.query, "key": self.key, "value": self.value}


@dataclass(frozen=True, slots=True)
class Encoder:
    """A token classifier in numbers. V = vocabulary, P = positions, E = embedding size, H = hidden size.

    words: float32 (V, E).
    positions: float32 (P, E), the embedding of token type 0 already added.
    padding_id: None when token t has position t. Otherwise positions count the tokens whose id is not
        `padding_id`, from `padding_id + 1`, and tokens with that id have position `padding_id`.
        `nerve.checkpoint.settings.position_padding_id` knows which families do so.
    projection: from E to H, where they differ.
    relative_bias: float32 (buckets, heads), added to attention scores by distance; MPNet only.
    """

    words: FloatArray
    positions: FloatArray
    padding_id: int | None
    embedding_norm: Norm
    projection: Linear | None
    relative_bias: FloatArray | None
    layers: tuple[Layer, ...]
    classifier: Linear
    heads: int
    epsilon: float
    activation: Activation
