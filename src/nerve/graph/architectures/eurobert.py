"""EuroBERT: Llama without its mask. RMS norms first, rotary positions, SwiGLU, keys and values of fewer heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.graph.architectures.encoder import Encoder, FeedForward, Layer
from nerve.graph.architectures.reading import (
    is_leftover,
    read_activation,
    read_flag,
    read_integer,
    read_key_heads,
    read_layers,
    read_number,
)
from nerve.graph.architectures.rotary import make_rotary, read_head_size, read_theta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.encoder import Linear, Rotary
    from nerve.graph.architectures.reading import Tensors

_LAYERS = "model.layers."
_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class _EuroBert:
    """Reads checkpoints of EuroBERT; keys have the defaults of its configuration class."""

    word_table: str = "model.embed_tokens.weight"
    position_table: str | None = None

    def is_needed(self, name: str) -> bool:
        """Return False for tensors that a token classifier does not use."""
        return not is_leftover(name)

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return how far rotary positions go."""
        return read_integer(config, "max_position_embeddings", 8192)

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for what is computed. Raises `NotBuildable`."""
        read_activation(config, "hidden_act", "silu")
        read_theta(config, _THETA)

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint. Raises `NotBuildable`."""
        hidden = read_integer(config, "hidden_size", 768)
        heads, size = read_head_size(config, 12, hidden, is_free=True)
        key_heads = read_key_heads(config, heads)
        rotary = make_rotary("all", read_theta(config, _THETA), size, self.most_positions(config) or 1)
        n_layers = read_layers(config, "num_hidden_layers", 12, tensors, _LAYERS)
        sizes = (hidden, heads * size, key_heads * size)
        return Encoder(
            words=tensors.take(self.word_table, None, hidden),
            positions=None,
            padding_id=None,
            embedding_norm=None,
            projection=None,
            layers=tuple(
                _layer(config, tensors, f"{_LAYERS}{index}.", sizes, rotary) for index in range(n_layers)
            ),
            norm_first=True,
            final_norm=tensors.rms_norm("model.norm", hidden),
            classifier=tensors.linear("classifier", None, hidden),
            heads=heads,
            key_heads=None if key_heads == heads else key_heads,
            epsilon=read_number(config, "rms_norm_eps", 1e-5),
            activation=read_activation(config, "hidden_act", "silu"),
        )


def _layer(
    config: Mapping[str, Any], tensors: Tensors, start: str, sizes: tuple[int, int, int], rotary: Rotary
) -> Layer:
    """Name the weights of a layer; sizes: of what comes in, of all queries, and of all keys."""
    hidden, queries, keys = sizes
    attends = read_flag(config, "attention_bias", default=False)
    widens = read_flag(config, "mlp_bias", default=False)
    inner = read_integer(config, "intermediate_size", 3072)

    def linear(name: str, out: int, into: int, has_bias: bool) -> Linear:
        return tensors.linear(start + name, out, into, has_bias=has_bias)

    return Layer(
        query=linear("self_attn.q_proj", queries, hidden, attends),
        key=linear("self_attn.k_proj", keys, hidden, attends),
        value=linear("self_attn.v_proj", keys, hidden, attends),
        attention_output=linear("self_attn.o_proj", hidden, queries, attends),
        attention_norm=tensors.rms_norm(start + "input_layernorm", hidden),
        block=FeedForward(
            up=linear("mlp.gate_proj", inner, hidden, widens),  # the activated one
            gate=linear("mlp.up_proj", inner, hidden, widens),
            down=linear("mlp.down_proj", hidden, inner, widens),
        ),
        output_norm=tensors.rms_norm(start + "post_attention_layernorm", hidden),
        rotary=rotary,
    )


EUROBERT = _EuroBert()
