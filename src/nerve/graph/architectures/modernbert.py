"""ModernBERT: norms first, gated feed-forward blocks, rotary positions, local attention in most layers, a head.

Tokens have no position but by rotation, with one base in local layers and another in global ones (arXiv 2412.13663).
The first layer's attention reads the normalised embeddings as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.graph.architectures.encoder import Encoder, FeedForward, Head, Layer
from nerve.graph.architectures.reading import (
    NotBuildable,
    is_leftover,
    read_activation,
    read_flag,
    read_heads,
    read_integer,
    read_layers,
    read_number,
    split,
)
from nerve.graph.architectures.rotary import check_plain, make_rotary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.encoder import Rotary
    from nerve.graph.architectures.reading import Tensors

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
# Kind of attention -> key of older configs for the base of its rotation, and the base where none is given.
_THETAS = {_GLOBAL: ("global_rope_theta", 160_000.0), _LOCAL: ("local_rope_theta", 10_000.0)}


@dataclass(frozen=True, slots=True)
class _ModernBert:
    """Reads checkpoints of ModernBERT and of mmBERT."""

    word_table: str = "model.embeddings.tok_embeddings.weight"
    position_table: str | None = None

    def is_needed(self, name: str) -> bool:
        """Return False for tensors that a token classifier does not use."""
        return not is_leftover(name)

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return how far rotary positions go."""
        return read_integer(config, "max_position_embeddings", 8192)

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for what is computed. Raises `NotBuildable`."""
        read_activation(config, "hidden_activation")
        read_activation(config, "classifier_activation")
        for kind in _THETAS:
            _read_theta(config, kind)
        _read_window(config)
        _read_kinds(config, 1)

    def local_windows(self, config: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return how far each layer looks to each side, where all are local."""
        n_layers = read_integer(config, "num_hidden_layers", 22)
        kinds = _read_kinds(config, n_layers)
        return (_read_window(config),) * n_layers if set(kinds) == {_LOCAL} else None

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint. Raises `NotBuildable`."""
        hidden = read_integer(config, "hidden_size", 768)
        heads = read_heads(config, "num_attention_heads", 12, hidden)
        has_bias = read_flag(config, "norm_bias", default=False)
        n_layers = read_layers(config, "num_hidden_layers", 22, tensors, "model.layers.")
        kinds = _read_kinds(config, n_layers)
        rotaries = {
            kind: make_rotary(
                kind, _read_theta(config, kind), hidden // heads, self.most_positions(config) or 1
            )
            for kind in set(kinds)
        }
        dense = tensors.linear(
            "head.dense", hidden, hidden, has_bias=read_flag(config, "classifier_bias", default=False)
        )
        return Encoder(
            words=tensors.take(self.word_table, None, hidden),
            positions=None,
            padding_id=None,
            embedding_norm=tensors.norm("model.embeddings.norm", hidden, has_bias=has_bias),
            projection=None,
            layers=tuple(
                _layer(config, tensors, index, hidden, rotaries[kind]) for index, kind in enumerate(kinds)
            ),
            norm_first=True,
            final_norm=tensors.norm("model.final_norm", hidden, has_bias=has_bias),
            head=Head(
                dense,
                read_activation(config, "classifier_activation"),
                tensors.norm("head.norm", hidden, has_bias=has_bias),
            ),
            classifier=tensors.linear("classifier", None, hidden),
            heads=heads,
            epsilon=read_number(config, "norm_eps", 1e-5),
            activation=read_activation(config, "hidden_activation"),
        )


def _layer(config: Mapping[str, Any], tensors: Tensors, index: int, hidden: int, rotary: Rotary) -> Layer:
    start = f"model.layers.{index}."
    norm_bias = read_flag(config, "norm_bias", default=False)
    attention_bias = read_flag(config, "attention_bias", default=False)
    mlp_bias = read_flag(config, "mlp_bias", default=False)
    query, key, value = split(
        tensors.linear(start + "attn.Wqkv", 3 * hidden, hidden, has_bias=attention_bias), 3
    )
    inner = read_integer(config, "intermediate_size", 1152)
    up, gate = split(tensors.linear(start + "mlp.Wi", 2 * inner, hidden, has_bias=mlp_bias), 2)
    norm = tensors.norm(start + "attn_norm", hidden, has_bias=norm_bias) if index else None
    return Layer(
        query=query,
        key=key,
        value=value,
        attention_output=tensors.linear(start + "attn.Wo", hidden, hidden, has_bias=attention_bias),
        attention_norm=norm,
        block=FeedForward(up, tensors.linear(start + "mlp.Wo", hidden, inner, has_bias=mlp_bias), gate),
        output_norm=tensors.norm(start + "mlp_norm", hidden, has_bias=norm_bias),
        window=_read_window(config) if rotary.name == _LOCAL else None,
        rotary=rotary,
    )


def _read_kinds(config: Mapping[str, Any], n_layers: int) -> list[str]:
    """Return which layers attend to all tokens: every third, beginning with the first, or as `layer_types` lists."""
    kinds = config.get("layer_types")
    if kinds is None:
        every = read_integer(config, "global_attn_every_n_layers", 3)
        if every < 1:
            raise NotBuildable("config.json: global_attn_every_n_layers is not a positive number")
        return [_LOCAL if index % every else _GLOBAL for index in range(n_layers)]
    if not isinstance(kinds, list) or not set(kinds) <= set(_THETAS) or len(kinds) < n_layers:
        raise NotBuildable(f"config.json: layer_types is not a list of {_LOCAL} and {_GLOBAL} for each layer")
    return kinds[:n_layers]


def _read_window(config: Mapping[str, Any]) -> int:
    """Return how many tokens to each side a token of a local layer attends to (`sliding_window`, inclusive)."""
    window = read_integer(config, "local_attention", 128) // 2
    if config.get("sliding_window") not in (None, window):
        raise NotBuildable("config.json: sliding_window and local_attention contradict each other")
    return window


def _read_theta(config: Mapping[str, Any], kind: str) -> float:
    """Return the base of the rotation in layers of one kind."""
    if config.get("rope_scaling"):
        check_plain(config["rope_scaling"])
    parameters = config.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or not set(parameters) <= set(_THETAS):
        raise NotBuildable("config.json: rope_parameters is not one object for each kind of attention")
    found = parameters.get(kind) or {}
    check_plain(found)
    key, default = _THETAS[kind]
    return read_number(found, "rope_theta", read_number(config, key, default))


MODERNBERT = _ModernBert()
