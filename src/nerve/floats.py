"""Prints float32 scores without noise: each as the shortest decimal that reads back as the same float32.

A float32 widened to a Python float prints as 0.9975585937500 and worse (17 digits). What is wanted is
the float64 nearest to the shortest decimal of the float32, because JSON encoders print that float64 as
exactly that decimal: `float(str(numpy.float32(x)))`, done for whole arrays.

Method: `rint(x * 10**n) / 10**n` is the float64 nearest to the n-digit decimal nearest to x, as long as
10**n is a float64 (n <= 22). The smallest n whose candidate reads back as x is the answer, provided the
search starts where no float32 has two candidates: 7 decimals below 1, 6 significant digits in general.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from nerve.types import FloatArray

_POWERS = np.array([float(10**n) for n in range(23)])  # float64 (23,), every one exact
_MANTISSA = np.uint32(0x7FFFFF)


def shortest_floats(values: FloatArray) -> list[float]:
    """Give the shortest decimals of a float32 array (N,), as Python floats in its order."""
    wide = values.astype(np.float64)  # (N,)
    result: npt.NDArray[np.float64] = np.rint(wide * 1e7) / 1e7  # (N,)
    wrong = (result.astype(np.float32) != values) | (np.abs(wide) > 1.0)  # (N,)
    if wrong.any():
        where = wrong.nonzero()[0]  # (M,)
        result[where] = _search(values[where])
    listed: list[float] = result.tolist()
    return listed


def _search(values: FloatArray) -> npt.NDArray[np.float64]:
    """Try 6, 7, 8 and 9 significant digits; what fits none of them, or is unsafe, is left to NumPy's text."""
    wide = values.astype(np.float64)  # (M,)
    size = np.abs(wide)
    # Outside this range a power of ten is not exact or a midpoint has a short decimal; NaN fails as well.
    # A power of two is nearer to its lower neighbour: the nearest candidate need not be the right one.
    simple = (size > 1e-13) & (size < 2.0**20) & ((values.view(np.uint32) & _MANTISSA) != 0)
    exponents = np.floor(np.log10(size, where=simple, out=np.zeros_like(size))).astype(np.int64)
    result = wide.copy()
    pending = simple.nonzero()[0]
    left = [np.flatnonzero(~simple)]
    for digits in (6, 7, 8, 9):
        power = _POWERS[digits - 1 - exponents[pending]]
        scaled = wide[pending] * power  # inexact beyond 10**12, so near a half the digit is in doubt
        whole = np.rint(scaled)
        candidate = whole / power
        doubtful = np.abs(np.abs(scaled - whole) - 0.5) < 1e-6
        fits = candidate.astype(np.float32) == values[pending]
        result[pending[fits]] = candidate[fits]
        left.append(pending[fits & doubtful])
        pending = pending[~fits]
    for index in np.concatenate([*left, pending]).tolist():
        result[index] = float(str(values[index]))
    return result
