"""What a config.json says of padding and of rows of the position table: pure rules, by model type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nerve.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Families that number positions from pad_token_id + 1, so that many entries of the table are never used.
_POSITIONS_AFTER_PADDING = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "mpnet",
        "longformer",
        "roberta-prelayernorm",
        "xmod",
    }
)


def padding_id(settings: Mapping[str, Any]) -> int:
    """Return the id that fills rows; a config.json may leave the family's default out."""
    stated = settings.get("pad_token_id")
    if stated is None:
        return 1 if settings.get("model_type") in _POSITIONS_AFTER_PADDING else 0
    if isinstance(stated, bool) or not isinstance(stated, int):
        raise ModelError(f"config.json: pad_token_id must be a whole number, not {stated!r}")
    return stated


def unused_positions(settings: Mapping[str, Any]) -> int:
    """Return how many rows of the position table no token of a text ever takes."""
    return padding_id(settings) + 1 if settings.get("model_type") in _POSITIONS_AFTER_PADDING else 0
