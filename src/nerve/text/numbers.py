"""Writes float32 numbers as JSON, by their shortest decimals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from nerve.types import FloatArray


def float32_json(values: FloatArray) -> bytes:
    """Return an array (N,), contiguous, as a JSON list; what is not finite becomes null, for JSON has none of it.

    A float32 widened to a Python float would print with 17 digits.
    """
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
