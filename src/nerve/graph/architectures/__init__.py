"""Maps the checkpoints of known architectures to one neutral description of an encoder.

One `Architecture` per `model_type`: what its tensors are called, where positions start, which defaults
its config has in transformers. `describe` refuses (`NotBuildable`) whatever it does not know instead of
guessing; `load_graph` then looks for a ready graph. Only `builder` reads the result.

Linear weights are kept as PyTorch stores them, (out, in).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.types import FloatArray


class NotBuildable(Exception):
    """The graph cannot be built from this checkpoint; the text says why."""


class Activation(enum.Enum):
    """Between the two layers of the feed-forward block."""

    GELU = "erf"  # x * Phi(x)
    GELU_TANH = "tanh"  # 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
    RELU = "relu"


# gelu_fast writes sqrt(2/pi) as 0.7978845608 and groups the factors otherwise; the function is the same.
_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


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


@dataclass(frozen=True, slots=True)
class Architecture:
    """Names and rules of one model type; the names come after `prefix` and, in a layer, after `layer`."""

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
    padding_key: str | None = None  # config key that says where positions start
    fixed_padding_id: int | None = None
    relative_bias: str | None = None
    hidden_key: str = "hidden_size"
    layers_key: str = "num_hidden_layers"
    heads_key: str = "num_attention_heads"
    activation_key: str = "hidden_act"
    epsilon_key: str | None = "layer_norm_eps"
    default_heads: int = 12


_ROBERTA = Architecture(prefix="roberta.", padding_key="pad_token_id")

# The defaults are those of the configuration classes in transformers 5.23; MPNet's padding id is fixed there.
ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(prefix="bert."),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Architecture(prefix="electra.", default_heads=4),
    "distilbert": Architecture(
        prefix="distilbert.",
        layer="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        output_norm="output_layer_norm",
        has_token_types=False,
        hidden_key="dim",
        layers_key="n_layers",
        heads_key="n_heads",
        activation_key="activation",
        epsilon_key=None,
    ),
    "mpnet": Architecture(
        prefix="mpnet.",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        has_token_types=False,
        fixed_padding_id=1,
        relative_bias="encoder.relative_attention_bias.weight",
    ),
}

# transformers computes with 32 buckets whatever relative_attention_num_buckets says.
RELATIVE_BUCKETS = 32
_DEFAULT_EPSILON = 1e-12
_DEFAULT_PADDING_ID = 1

# Left over from pre-training, or buffers: a token classifier computes the same without them.
_IGNORED = re.compile(
    r"^([a-z]+\.)?(pooler\.|embeddings\.(position_ids|token_type_ids)$)"
    r"|^(cls|lm_head|discriminator_predictions|generator_predictions|generator_lm_head)\."
    r"|^vocab_(transform|projector|layer_norm)\."
)


_POSITIONS = "embeddings.position_embeddings.weight"


def is_needed(name: str) -> bool:
    """Return False for tensors that a token classifier does not use."""
    return _IGNORED.match(name) is None


def position_table(config: Mapping[str, Any]) -> str:
    """Return the name of the tensor that holds a row for each position. Raises `NotBuildable`."""
    return check_config(config).prefix + _POSITIONS


def check_config(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a `config.json`. Raises `NotBuildable` with the reason."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise NotBuildable(
            f"model type {model_type} is not one that can be built: {', '.join(sorted(ARCHITECTURES))}"
        )
    architecture = ARCHITECTURES[model_type]
    heads = config.get("architectures") or []
    if heads and not any(str(name).endswith("ForTokenClassification") for name in heads):
        raise NotBuildable(f"config.json names {', '.join(map(str, heads))}, not a ...ForTokenClassification")
    activation = config.get(architecture.activation_key, "gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise NotBuildable(f"activation {activation} is not one of {', '.join(_ACTIVATIONS)}")
    position_type = config.get("position_embedding_type") or "absolute"
    if position_type != "absolute":
        raise NotBuildable(f"position_embedding_type is {position_type}, not absolute")
    for key in ("is_decoder", "add_cross_attention", "quantization_config", "pruned_heads"):
        if config.get(key):
            raise NotBuildable(f"config.json sets {key}")
    return architecture


def describe(config: Mapping[str, Any], weights: dict[str, FloatArray]) -> Encoder:
    """Name every weight of the checkpoint.

    Raises `NotBuildable` when a tensor is missing, left over or of the wrong shape, and `ModelError` when
    the classifier and `id2label` disagree, which no other graph of this checkpoint would repair.
    """
    architecture = check_config(config)
    tensors = _Tensors(weights, architecture)
    embeddings = architecture.prefix + "embeddings."
    words = tensors.take(embeddings + "word_embeddings.weight", None, None)
    size = words.shape[1]
    positions = tensors.take(architecture.prefix + _POSITIONS, None, size)
    if architecture.has_token_types:
        positions = positions + tensors.take(embeddings + "token_type_embeddings.weight", None, size)[0]
    embedding_norm = tensors.norm(embeddings + "LayerNorm", size)
    hidden = _integer(config, architecture.hidden_key, size)
    heads = _integer(config, architecture.heads_key, architecture.default_heads)
    if heads < 1 or hidden % heads:
        raise NotBuildable(f"{heads} attention heads do not divide the hidden size {hidden}")
    projection = None
    if size != hidden:
        projection = tensors.linear(architecture.prefix + "embeddings_project", hidden, size)
    relative_bias = None
    if architecture.relative_bias is not None:
        relative_bias = tensors.take(
            architecture.prefix + architecture.relative_bias, RELATIVE_BUCKETS, heads
        )
    layers = tuple(tensors.layer(index, hidden) for index in range(tensors.count_layers()))
    _check_layers(config, architecture, len(layers))
    classifier = tensors.linear("classifier", None, hidden)
    tensors.check_surplus()
    _check_labels(config, classifier)
    return Encoder(
        words=words,
        positions=positions,
        padding_id=_padding_id(config, architecture),
        embedding_norm=embedding_norm,
        projection=projection,
        relative_bias=relative_bias,
        layers=layers,
        classifier=classifier,
        heads=heads,
        epsilon=_epsilon(config, architecture),
        activation=_ACTIVATIONS[config.get(architecture.activation_key, "gelu")],
    )


class _Tensors:
    """The tensors of a checkpoint, each taken once, so that what is left over is known."""

    def __init__(self, weights: dict[str, FloatArray], architecture: Architecture) -> None:
        self._weights = {_modern_name(name): value for name, value in weights.items() if is_needed(name)}
        self._left = set(self._weights)
        self._architecture = architecture

    def take(self, name: str, *shape: int | None) -> FloatArray:
        """Return a tensor; None in `shape` stands for any extent."""
        value = self._weights.get(name)
        if value is None:
            raise NotBuildable(f"tensor {name} is missing")
        agrees = value.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, value.shape, strict=True)
        )
        if not agrees:
            raise NotBuildable(f"tensor {name} has shape {value.shape}, expected {shape}")
        self._left.discard(name)
        return value

    def linear(self, name: str, out: int | None, into: int) -> Linear:
        weight = self.take(name + ".weight", out, into)
        return Linear(weight, self.take(name + ".bias", weight.shape[0]))

    def norm(self, name: str, size: int) -> Norm:
        return Norm(self.take(name + ".weight", size), self.take(name + ".bias", size))

    def count_layers(self) -> int:
        pattern = re.compile(
            re.escape(f"{self._architecture.prefix}{self._architecture.layer}.") + r"(\d+)\."
        )
        return len({match[1] for name in self._weights if (match := pattern.match(name))})

    def layer(self, index: int, hidden: int) -> Layer:
        names = self._architecture
        start = f"{names.prefix}{names.layer}.{index}."
        up = self.linear(start + names.up, None, hidden)
        return Layer(
            query=self.linear(start + names.query, hidden, hidden),
            key=self.linear(start + names.key, hidden, hidden),
            value=self.linear(start + names.value, hidden, hidden),
            attention_output=self.linear(start + names.attention_output, hidden, hidden),
            attention_norm=self.norm(start + names.attention_norm, hidden),
            up=up,
            down=self.linear(start + names.down, hidden, up.weight.shape[0]),
            output_norm=self.norm(start + names.output_norm, hidden),
        )

    def check_surplus(self) -> None:
        """Refuse tensors that nothing has used: an extra head or adapter that we would drop silently."""
        if self._left:
            some = ", ".join(sorted(self._left)[:3])
            raise NotBuildable(f"{len(self._left)} tensors have no place in the architecture, such as {some}")


def _modern_name(name: str) -> str:
    """Rename the scale and shift of layer norms as TensorFlow called them, like transformers does."""
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_NORM_NAMES[m[1]]}", name)


_NORM_NAMES = {"gamma": "weight", "beta": "bias"}


def _check_layers(config: Mapping[str, Any], architecture: Architecture, found: int) -> None:
    named = config.get(architecture.layers_key, found)
    if found < 1 or named != found:
        raise NotBuildable(f"the checkpoint has {found} layers, config.json says {named}")


def _check_labels(config: Mapping[str, Any], classifier: Linear) -> None:
    labels = config.get("id2label")
    if labels and len(labels) != classifier.weight.shape[0]:
        raise ModelError(
            f"config.json has {len(labels)} labels in id2label, the classifier {classifier.weight.shape[0]}; "
            "correct id2label"
        )


def _padding_id(config: Mapping[str, Any], architecture: Architecture) -> int | None:
    if architecture.padding_key is None:
        return architecture.fixed_padding_id
    return _integer(config, architecture.padding_key, _DEFAULT_PADDING_ID)


def _epsilon(config: Mapping[str, Any], architecture: Architecture) -> float:
    if architecture.epsilon_key is None:
        return _DEFAULT_EPSILON
    epsilon = config.get(architecture.epsilon_key, _DEFAULT_EPSILON)
    if not isinstance(epsilon, int | float):
        raise NotBuildable(f"config.json: {architecture.epsilon_key} is not a number")
    return float(epsilon)


def _integer(config: Mapping[str, Any], key: str, default: int) -> int:
    """Return a whole number of the config; `default` where it is missing."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise NotBuildable(f"config.json: {key} is not a whole number")
    return value
