"""Rotary positions: what configs say of them, and the tables of cosines and sines (arXiv 2104.09864).

In float32 in the order of transformers' modules: at position 8,000 the last bit of a frequency is one of its angle's
last ten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.graph.architectures.encoder import Rotary
from nerve.graph.architectures.reading import NotBuildable, read_heads, read_integer, read_number

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_theta(config: Mapping[str, Any], default: float) -> float:
    """Return the base of the angles: of `rope_parameters`, or of the keys that older configs have."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    check_plain(found)
    if config.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise NotBuildable("config.json sets partial_rotary_factor")
    return read_number(found, "rope_theta", read_number(config, "rope_theta", default))


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
    if head_size % 2 or theta <= 0:
        raise NotBuildable(
            f"rotary positions need heads of even size and a positive base, not {head_size}, {theta}"
        )
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    powers = np.power(float(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1) / powers  # (D/2,)
    angles = np.arange(n_positions, dtype=np.float32)[:, None] * frequencies  # (P, D/2)
    wide = angles.astype(np.float64)
    return Rotary(name, np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32))
