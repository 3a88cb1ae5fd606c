"""The neutral description of an encoder: all that the builders of graphs know of a checkpoint.

A family (a file beside this one) makes it; `builder`, `int8`, `packed` and `calibrate` read it. What differs
between families stands here as a value, so that a new family needs no change in a builder unless it brings
an operation that none has had. What a family does not have is None.

Linear weights are kept as PyTorch stores them, (out, in).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from nerve.types import FloatArray


class Activation(enum.Enum):
    """Between the two layers of the feed-forward block, and in a head."""

    GELU = "erf"  # x * Phi(x)
    GELU_TANH = "tanh"  # 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
    RELU = "relu"
    SILU = "silu"  # x * sigmoid(x)
    TANH = "hyperbolic tangent"
    GELU_10 = "erf, between -10 and 10"
    QUICK_GELU = "sigmoid"  # x * sigmoid(1.702 x)
    MISH = "mish"  # x * tanh(log(1 + exp(x)))
    HARD_SWISH = "hardswish"  # x * min(max(x + 3, 0), 6) / 6
    LAPLACE = "laplace"  # (1 + erf((x - 0.707107) / (0.282095 sqrt(2)))) / 2
    LEAKY_RELU = "leaky_relu"  # x, or 0.01 x where x < 0
    LINEAR = "linear"
    RELU_2 = "relu2"  # relu(x)^2
    RELU_6 = "relu6"  # min(relu(x), 6)
    SIGMOID = "logistic"
    SQRT_SOFTPLUS = "sqrtsoftplus"  # sqrt(log(1 + exp(x)))


@dataclass(frozen=True, slots=True)
class Linear:
    """weight: float32 (out, in); bias: float32 (out,)."""

    weight: FloatArray
    bias: FloatArray | None


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation; weight and bias: float32 (H,).

    is_rms: the mean is not taken off before the division (arXiv 1910.07467); it has no bias then.
    """

    weight: FloatArray
    bias: FloatArray | None
    is_rms: bool = False


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions: of each head, numbers i and i + D/2 are turned by the angle of position and i.

    cosines, sines: float32 (P, D/2). name: tells one from another; layers with the same one share it.
    """

    name: str
    cosines: FloatArray
    sines: FloatArray


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(act(up(x))); with a gate, what is activated is multiplied with gate(x), number by number, before `down`."""

    up: Linear
    down: Linear
    gate: Linear | None = None

    @property
    def wide(self) -> dict[str, Linear]:
        """What the block begins with."""
        return {"up": self.up} if self.gate is None else {"up": self.up, "gate": self.gate}


@dataclass(frozen=True, slots=True)
class Stack:
    """Linear layers of all experts of a layer, whose weights would fill memory if all were there at once.

    shape: (N, out, in). read: returns the weights, float32, each time anew. bias: float32 (N, out).
    """

    shape: tuple[int, int, int]
    read: Callable[[], FloatArray]
    bias: FloatArray | None


@dataclass(frozen=True, slots=True)
class Experts:
    """Many feed-forward blocks in the place of one, of which each token takes a few (arXiv 1701.06538).

    An expert gives down((u + 1) * g * sigmoid(steepness * g)), where g is gate(x) or `limit`, whichever is less, and u
    is up(x), but no farther from zero than `limit`.

    router: (N, H). A token takes the `n_chosen` experts for which it gives most, and adds up their results, weighted
    with the softmax over what it gives for these.
    wide: gate, then up, (N, 2F, H). down: (N, H, F).
    """

    router: Linear
    n_chosen: int
    wide: Stack
    down: Stack
    limit: float
    steepness: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer.

    attention_norm, output_norm: with `Encoder.norm_first` before attention and before the feed-forward block (None
    there for no norm), else after the two residual sums.
    window: how many tokens to each side a token attends to; None for all.
    sinks: float32 (heads,), a score that joins those of the keys in the softmax; what it takes is lost
    (arXiv 2309.17453).
    position_keys, position_queries: float32 (heads, rows, D), with the factor of the scores in them. A row stands for
    a distance (`Encoder.distance_rows`); the product of a query with the key of its distance, and of a key with the
    query of its distance, is added to the score (DeBERTa, arXiv 2006.03654, equation 4).
    """

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: Norm | None
    block: FeedForward | Experts
    output_norm: Norm | None
    window: int | None = None
    rotary: Rotary | None = None
    sinks: FloatArray | None = None
    position_keys: FloatArray | None = None
    position_queries: FloatArray | None = None

    @property
    def projections(self) -> dict[str, Linear]:
        """What attention reads, in the order in which its operators want them."""
        return {"query": self.query, "key": self.key, "value": self.value}


@dataclass(frozen=True, slots=True)
class Convolution:
    """What DeBERTa-v2's largest ones add to the first layer: norm(layer's output + act(conv(embeddings))).

    weight: float32 (H, H, K), K odd, over K tokens with the token itself in the middle; bias: float32 (H,).
    """

    weight: FloatArray
    bias: FloatArray
    activation: Activation
    norm: Norm


@dataclass(frozen=True, slots=True)
class Head:
    """What a checkpoint computes between its last layer and the classifier."""

    dense: Linear
    activation: Activation
    norm: Norm


@dataclass(frozen=True, slots=True)
class Encoder:
    """A token classifier in numbers. V = vocabulary, P = positions, E = embedding size, H = hidden size.

    words: float32 (V, E).
    positions: float32 (P, E), the embedding of token type 0 already added. None where positions have no vectors;
        then that embedding is added to the words.
    padding_id: None when token t has position t. Otherwise positions count the tokens whose id is not
        `padding_id`, from `padding_id + 1`, and tokens with that id have position `padding_id`.
        `nerve.checkpoint.settings.position_padding_id` knows which families do so.
    projection: from E to H, where they differ. projects_first: before `embedding_norm`, not after it.
    norm_first: norms stand before attention and before the feed-forward block, and residual sums are not normalised.
    heads, key_heads: of queries; and of keys and values, each of which serves `heads / key_heads` in turn.
    scale: factor of attention scores; None for 1 / sqrt(D).
    relative_bias: float32 (buckets, heads), added to attention scores by distance; MPNet only.
    distance_rows: int64 (2R + 1,), rows of the layers' `position_keys` for the distances -R to R, query minus key;
        farther ones have those of R.
    """

    words: FloatArray
    positions: FloatArray | None
    padding_id: int | None
    embedding_norm: Norm | None
    projection: Linear | None
    layers: tuple[Layer, ...]
    classifier: Linear
    heads: int
    epsilon: float
    activation: Activation
    key_heads: int | None = None
    projects_first: bool = False
    norm_first: bool = False
    final_norm: Norm | None = None
    head: Head | None = None
    scale: float | None = None
    relative_bias: FloatArray | None = None
    distance_rows: npt.NDArray[np.int64] | None = None
    convolution: Convolution | None = None

    @property
    def head_size(self) -> int:
        """Numbers of a head, D."""
        return len(self.layers[0].query.weight) // self.heads

    @property
    def hidden_size(self) -> int:
        """Numbers of a token between layers, H."""
        return len(self.layers[0].attention_output.weight)

    @property
    def n_positions(self) -> int | None:
        """Positions that there are, P; None where nothing bounds them."""
        bounds = [len(layer.rotary.cosines) for layer in self.layers if layer.rotary is not None]
        if self.positions is not None:
            bounds.append(len(self.positions))
        return min(bounds, default=None)
