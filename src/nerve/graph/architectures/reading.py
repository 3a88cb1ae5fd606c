"""What families read checkpoints with: keys of a config, and tensors that are each taken once.

Nothing here guesses. What is missing, left over or of another kind than expected is `NotBuildable`, whose text
says why; `load_graph` then looks for a ready graph.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.graph.architectures.encoder import Activation, Linear, Norm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nerve.types import FloatArray


class NotBuildable(Exception):
    """The graph cannot be built from this checkpoint; the text says why."""


# gelu_fast writes sqrt(2/pi) as 0.7978845608 and groups the factors otherwise; the function is the same.
_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "tanh": Activation.TANH,
}

# Left over from pre-training, or buffers: a token classifier computes the same without them.
_LEFTOVERS = re.compile(
    r"^([a-z0-9_]+\.)?(pooler\.|embeddings\.(position_ids|token_type_ids)$|rotary_emb\.)"
    r"|^(cls|lm_head|discriminator_predictions|generator_predictions|generator_lm_head|decoder)\."
    r"|^(predictions|sop_classifier|lm_predictions|mask_predictions)\."
    r"|^vocab_(transform|projector|layer_norm)\."
)

_NORM_NAMES = {"gamma": "weight", "beta": "bias"}


def is_leftover(name: str) -> bool:
    """Return True for tensors that no token classifier uses."""
    return _LEFTOVERS.match(name) is not None


def read_integer(config: Mapping[str, Any], key: str, default: int) -> int:
    """Return a whole number of the config; `default` where it is missing."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise NotBuildable(f"config.json: {key} is not a whole number")
    return value


def read_number(config: Mapping[str, Any], key: str, default: float) -> float:
    """Return a number of the config; `default` where it is missing."""
    value = config.get(key, default)
    if not isinstance(value, int | float):
        raise NotBuildable(f"config.json: {key} is not a number")
    return float(value)


def read_flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """Return true or false of the config; `default` where it is missing."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise NotBuildable(f"config.json: {key} is not true or false")
    return value


def read_activation(config: Mapping[str, Any], key: str, default: str = "gelu") -> Activation:
    """Return the activation that the config names; `default` where it names none."""
    name = config.get(key, default)
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise NotBuildable(f"activation {name} is not one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def read_heads(config: Mapping[str, Any], key: str, default: int, hidden: int) -> int:
    """Return the number of attention heads, which must divide the hidden size."""
    heads = read_integer(config, key, default)
    if heads < 1 or hidden < 1 or hidden % heads:
        raise NotBuildable(f"{heads} attention heads do not divide the hidden size {hidden}")
    return heads


def read_layers(config: Mapping[str, Any], key: str, default: int, tensors: Tensors, start: str) -> int:
    """Return the number of layers, which must be that of the tensors whose names begin with `start` and a number."""
    found, named = tensors.count_layers(start), read_integer(config, key, default)
    if found < 1 or named != found:
        raise NotBuildable(f"the checkpoint has {found} layers, config.json says {named}")
    return found


def split(layer: Linear, n_parts: int) -> list[Linear]:
    """Take a linear layer apart whose outputs stand one after the other."""
    biases = [None] * n_parts if layer.bias is None else np.split(layer.bias, n_parts)
    return [
        Linear(weight, bias) for weight, bias in zip(np.split(layer.weight, n_parts), biases, strict=True)
    ]


class Tensors:
    """The tensors of a checkpoint, each taken once, so that what is left over is known."""

    def __init__(self, weights: Mapping[str, FloatArray], is_needed: Callable[[str], bool]) -> None:
        self._weights = {_modern_name(name): value for name, value in weights.items() if is_needed(name)}
        self._left = set(self._weights)

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

    def linear(self, name: str, out: int | None, into: int | None, *, has_bias: bool = True) -> Linear:
        """Return the layer `name`, from `into` to `out` features; None for any number."""
        weight = self.take(name + ".weight", out, into)
        return Linear(weight, self.take(name + ".bias", weight.shape[0]) if has_bias else None)

    def norm(self, name: str, size: int, *, has_bias: bool = True) -> Norm:
        """Return the layer normalisation `name` over `size` features."""
        return Norm(self.take(name + ".weight", size), self.take(name + ".bias", size) if has_bias else None)

    def rms_norm(self, name: str, size: int) -> Norm:
        """Return the RMS normalisation `name` over `size` features."""
        return Norm(self.take(name + ".weight", size), None, is_rms=True)

    def ignore(self, name: str) -> None:
        """Leave a tensor out that the config says is not used."""
        self._left.discard(name)

    def count_layers(self, start: str) -> int:
        """Return how many numbers follow `start` in the names of tensors."""
        pattern = re.compile(re.escape(start) + r"(\d+)\.")
        return len({match[1] for name in self._weights if (match := pattern.match(name))})

    def check_surplus(self) -> None:
        """Refuse tensors that nothing has used: an extra head or adapter that we would drop silently."""
        if self._left:
            some = ", ".join(sorted(self._left)[:3])
            raise NotBuildable(f"{len(self._left)} tensors have no place in the architecture, such as {some}")


def _modern_name(name: str) -> str:
    """Rename the scale and shift of layer norms as TensorFlow called them, like transformers does."""
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_NORM_NAMES[m[1]]}", name)
