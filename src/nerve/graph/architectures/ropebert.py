"""BERT with rotary positions: NomicBERT, GTE and jina-embeddings-v3, the first two with gated feed-forward blocks.

Names are those that transformers writes into files; in memory it has others (transformers, conversion_mapping.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.graph.architectures.encoder import Encoder, FeedForward, Layer
from nerve.graph.architectures.reading import (
    is_leftover,
    read_activation,
    read_integer,
    read_layers,
    read_number,
    split,
)
from nerve.graph.architectures.rotary import make_rotary, read_head_size, read_theta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.encoder import Linear, Rotary
    from nerve.graph.architectures.reading import Tensors


@dataclass(frozen=True, slots=True)
class RotaryForm:
    """A family of this form; `default_...` as in `BertForm`.

    qkv: one layer for query, key and value, one after the other. up, gate: the activated layer of the feed-forward
    block, and what it is multiplied with; None for no gate; up_and_gate: both in one layer, the gate first.
    linear_biases: of query, key, value and attention output; of `up` and `gate`; of `down`.
    has_head_size: `head_dim` says how large heads are.
    """

    prefix: str
    layer: str = "encoder.layers"
    embedding_norm: str = "emb_ln"
    qkv: str = "attn.Wqkv"
    attention_output: str = "attn.out_proj"
    attention_norm: str = "norm1"
    up: str = "mlp.fc1"
    gate: str | None = None
    up_and_gate: str | None = None
    down: str = "mlp.fc2"
    output_norm: str = "norm2"
    linear_biases: tuple[bool, bool, bool] = (True, True, True)
    default_types: int = 1
    default_hidden: int = 768
    default_layers: int = 12
    default_heads: int = 12
    default_inner: int = 3072
    default_activation: str = "gelu"
    default_epsilon: float = 1e-12
    default_theta: float = 10_000.0
    default_positions: int = 8192
    has_head_size: bool = False

    @property
    def word_table(self) -> str:
        """Name of the tensor that holds a row for each token."""
        return self.prefix + "embeddings.word_embeddings.weight"

    @property
    def position_table(self) -> str | None:
        """Return None: positions are rotations."""
        return None

    def is_needed(self, name: str) -> bool:
        """Return False for tensors that a token classifier does not use."""
        return not is_leftover(name)

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return how far rotary positions go."""
        return read_integer(config, "max_position_embeddings", self.default_positions)

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for what is computed. Raises `NotBuildable`."""
        read_activation(config, "hidden_act", self.default_activation)
        read_theta(config, self.default_theta)

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint. Raises `NotBuildable`."""
        hidden = read_integer(config, "hidden_size", self.default_hidden)
        words = tensors.take(self.word_table, None, hidden)
        if read_integer(config, "type_vocab_size", self.default_types):
            types = tensors.take(self.prefix + "embeddings.token_type_embeddings.weight", None, hidden)
            words = words + types[0]
        heads, size = read_head_size(config, self.default_heads, hidden, is_free=self.has_head_size)
        theta = read_theta(config, self.default_theta)
        rotary = make_rotary("all", theta, size, self.most_positions(config) or 1)
        start = f"{self.prefix}{self.layer}."
        n_layers = read_layers(config, "num_hidden_layers", self.default_layers, tensors, start)
        inner = read_integer(config, "intermediate_size", self.default_inner)
        return Encoder(
            words=words,
            positions=None,
            padding_id=None,
            embedding_norm=tensors.norm(self.prefix + self.embedding_norm, hidden),
            projection=None,
            layers=tuple(
                self._layer(tensors, f"{start}{index}.", (hidden, heads * size, inner), rotary)
                for index in range(n_layers)
            ),
            classifier=tensors.linear("classifier", None, hidden),
            heads=heads,
            epsilon=read_number(config, "layer_norm_eps", self.default_epsilon),
            activation=read_activation(config, "hidden_act", self.default_activation),
        )

    def _layer(self, tensors: Tensors, start: str, sizes: tuple[int, int, int], rotary: Rotary) -> Layer:
        """Name the weights of a layer; sizes: hidden, all heads, and inner."""
        hidden, width, inner = sizes
        attends, _, narrows = self.linear_biases
        qkv = tensors.linear(start + self.qkv, 3 * width, hidden, has_bias=attends)
        query, key, value = split(qkv, 3)
        up, gate = self._wide(tensors, start, hidden, inner)
        return Layer(
            query=query,
            key=key,
            value=value,
            attention_output=tensors.linear(start + self.attention_output, hidden, width, has_bias=attends),
            attention_norm=tensors.norm(start + self.attention_norm, hidden),
            block=FeedForward(up, tensors.linear(start + self.down, hidden, inner, has_bias=narrows), gate),
            output_norm=tensors.norm(start + self.output_norm, hidden),
            rotary=rotary,
        )

    def _wide(self, tensors: Tensors, start: str, hidden: int, inner: int) -> tuple[Linear, Linear | None]:
        has_bias = self.linear_biases[1]
        if self.up_and_gate is not None:
            both = tensors.linear(start + self.up_and_gate, 2 * inner, hidden, has_bias=has_bias)
            gate, up = split(both, 2)
            return up, gate
        up = tensors.linear(start + self.up, inner, hidden, has_bias=has_bias)
        if self.gate is None:
            return up, None
        return up, tensors.linear(start + self.gate, inner, hidden, has_bias=has_bias)


NOMIC_BERT = RotaryForm(
    prefix="nomic_bert.",
    up="mlp.fc12",
    gate="mlp.fc11",
    linear_biases=(False, False, False),
    default_types=2,
    default_activation="silu",
    default_theta=1000.0,
    default_positions=2048,
    has_head_size=True,
)
GTE = RotaryForm(
    prefix="gte.",
    layer="encoder.layer",
    embedding_norm="embeddings.LayerNorm",
    qkv="attention.qkv_proj",
    attention_output="attention.o_proj",
    attention_norm="attn_ln",
    up_and_gate="mlp.up_gate_proj",
    down="mlp.down_proj",
    output_norm="mlp_ln",
    linear_biases=(True, False, True),
    default_theta=160_000.0,
)
JINA_EMBEDDINGS_V3 = RotaryForm(
    prefix="roberta.",
    qkv="mixer.Wqkv",
    attention_output="mixer.out_proj",
    default_hidden=1024,
    default_layers=24,
    default_heads=16,
    default_inner=4096,
    default_epsilon=1e-5,
    default_theta=20_000.0,
    default_positions=8194,
)
