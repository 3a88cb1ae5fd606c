"""ALBERT: few layers with weights of their own, used again and again, and embeddings narrower than the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.graph.architectures.bert import BertForm
from nerve.graph.architectures.reading import NotBuildable, read_integer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.encoder import Layer
    from nerve.graph.architectures.reading import Tensors


@dataclass(frozen=True, slots=True)
class _AlbertForm(BertForm):
    """BERT's form, with groups of layers in the place of layers."""

    def _layers(self, config: Mapping[str, Any], tensors: Tensors, hidden: int) -> tuple[Layer, ...]:
        """Return the layers in the order of their use; a group is used for several in turn."""
        times = read_integer(config, self.layers_key, self.default_layers)
        n_groups = read_integer(config, "num_hidden_groups", 1)
        n_inner = read_integer(config, "inner_group_num", 1)
        start = f"{self.prefix}{self.layer}."
        found = tensors.count_layers(start)
        if not times or not n_inner or n_groups < 1 or found != n_groups:
            raise NotBuildable(f"the checkpoint has {found} groups of layers, config.json says {n_groups}")
        groups = [
            [
                self._layer(tensors, f"{start}{group}.albert_layers.{inner}.", hidden)
                for inner in range(n_inner)
            ]
            for group in range(n_groups)
        ]
        # modeling_albert.py, AlbertTransformer
        order = [int(index / (times / n_groups)) for index in range(times)]
        return tuple(layer for group in order for layer in groups[group])


ALBERT = _AlbertForm(
    prefix="albert.",
    layer="encoder.albert_layer_groups",
    query="attention.query",
    key="attention.key",
    value="attention.value",
    attention_output="attention.dense",
    attention_norm="attention.LayerNorm",
    up="ffn",
    down="ffn_output",
    output_norm="full_layer_layer_norm",
    projection="encoder.embedding_hidden_mapping_in",
    always_projects=True,
    default_hidden=4096,
    default_heads=64,
    default_activation="gelu_new",
)
