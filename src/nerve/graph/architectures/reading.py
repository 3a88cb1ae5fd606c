"""What families read checkpoints with: keys of a config, and tensors by the names of transformers' classes.

Nothing here guesses. What is missing or of another kind than expected is `NotBuildable`, whose text says why;
`load_graph` then looks for a ready graph. Tensors that nothing takes are named in the log, as transformers does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.graph.architectures.encoder import Activation, Linear, Norm
from nerve.graph.stored import NotBuildable, StoredWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nerve.types import FloatArray

__all__ = ["NotBuildable", "Tensors", "is_leftover", "read_activation", "read_integer", "read_number"]

# All of transformers' that have no weights of their own (activations.py, ACT2CLS; prelu and xielu have).
# gelu_fast writes sqrt(2/pi) as 0.7978845608 and groups the factors otherwise; the function is the same.
_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_python_tanh": Activation.GELU_TANH,
    "gelu_accurate": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "tanh": Activation.TANH,
    "gelu_10": Activation.GELU_10,
    "quick_gelu": Activation.QUICK_GELU,
    "mish": Activation.MISH,
    "hardswish": Activation.HARD_SWISH,
    "laplace": Activation.LAPLACE,
    "leaky_relu": Activation.LEAKY_RELU,
    "linear": Activation.LINEAR,
    "relu2": Activation.RELU_2,
    "relu6": Activation.RELU_6,
    "sigmoid": Activation.SIGMOID,
    "sqrtsoftplus": Activation.SQRT_SOFTPLUS,
}

# Left over from pre-training, or buffers: a token classifier computes the same without them.
_LEFTOVERS = re.compile(
    r"^([a-z0-9_]+\.)?(pooler\.|embeddings\.(position_ids|token_type_ids)$|rotary_emb\.)"
    r"|^(cls|lm_head|discriminator_predictions|generator_predictions|generator_lm_head|decoder)\."
    r"|^(predictions|sop_classifier|lm_predictions|mask_predictions)\."
    r"|^vocab_(transform|projector|layer_norm)\."
)

# Tensors without which the others mean something else: scales of quantised weights (bitsandbytes, GPTQ, AWQ,
# compressed-tensors, PyTorch), and low-rank changes that PEFT adds to weights.
_NEEDED_BY_OTHERS = re.compile(
    r"(^|\.)(lora_\w+|base_layer|modules_to_save|ia3_l"
    r"|qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|nested_absmax|quant_state|weight_format|weight_scale(_inv)?"
    r"|weight_packed|weight_zero_point|input_scale|_packed_params|scale|zero_point)(\.|$)"
)

# How transformers renames tensors of TensorFlow's layer norms, wherever it stands (conversion_mapping.py, "legacy").
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


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


def by_own_names(config: Mapping[str, Any], others: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a config whose keys have the names of their class; others: further names, and what they mean.

    transformers calls them `attribute_map`. A config that says both, and not the same, is refused.
    """
    found = dict(config)
    for other, own in others.items():
        if other in found and found.setdefault(own, found[other]) != found[other]:
            raise NotBuildable(f"config.json: {other} and {own} contradict each other")
    return found


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


def read_key_heads(config: Mapping[str, Any], heads: int, default: int | None = None) -> int:
    """Return the number of heads of keys and values (`num_key_value_heads`), which must divide that of queries.

    default: where the key is missing; null and no default mean as many as there are of queries.
    """
    found = config.get("num_key_value_heads", default)
    found = heads if found is None else read_integer(config, "num_key_value_heads", found)
    if found < 1 or heads % found:
        raise NotBuildable(f"{found} heads of keys do not serve {heads} heads of queries")
    return found


def read_layers(config: Mapping[str, Any], key: str, default: int, tensors: Tensors, start: str) -> int:
    """Return the number of layers, of which there must be tensors whose names begin with `start` and a number.

    Those beyond it are not used by transformers, either.
    """
    found, named = tensors.count_layers(start), read_integer(config, key, default)
    if not 1 <= named <= found:
        raise NotBuildable(f"the checkpoint has {found} layers, config.json says {named}")
    return found


def split(layer: Linear, n_parts: int) -> list[Linear]:
    """Take a linear layer apart whose outputs stand one after the other."""
    biases = [None] * n_parts if layer.bias is None else np.split(layer.bias, n_parts)
    return [
        Linear(weight, bias) for weight, bias in zip(np.split(layer.weight, n_parts), biases, strict=True)
    ]


class Tensors:
    """The tensors of a checkpoint by the names that they have in transformers' class, and which of them were taken.

    base: the part of that class that all models of the family share, as names begin (`bert`). A checkpoint of that part
    alone has its names without it, and some have it twice; both are found, as transformers finds them
    (core_model_loading.py, rename_source_key). Of two tensors for one name transformers takes the first in the order of
    names, digits by value.
    """

    def __init__(
        self, weights: Mapping[str, FloatArray], is_needed: Callable[[str], bool], base: str = ""
    ) -> None:
        self._weights = weights
        self._is_needed = is_needed
        self._base = base + "." if base else ""
        self._stored: dict[str, str] = {}  # the name of the file by today's name
        for name in sorted(weights, key=_order):
            self._stored.setdefault(_modern_name(name), name)
        self._left = set(weights)

    def take(self, name: str, *shape: int | None) -> FloatArray:
        """Return a tensor; None in `shape` stands for any extent."""
        stored = self._find_or_refuse(name)
        value = self._weights[stored]
        _check_shape(name, value, shape)
        self._left.discard(stored)
        return value

    def later(self, name: str, *shape: int | None) -> Callable[[], FloatArray]:
        """Prove that a tensor is there, and return what reads it, each time anew; `shape` as in `take`."""
        stored, weights = self._find_or_refuse(name), self._weights
        outline = weights.outline() if isinstance(weights, StoredWeights) else weights
        _check_shape(name, outline[stored], shape)
        self._left.discard(stored)
        return lambda: weights[stored]

    def _find_or_refuse(self, name: str) -> str:
        stored = self.find(name)
        if stored is None:
            raise NotBuildable(f"tensor {name} is missing{self._hint(name)}")
        return stored

    def find(self, name: str) -> str | None:
        """Return the name under which a tensor is stored; None where it is not."""
        names = {name, name.removeprefix(self._base), self._base + name}
        return min((self._stored[one] for one in names if one in self._stored), key=_order, default=None)

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
        self._left.discard(self.find(name) or name)

    def count_layers(self, start: str) -> int:
        """Return how many numbers follow `start` in the names of tensors."""
        base = f"(?:{re.escape(self._base)}){{0,2}}"
        pattern = re.compile(base + re.escape(start.removeprefix(self._base)) + r"(\d+)\.")
        return len({match[1] for name in self._stored if (match := pattern.match(name))})

    def check_quantised(self) -> None:
        """Refuse tensors that change what others mean and that nothing has taken: without them answers are wrong."""
        if found := _some(name for name in self._left if _NEEDED_BY_OTHERS.search(name)):
            raise NotBuildable(
                f"there are tensors of quantised weights or of an adapter (LoRA), such as {found}; merge or dequantise "
                "them and save the model again"
            )

    def unused(self) -> list[str]:
        """Return the tensors that nothing has taken and that are not those of pre-training or buffers."""
        return sorted(name for name in self._left if self._is_needed(self._without_base_twice(name)))

    def leftovers(self) -> list[str]:
        """Return the tensors of pre-training and the buffers, which no token classifier uses."""
        return sorted(self._left.difference(self.unused()))

    def check_surplus(self) -> None:
        """Refuse tensors that nothing has used: those of a graph that computes more than the family."""
        if unused := self.unused():
            raise NotBuildable(
                f"{len(unused)} tensors have no place in the architecture, such as {_some(unused)}"
            )

    def _without_base_twice(self, name: str) -> str:
        return name.removeprefix(self._base) if name.startswith(2 * self._base) else name

    def _hint(self, name: str) -> str:
        """Say under what other name a missing tensor seems to be there."""
        longer = [found for found in self._weights if found.endswith("." + name.removeprefix(self._base))]
        if not longer:
            return ""
        return f" (there is {_some(longer)}, under which transformers does not find it either; rename the tensors)"


def _check_shape(name: str, value: FloatArray, shape: tuple[int | None, ...]) -> None:
    agrees = value.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, value.shape, strict=True)
    )
    if not agrees:
        raise NotBuildable(f"tensor {name} has shape {value.shape}, expected {shape}")


def _some(names: Iterable[str]) -> str:
    return ", ".join(ascii(name[:100])[1:-1] for name in sorted(names)[:3])


def _order(name: str) -> list[tuple[int, int, str]]:
    """Return what transformers sorts names by: part by part, digits by value and before words."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split(".")]


def _modern_name(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name
