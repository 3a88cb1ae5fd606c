"""BERT, and the form that RoBERTa, ELECTRA, DistilBERT, MPNet and others share with it.

Word and position vectors, normalised; then layers of attention and a feed-forward block, each with a residual sum
and a norm after it, or before it; then the classifier. What differs within the form is names and a few rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.checkpoint.settings import position_padding_id
from nerve.graph.architectures.encoder import Encoder, FeedForward, Layer
from nerve.graph.architectures.reading import (
    NotBuildable,
    by_own_names,
    is_leftover,
    read_activation,
    read_flag,
    read_heads,
    read_integer,
    read_layers,
    read_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.reading import Tensors
    from nerve.types import FloatArray

_DEFAULT_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class BertForm:
    """A family of BERT's form.

    Names come after `prefix` and, in a layer, after `layer` and its number. A `..._key` is a key of config.json;
    a `default_...` holds where it is left out, and is that of transformers' configuration class.
    embedding_norm: None where the embeddings are not normalised. final_norm: with it norms stand before attention and
    before the feed-forward block, and this one follows the last layer.
    projection: from the embeddings to the layers, `always_projects` or where their sizes differ.
    epsilon_key: None where the family has one epsilon.
    relative_bias: tensor (relative_buckets, heads) that is added to attention scores by distance.
    task_key: key that tells whether there is a vector for the task; task 0 is what a token classifier has.
    other_names: of keys, and the keys that they stand for.
    """

    prefix: str
    layer: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    output_norm: str = "output.LayerNorm"
    embedding_norm: str | None = "embeddings.LayerNorm"
    final_norm: str | None = None
    projection: str = "embeddings_project"
    always_projects: bool = False
    has_token_types: bool = True
    task_key: str | None = None
    relative_bias: str | None = None
    relative_buckets: int = 0
    hidden_key: str = "hidden_size"
    layers_key: str = "num_hidden_layers"
    heads_key: str = "num_attention_heads"
    activation_key: str = "hidden_act"
    epsilon_key: str | None = "layer_norm_eps"
    other_names: tuple[tuple[str, str], ...] = ()
    default_hidden: int = 768
    default_layers: int = 12
    default_heads: int = 12
    default_activation: str = "gelu"

    @property
    def word_table(self) -> str:
        """Name of the tensor that holds a row for each token."""
        return self.prefix + "embeddings.word_embeddings.weight"

    @property
    def position_table(self) -> str:
        """Name of the tensor that holds a row for each position."""
        return self.prefix + "embeddings.position_embeddings.weight"

    def is_needed(self, name: str) -> bool:
        """Return False for tensors that a token classifier does not use."""
        return not is_leftover(name)

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return None: the table of positions tells."""
        return None

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for what the form computes. Raises `NotBuildable`."""
        read_activation(config, self.activation_key, self.default_activation)
        position_type = config.get("position_embedding_type") or "absolute"
        if position_type != "absolute":
            raise NotBuildable(f"position_embedding_type is {position_type}, not absolute")

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint. Raises `NotBuildable`."""
        config = by_own_names(config, dict(self.other_names))
        words = tensors.take(self.word_table, None, None)
        size = words.shape[1]
        hidden = read_integer(config, self.hidden_key, self.default_hidden)
        heads = read_heads(config, self.heads_key, self.default_heads, hidden)
        projection = None
        if self.always_projects or size != hidden:
            projection = tensors.linear(self.prefix + self.projection, hidden, size)
        norm, final = (
            None if name is None else tensors.norm(self.prefix + name, width)
            for name, width in ((self.embedding_norm, size), (self.final_norm, hidden))
        )
        return Encoder(
            words=words,
            positions=self._positions(config, tensors, size),
            padding_id=position_padding_id(config),
            embedding_norm=norm,
            projection=projection,
            relative_bias=self._relative_bias(tensors, heads),
            layers=self._layers(config, tensors, hidden),
            norm_first=self.final_norm is not None,
            final_norm=final,
            classifier=tensors.linear("classifier", None, hidden),
            heads=heads,
            epsilon=self._epsilon(config),
            activation=read_activation(config, self.activation_key, self.default_activation),
        )

    def _positions(self, config: Mapping[str, Any], tensors: Tensors, size: int) -> FloatArray:
        """Return the vectors of positions, with those that every token has added."""
        positions = tensors.take(self.position_table, None, size)
        tables = ["token_type_embeddings"] if self.has_token_types else []
        if self.task_key is not None and read_flag(config, self.task_key, default=False):
            tables.append("task_type_embeddings")
        for name in tables:
            positions = positions + tensors.take(f"{self.prefix}embeddings.{name}.weight", None, size)[0]
        return positions

    def _layers(self, config: Mapping[str, Any], tensors: Tensors, hidden: int) -> tuple[Layer, ...]:
        start = f"{self.prefix}{self.layer}."
        n_layers = read_layers(config, self.layers_key, self.default_layers, tensors, start)
        return tuple(self._layer(tensors, f"{start}{index}.", hidden) for index in range(n_layers))

    def _layer(self, tensors: Tensors, start: str, hidden: int) -> Layer:
        up = tensors.linear(start + self.up, None, hidden)
        return Layer(
            query=tensors.linear(start + self.query, hidden, hidden),
            key=tensors.linear(start + self.key, hidden, hidden),
            value=tensors.linear(start + self.value, hidden, hidden),
            attention_output=tensors.linear(start + self.attention_output, hidden, hidden),
            attention_norm=tensors.norm(start + self.attention_norm, hidden),
            block=FeedForward(up, tensors.linear(start + self.down, hidden, up.weight.shape[0])),
            output_norm=tensors.norm(start + self.output_norm, hidden),
        )

    def _relative_bias(self, tensors: Tensors, heads: int) -> FloatArray | None:
        if self.relative_bias is None:
            return None
        return tensors.take(self.prefix + self.relative_bias, self.relative_buckets, heads)

    def _epsilon(self, config: Mapping[str, Any]) -> float:
        if self.epsilon_key is None:
            return _DEFAULT_EPSILON
        return read_number(config, self.epsilon_key, _DEFAULT_EPSILON)


BERT = BertForm(prefix="bert.")
