"""Prints float32 scores without noise: each as the shortest decimal that reads back as the same float32.

A float32 widened to a Python float prints as 0.9975585937500 and worse (17 digits). What is wanted is
the float64 nearest to the shortest decimal of the float32, because JSON encoders print that float64 as
exactly that decimal: `float(str(numpy.float32(x)))`, done for whole arrays.

orjson prints float32 arrays by their shortest decimals (Ryu, https://doi.org/10.1145/3192366.3192369) and reads
decimals back as the nearest float64: both ways together take 2 us for 36 scores, the loop above 25.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from nerve.types import FloatArray


def shortest_floats(values: FloatArray) -> list[float]:
    """Give the shortest decimals of a float32 array (N,), contiguous, as Python floats in its order."""
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"n" in text:  # null, which stands for NaN and infinities
        return [float(str(value)) for value in values]
    floats: list[float] = orjson.loads(text)
    return floats
