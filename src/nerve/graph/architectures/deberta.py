"""DeBERTa: scores of attention get what a token's distance to another says, in both directions (arXiv 2006.03654).

Version 1 has a row of relative embeddings for each distance; version 2 and 3 for buckets of distances that widen with
the distance, made of the layer's own projections (`share_att_key`) or of further ones, and sometimes a convolution
beside the first layer. A row's keys and queries are constants, so they are computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.graph.architectures.encoder import Convolution, Encoder, FeedForward, Layer, Linear
from nerve.graph.architectures.reading import (
    NotBuildable,
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

    import numpy.typing as npt

    from nerve.graph.architectures.reading import Tensors
    from nerve.types import FloatArray

NO_CONVOLUTION = "a convolution has no packed form for a GPU"
_PREFIX = "deberta."
_EPSILON = 1e-7
# Where buckets of distances end to differ is looked for up to here.
_FARTHEST = 2**17


@dataclass(frozen=True, slots=True)
class Distances:
    """What config.json says of distances.

    kinds: `pos_att_type`. is_relative: `relative_attention`. n_rows: of the relative embeddings. rows: which of them
    stands for which distance, as in `Encoder.distance_rows`.
    """

    kinds: tuple[str, ...]
    is_relative: bool
    n_rows: int
    rows: npt.NDArray[np.int64]

    @property
    def is_used(self) -> bool:
        """Tell whether scores have a part by distance."""
        return self.is_relative and bool({"c2p", "p2c"} & set(self.kinds))


@dataclass(frozen=True, slots=True)
class DebertaForm:
    """What both versions have in common; `default_...` as in `BertForm`."""

    default_hidden: int = 768
    default_layers: int = 12
    default_heads: int = 12
    word_table: str = _PREFIX + "embeddings.word_embeddings.weight"
    position_table: str | None = None

    def is_needed(self, name: str) -> bool:
        """Return False for tensors that a token classifier does not use."""
        return not is_leftover(name)

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return the rows of the table of positions, where there is one: distances have no end."""
        is_absolute = read_flag(config, "position_biased_input", default=True)
        return read_integer(config, "max_position_embeddings", 512) if is_absolute else None

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for what the form computes. Raises `NotBuildable`."""
        read_activation(config, "hidden_act")
        self.distances(config)
        if config.get("talking_head"):
            raise NotBuildable("config.json sets talking_head")

    def distances(self, config: Mapping[str, Any]) -> Distances:
        """Read what the config says of distances."""
        is_relative = read_flag(config, "relative_attention", default=False)
        reach = _read_reach(config)
        rows = np.clip(np.arange(2 * reach + 1), 0, 2 * reach - 1)
        return Distances(_read_kinds(config), is_relative, 2 * reach, rows)

    def n_factors(self, kinds: tuple[str, ...]) -> int:
        """Return how many products the scale of the scores counts, that of contents included."""
        return 1 + len(kinds)

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint. Raises `NotBuildable`."""
        hidden = read_integer(config, "hidden_size", self.default_hidden)
        heads = read_heads(config, "num_attention_heads", self.default_heads, hidden)
        distances = self.distances(config)
        size = read_integer(config, "embedding_size", hidden)
        words, positions = _embeddings(config, tensors, size)
        projection = None
        if size != hidden:
            projection = tensors.linear(_PREFIX + "embeddings.embed_proj", hidden, size, has_bias=False)
        start = _PREFIX + "encoder.layer."
        n_layers = read_layers(config, "num_hidden_layers", self.default_layers, tensors, start)
        epsilon = read_number(config, "layer_norm_eps", _EPSILON)
        scale = float(1 / np.sqrt(np.float32(hidden // heads * self.n_factors(distances.kinds))))
        relative = self._relative(config, tensors, distances, hidden, epsilon)
        layers = tuple(
            self._layer(config, tensors, f"{start}{index}.", relative, (hidden, heads, scale))
            for index in range(n_layers)
        )
        return Encoder(
            words=words,
            positions=positions,
            padding_id=None,
            embedding_norm=tensors.norm(_PREFIX + "embeddings.LayerNorm", hidden),
            projection=projection,
            projects_first=True,
            layers=layers,
            classifier=tensors.linear("classifier", None, hidden),
            heads=heads,
            epsilon=epsilon,
            activation=read_activation(config, "hidden_act"),
            scale=scale,
            distance_rows=distances.rows if distances.is_used else None,
            convolution=self._convolution(config, tensors, hidden),
        )

    def _relative(
        self, config: Mapping[str, Any], tensors: Tensors, distances: Distances, hidden: int, epsilon: float
    ) -> _Relative | None:
        """Return the relative embeddings."""
        if not distances.is_relative:
            return None
        table = tensors.take(_PREFIX + "encoder.rel_embeddings.weight", distances.n_rows, hidden)
        return _Relative(table, frozenset(distances.kinds))

    def _convolution(self, config: Mapping[str, Any], tensors: Tensors, hidden: int) -> Convolution | None:
        return None

    def _layer(
        self,
        config: Mapping[str, Any],
        tensors: Tensors,
        start: str,
        relative: _Relative | None,
        shape: tuple[int, int, float],
    ) -> Layer:
        hidden, heads, scale = shape
        query, key, value = self._projections(tensors, start + "attention.self.", hidden, heads)
        up = tensors.linear(start + "intermediate.dense", None, hidden)
        layer = Layer(
            query=query,
            key=key,
            value=value,
            attention_output=tensors.linear(start + "attention.output.dense", hidden, hidden),
            attention_norm=tensors.norm(start + "attention.output.LayerNorm", hidden),
            block=FeedForward(up, tensors.linear(start + "output.dense", hidden, up.weight.shape[0])),
            output_norm=tensors.norm(start + "output.LayerNorm", hidden),
        )
        if relative is None:
            return layer
        key_maker, query_maker = self._makers(config, tensors, start + "attention.self.", layer, relative)
        return replace(
            layer,
            position_keys=_project(relative.table, key_maker, heads, scale),
            position_queries=_project(relative.table, query_maker, heads, scale),
        )

    def _projections(
        self, tensors: Tensors, start: str, hidden: int, heads: int
    ) -> tuple[Linear, Linear, Linear]:
        """Return query, key and value of version 1: one weight, head by head; keys have no bias."""
        joined = tensors.take(start + "in_proj.weight", 3 * hidden, hidden)
        apart = joined.reshape(heads, 3, hidden // heads, hidden)
        biases = (tensors.take(start + "q_bias", hidden), None, tensors.take(start + "v_bias", hidden))
        query, key, value = (
            Linear(np.ascontiguousarray(apart[:, part]).reshape(hidden, hidden), bias)
            for part, bias in enumerate(biases)
        )
        return query, key, value

    def _makers(
        self, config: Mapping[str, Any], tensors: Tensors, start: str, layer: Layer, relative: _Relative
    ) -> tuple[Linear | None, Linear | None]:
        """Return what makes keys and queries of the relative embeddings, of version 1; None for what is not used."""
        hidden = relative.table.shape[1]
        keys = (
            tensors.linear(start + "pos_proj", hidden, hidden, has_bias=False)
            if relative.has("c2p")
            else None
        )
        queries = tensors.linear(start + "pos_q_proj", hidden, hidden) if relative.has("p2c") else None
        return keys, queries


@dataclass(frozen=True, slots=True)
class _Relative:
    """Relative embeddings (rows, H), and the kinds of products that are made of them."""

    table: FloatArray
    kinds: frozenset[str]

    def has(self, kind: str) -> bool:
        return kind in self.kinds


@dataclass(frozen=True, slots=True)
class _SecondForm(DebertaForm):
    """Version 2, whose weights version 3 has, too."""

    def distances(self, config: Mapping[str, Any]) -> Distances:
        """Read what the config says of distances, and the buckets."""
        plain = DebertaForm.distances(self, config)
        n_buckets = config.get("position_buckets", -1)
        if isinstance(n_buckets, bool) or not isinstance(n_buckets, int):
            raise NotBuildable("config.json: position_buckets is not a whole number")
        if n_buckets < 1 or not plain.is_relative:
            return plain
        rows = bucket_rows(n_buckets, _read_reach(config))
        return Distances(plain.kinds, plain.is_relative, 2 * n_buckets, rows)

    def n_factors(self, kinds: tuple[str, ...]) -> int:
        """Return how many products the scale of the scores counts, that of contents included."""
        return 1 + len({"c2p", "p2c"} & set(kinds))

    def _relative(
        self, config: Mapping[str, Any], tensors: Tensors, distances: Distances, hidden: int, epsilon: float
    ) -> _Relative | None:
        found = DebertaForm._relative(self, config, tensors, distances, hidden, epsilon)
        kinds = config.get("norm_rel_ebd", "none")
        if not isinstance(kinds, str):
            raise NotBuildable("config.json: norm_rel_ebd is not a text")
        if "layer_norm" not in [kind.strip() for kind in kinds.lower().split("|")]:
            return found
        norm = tensors.norm(_PREFIX + "encoder.LayerNorm", hidden)
        if found is None:
            return None
        centred = found.table - found.table.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(epsilon))
        return _Relative(
            centred / deviation * norm.weight + (0 if norm.bias is None else norm.bias), found.kinds
        )

    def _projections(
        self, tensors: Tensors, start: str, hidden: int, heads: int
    ) -> tuple[Linear, Linear, Linear]:
        query, key, value = (
            tensors.linear(f"{start}{name}_proj", hidden, hidden) for name in ("query", "key", "value")
        )
        return query, key, value

    def _makers(
        self, config: Mapping[str, Any], tensors: Tensors, start: str, layer: Layer, relative: _Relative
    ) -> tuple[Linear | None, Linear | None]:
        hidden = relative.table.shape[1]
        is_shared = read_flag(config, "share_att_key", default=False)
        found: list[Linear | None] = []
        for kind, own, name in (("c2p", layer.key, "pos_key_proj"), ("p2c", layer.query, "pos_query_proj")):
            if not relative.has(kind):
                found.append(None)
            else:
                found.append(own if is_shared else tensors.linear(start + name, hidden, hidden))
        return found[0], found[1]

    def why_not_packed(self, config: Mapping[str, Any]) -> str | None:
        """Say why there is no graph for a GPU."""
        return NO_CONVOLUTION if read_integer(config, "conv_kernel_size", 0) else None

    def _convolution(self, config: Mapping[str, Any], tensors: Tensors, hidden: int) -> Convolution | None:
        size = read_integer(config, "conv_kernel_size", 0)
        if not size:
            return None
        if size % 2 == 0 or read_integer(config, "conv_groups", 1) != 1:
            raise NotBuildable("the convolution is over an even number of tokens, or in groups")
        name = _PREFIX + "encoder.conv."
        return Convolution(
            weight=tensors.take(name + "conv.weight", hidden, hidden, size),
            bias=tensors.take(name + "conv.bias", hidden),
            activation=read_activation(config, "conv_act", "tanh"),
            norm=tensors.norm(name + "LayerNorm", hidden),
        )


def bucket_rows(n_buckets: int, reach: int) -> npt.NDArray[np.int64]:
    """Return the row of each distance from -R to R, query minus key; beyond R nothing changes.

    Up to half the buckets a distance has its own; then they widen with the logarithm (modeling_deberta_v2.py,
    make_log_bucket_position), in float32 as there, since the result is rounded up.
    """
    middle = n_buckets // 2
    if middle < 1 or reach - 1 <= middle:
        raise NotBuildable(f"{n_buckets} buckets of distances do not fit positions up to {reach}")
    farthest = reach
    while True:
        distance = np.arange(-farthest, farthest + 1)
        far = np.where(np.abs(distance) < middle, middle - 1, np.abs(distance))
        whole = np.float32(np.log(np.float64(np.float32((reach - 1) / middle))))
        with np.errstate(divide="ignore", invalid="ignore"):  # of near distances, whose rows are not these
            growth = np.log((far / middle).astype(np.float32).astype(np.float64)).astype(np.float32)
            widening = np.ceil(growth / whole * np.float32(middle - 1)) + middle
            bucket = np.where(far <= middle, distance, widening * np.sign(distance)).astype(np.int64)
        rows: npt.NDArray[np.int64] = np.clip(bucket + n_buckets, 0, 2 * n_buckets - 1)
        if (rows[0] == 0 and rows[-1] == 2 * n_buckets - 1) or farthest >= _FARTHEST:
            return rows
        farthest *= 2


def _embeddings(
    config: Mapping[str, Any], tensors: Tensors, size: int
) -> tuple[FloatArray, FloatArray | None]:
    """Return the vectors of words and of positions; what every token has is added to one of them."""
    start = _PREFIX + "embeddings."
    words = tensors.take(start + "word_embeddings.weight", None, size)
    positions = None
    if read_flag(config, "position_biased_input", default=True):
        rows = read_integer(config, "max_position_embeddings", 512)
        positions = tensors.take(start + "position_embeddings.weight", rows, size)
    else:
        tensors.ignore(start + "position_embeddings.weight")
    if read_integer(config, "type_vocab_size", 0):
        every = tensors.take(start + "token_type_embeddings.weight", None, size)[0]
        if positions is None:
            return words + every, None
        positions = positions + every
    return words, positions


def _project(table: FloatArray, maker: Linear | None, heads: int, scale: float) -> FloatArray | None:
    """Return keys or queries of the relative embeddings, head by head, with the scale in them: (heads, rows, D)."""
    if maker is None:
        return None
    rows = table @ maker.weight.T
    if maker.bias is not None:
        rows = rows + maker.bias
    by_head: FloatArray = rows.reshape(len(table), heads, -1).transpose(1, 0, 2) * np.float32(scale)
    return by_head


def _read_reach(config: Mapping[str, Any]) -> int:
    """Return the largest distance that differs from farther ones; -1 in the config stands for all positions."""
    reach = config.get("max_relative_positions", -1)
    if isinstance(reach, bool) or not isinstance(reach, int):
        raise NotBuildable("config.json: max_relative_positions is not a whole number")
    return reach if reach >= 1 else max(1, read_integer(config, "max_position_embeddings", 512))


def _read_kinds(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the products by distance: `c2p` of queries with keys of distances, `p2c` the other way."""
    found = config.get("pos_att_type") or []
    if isinstance(found, str):
        found = [kind.strip() for kind in found.lower().split("|")]
    if not isinstance(found, list) or not all(isinstance(kind, str) for kind in found):
        raise NotBuildable("config.json: pos_att_type is not a list of names")
    return tuple(found)


DEBERTA = DebertaForm()
DEBERTA_V2 = _SecondForm(default_hidden=1536, default_layers=24, default_heads=24)
