"""OpenAI's privacy filter: gpt-oss read in both directions. A mixture of experts, a band of attention with sinks.

RMS norms first, keys and values of fewer heads, rotary positions as YaRN whose pairs are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.graph.architectures.encoder import Activation, Encoder, Experts, Layer, Stack
from nerve.graph.architectures.reading import (
    NotBuildable,
    by_own_names,
    is_leftover,
    read_flag,
    read_integer,
    read_key_heads,
    read_layers,
    read_number,
)
from nerve.graph.architectures.rotary import (
    check_whole_heads,
    from_pairs,
    make_yarn,
    read_head_size,
    read_yarn,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.encoder import Linear, Rotary
    from nerve.graph.architectures.reading import Tensors
    from nerve.graph.architectures.rotary import Yarn

NO_EXPERTS = "a mixture of experts has no packed form for a GPU"
_LAYERS = "model.layers."
_THETA = 150_000.0
# What the configuration class takes where a config has no rope_parameters.
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclass(frozen=True, slots=True)
class _Sizes:
    """hidden: H. queries, keys: numbers of all heads. size: of one. inner: F."""

    hidden: int
    queries: int
    keys: int
    size: int
    inner: int


@dataclass(frozen=True, slots=True)
class _PrivacyFilter:
    """Reads checkpoints of openai/privacy-filter and of what others have trained from it."""

    word_table: str = "model.embed_tokens.weight"
    position_table: str | None = None

    def is_needed(self, name: str) -> bool:
        """Return False for tensors that a token classifier does not use."""
        return not is_leftover(name)

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return how far rotary positions go."""
        return read_integer(config, "max_position_embeddings", 131_072)

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for what is computed. Raises `NotBuildable`."""
        self._yarn(config)

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint. Raises `NotBuildable`."""
        hidden = read_integer(config, "hidden_size", 640)
        heads, size = read_head_size({"head_dim": 64, **config}, 14, hidden, is_free=True)
        key_heads = read_key_heads(config, heads, 2)
        n_positions = self.most_positions(config) or 1
        rotary = make_yarn("all", self._yarn(config), size, n_positions)
        sizes = _Sizes(
            hidden, heads * size, key_heads * size, size, read_integer(config, "intermediate_size", 640)
        )
        n_layers = read_layers(config, "num_hidden_layers", 8, tensors, _LAYERS)
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
            classifier=tensors.linear("score", None, hidden),
            heads=heads,
            key_heads=None if key_heads == heads else key_heads,
            epsilon=read_number(config, "rms_norm_eps", 1e-5),
            activation=Activation.SILU,
        )

    def why_not_packed(self, config: Mapping[str, Any]) -> str | None:
        """Say why there is no graph for a GPU."""
        return NO_EXPERTS

    def local_windows(self, config: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return how far each layer looks to each side."""
        return (_read_window(config),) * read_integer(config, "num_hidden_layers", 8)

    def _yarn(self, config: Mapping[str, Any]) -> Yarn:
        check_whole_heads(config)
        found = config.get("rope_scaling") or config.get("rope_parameters") or _YARN
        return read_yarn(found, read_number(config, "rope_theta", _THETA), self.most_positions(config) or 1)


def _read_window(config: Mapping[str, Any]) -> int:
    return read_integer(config, "sliding_window", 128)


def _layer(config: Mapping[str, Any], tensors: Tensors, start: str, sizes: _Sizes, rotary: Rotary) -> Layer:
    hidden, attends = sizes.hidden, read_flag(config, "attention_bias", default=True)

    def linear(name: str, out: int, into: int) -> Linear:
        return tensors.linear(f"{start}self_attn.{name}", out, into, has_bias=attends)

    return Layer(
        query=from_pairs(linear("q_proj", sizes.queries, hidden), sizes.size),
        key=from_pairs(linear("k_proj", sizes.keys, hidden), sizes.size),
        value=linear("v_proj", sizes.keys, hidden),
        attention_output=linear("o_proj", hidden, sizes.queries),
        attention_norm=tensors.rms_norm(start + "input_layernorm", hidden),
        block=_experts(config, tensors, start + "mlp.", sizes),
        output_norm=tensors.rms_norm(start + "post_attention_layernorm", hidden),
        window=_read_window(config),
        rotary=rotary,
        sinks=tensors.take(start + "self_attn.sinks", sizes.queries // sizes.size),
    )


def _experts(config: Mapping[str, Any], tensors: Tensors, start: str, sizes: _Sizes) -> Experts:
    """Name the weights of a layer's experts, which are stored (E, in, out)."""
    hidden, inner = sizes.hidden, sizes.inner
    config = by_own_names(config, {"num_experts": "num_local_experts"})
    n_experts = read_integer(config, "num_local_experts", 128)
    n_chosen = read_integer(config, "num_experts_per_tok", 4)
    if not 1 <= n_chosen <= n_experts:
        raise NotBuildable(f"config.json: a token cannot take {n_chosen} of {n_experts} experts")

    def stack(name: str, out: int, into: int) -> Stack:
        read = tensors.later(start + name, n_experts, into, out)
        bias = tensors.take(f"{start}{name}_bias", n_experts, out)
        return Stack((n_experts, out, into), lambda: read().transpose(0, 2, 1), bias)

    return Experts(
        router=tensors.linear(start + "router", n_experts, hidden),
        n_chosen=n_chosen,
        wide=stack("experts.gate_up_proj", 2 * inner, hidden),
        down=stack("experts.down_proj", hidden, inner),
        limit=read_number(config, "swiglu_limit", 7.0),
        steepness=read_number(config, "swiglu_alpha", 1.702),
    )


OPENAI_PRIVACY_FILTER = _PrivacyFilter()
