"""Rotary positions: what configs say of them, and the tables of cosines and sines (arXiv 2104.09864).

In float32 in the order of transformers' modules: at position 8,000 the last bit of a frequency is one of its angle's
last ten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.graph.architectures.encoder import Linear, Rotary
from nerve.graph.architectures.reading import (
    NotBuildable,
    read_flag,
    read_heads,
    read_integer,
    read_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.types import FloatArray

_YARN_KEYS = {
    *("rope_type", "type", "rope_theta", "factor", "attention_factor"),
    *("beta_fast", "beta_slow", "original_max_position_embeddings", "truncate"),
}


def read_theta(config: Mapping[str, Any], default: float) -> float:
    """Return the base of the angles: of `rope_parameters`, or of the keys that older configs have."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    check_plain(found)
    check_whole_heads(config)
    return read_number(found, "rope_theta", read_number(config, "rope_theta", default))


def check_whole_heads(config: Mapping[str, Any]) -> None:
    """Prove that all numbers of a head are turned."""
    if config.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise NotBuildable("config.json sets partial_rotary_factor")


def check_plain(parameters: Mapping[str, Any]) -> None:
    """Prove that angles are those of the paper, not scaled in one of many ways."""
    if not isinstance(parameters, dict):
        raise NotBuildable("config.json: rope_parameters is not an object")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise NotBuildable(f"rotary positions are of the type {kind}, not default")
    unknown = set(parameters) - {"rope_type", "type", "rope_theta"}
    if unknown:
        raise NotBuildable(f"config.json: rope_parameters has {', '.join(sorted(unknown))}")


def read_head_size(config: Mapping[str, Any], default: int, hidden: int, *, is_free: bool) -> tuple[int, int]:
    """Return the number of heads and their size.

    is_free: `head_dim` may say the size; all heads together need not be as wide as the hidden states then.
    """
    size = config.get("head_dim") if is_free else None
    if size is None:
        heads = read_heads(config, "num_attention_heads", default, hidden)
        return heads, hidden // heads
    heads = read_integer(config, "num_attention_heads", default)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or heads < 1:
        raise NotBuildable("config.json: head_dim is not a positive whole number")
    return heads, size


def make_rotary(name: str, theta: float, head_size: int, n_positions: int) -> Rotary:
    """Return the tables for positions 0 to `n_positions` - 1; head_size: numbers of a head, D."""
    return _tabulate(name, np.float32(1) / _powers(theta, head_size), n_positions)


@dataclass(frozen=True, slots=True)
class Yarn:
    """What a config says of angles that are stretched for longer texts than a model was first trained on.

    The names are those of arXiv 2309.00071 and of transformers' `rope_parameters`. original: positions that the model
    was first trained on. amplitude: factor of cosines and sines. rounds: whether bounds are whole numbers (`truncate`).
    """

    theta: float
    factor: float
    beta_fast: float
    beta_slow: float
    original: int
    amplitude: float
    rounds: bool


def read_yarn(parameters: object, theta: float, n_positions: int) -> Yarn:
    """Read `rope_parameters` of the type yarn; theta: the base where they name none."""
    if not isinstance(parameters, dict):
        raise NotBuildable("config.json: rope_parameters is not an object")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "yarn":
        raise NotBuildable(f"rotary positions are of the type {kind}, not yarn")
    if unknown := set(parameters) - _YARN_KEYS:
        raise NotBuildable(f"config.json: rope_parameters has {', '.join(sorted(unknown))}")
    original = read_integer(parameters, "original_max_position_embeddings", n_positions)
    factor = read_number(parameters, "factor", 1.0)
    amplitude = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
    if parameters.get("attention_factor") is not None:
        amplitude = read_number(parameters, "attention_factor", amplitude)
    found = Yarn(
        theta=read_number(parameters, "rope_theta", theta),
        factor=factor,
        beta_fast=read_number(parameters, "beta_fast", 32.0) or 32.0,
        beta_slow=read_number(parameters, "beta_slow", 1.0) or 1.0,
        original=original,
        amplitude=amplitude,
        rounds=read_flag(parameters, "truncate", default=True),
    )
    if min(found.factor, found.beta_fast, found.beta_slow, found.original) <= 0 or found.theta <= 1:
        raise NotBuildable("config.json: rope_parameters has a number that is not positive")
    return found


def make_yarn(name: str, yarn: Yarn, head_size: int, n_positions: int) -> Rotary:
    """Return the tables as `make_rotary` does, of angles that grow slower the longer their wave is."""
    powers = _powers(yarn.theta, head_size)
    bounds = [
        head_size * math.log(yarn.original / (beta * 2 * math.pi)) / (2 * math.log(yarn.theta))
        for beta in (yarn.beta_fast, yarn.beta_slow)
    ]
    low, high = (math.floor(bounds[0]), math.ceil(bounds[1])) if yarn.rounds else bounds
    low, high = max(low, 0), min(high, head_size - 1)
    if low == high:
        high += 0.001
    place = np.arange(head_size // 2, dtype=np.float32)
    kept = np.float32(1) - np.clip((place - np.float32(low)) / np.float32(high - low), 0, 1)  # (D/2,)
    slow = np.float32(1) / (np.float32(yarn.factor) * powers)
    frequencies = slow * (np.float32(1) - kept) + np.float32(1) / powers * kept
    plain = _tabulate(name, frequencies, n_positions)
    amplitude = np.float32(yarn.amplitude)
    return Rotary(name, plain.cosines * amplitude, plain.sines * amplitude)


def from_pairs(layer: Linear, head_size: int) -> Linear:
    """Reorder what a linear layer gives so that turning halves does what turning neighbours (0 and 1, 2 and 3) did.

    Queries and keys are reordered alike, and their products are the same.
    """
    n_heads = len(layer.weight) // head_size
    order = np.arange(head_size).reshape(-1, 2).T.ravel()  # 0, 2, 4, ..., 1, 3, 5, ...
    rows = (np.arange(n_heads)[:, None] * head_size + order).ravel()
    return Linear(layer.weight[rows], None if layer.bias is None else layer.bias[rows])


def _powers(theta: float, head_size: int) -> FloatArray:
    """Return the lengths of the waves, each by 2 pi: (D/2,)."""
    if head_size % 2 or theta <= 0:
        raise NotBuildable(
            f"rotary positions need heads of even size and a positive base, not {head_size}, {theta}"
        )
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    return np.power(float(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)


def _tabulate(name: str, frequencies: FloatArray, n_positions: int) -> Rotary:
    angles = np.arange(n_positions, dtype=np.float32)[:, None] * frequencies  # (P, D/2)
    wide = angles.astype(np.float64)
    return Rotary(name, np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32))
