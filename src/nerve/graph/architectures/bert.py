"""BERT, and the form that RoBERTa, ELECTRA, DistilBERT and MPNet share with it.

Word and position vectors, normalised; then layers of attention and a feed-forward block, each with a residual sum
and a norm after it; then the classifier. What differs within the form is names and a few rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.checkpoint.settings import position_padding_id
from nerve.graph.architectures.encoder import Encoder, Layer
from nerve.graph.architectures.reading import (
    NotBuildable,
    is_leftover,
    read_activation,
    read_integer,
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
    `default_heads` holds where it is left out.
    epsilon_key: None where the family has one epsilon.
    relative_bias: tensor (relative_buckets, heads) that is added to attention scores by distance.
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
    has_token_types: bool = True
    relative_bias: str | None = None
    relative_buckets: int = 0
    hidden_key: str = "hidden_size"
    layers_key: str = "num_hidden_layers"
    heads_key: str = "num_attention_heads"
    activation_key: str = "hidden_act"
    epsilon_key: str | None = "layer_norm_eps"
    default_heads: int = 12

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

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for what the form computes. Raises `NotBuildable`."""
        read_activation(config, self.activation_key)
        position_type = config.get("position_embedding_type") or "absolute"
        if position_type != "absolute":
            raise NotBuildable(f"position_embedding_type is {position_type}, not absolute")

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint. Raises `NotBuildable`."""
        embeddings = self.prefix + "embeddings."
        words = tensors.take(self.word_table, None, None)
        size = words.shape[1]
        positions = tensors.take(self.position_table, None, size)
        if self.has_token_types:
            positions = positions + tensors.take(embeddings + "token_type_embeddings.weight", None, size)[0]
        embedding_norm = tensors.norm(embeddings + "LayerNorm", size)
        hidden = read_integer(config, self.hidden_key, size)
        heads = read_integer(config, self.heads_key, self.default_heads)
        if heads < 1 or hidden % heads:
            raise NotBuildable(f"{heads} attention heads do not divide the hidden size {hidden}")
        projection = None
        if size != hidden:
            projection = tensors.linear(self.prefix + "embeddings_project", hidden, size)
        return Encoder(
            words=words,
            positions=positions,
            padding_id=position_padding_id(config),
            embedding_norm=embedding_norm,
            projection=projection,
            relative_bias=self._relative_bias(tensors, heads),
            layers=self._layers(config, tensors, hidden),
            classifier=tensors.linear("classifier", None, hidden),
            heads=heads,
            epsilon=self._epsilon(config),
            activation=read_activation(config, self.activation_key),
        )

    def _layers(self, config: Mapping[str, Any], tensors: Tensors, hidden: int) -> tuple[Layer, ...]:
        start = f"{self.prefix}{self.layer}."
        found = tensors.count_layers(start)
        named = read_integer(config, self.layers_key, found)
        if not 1 <= named <= found:  # those beyond `named` are not used by transformers, either
            raise NotBuildable(f"the checkpoint has {found} layers, config.json says {named}")
        return tuple(self._layer(tensors, f"{start}{index}.", hidden) for index in range(named))

    def _layer(self, tensors: Tensors, start: str, hidden: int) -> Layer:
        up = tensors.linear(start + self.up, None, hidden)
        return Layer(
            query=tensors.linear(start + self.query, hidden, hidden),
            key=tensors.linear(start + self.key, hidden, hidden),
            value=tensors.linear(start + self.value, hidden, hidden),
            attention_output=tensors.linear(start + self.attention_output, hidden, hidden),
            attention_norm=tensors.norm(start + self.attention_norm, hidden),
            up=up,
            down=tensors.linear(start + self.down, hidden, up.weight.shape[0]),
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
