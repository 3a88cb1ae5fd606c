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
_RINT = 2.0**52  # x + _RINT - _RINT is rint(x) for 0 <= x < 2**51
# Measured: below, a loop over Python floats beats the fixed cost of NumPy calls.
_FEW = 64


def shortest_floats(values: FloatArray) -> list[float]:
    """Give the shortest decimals of a float32 array (N,), as Python floats in its order."""
    if len(values) < _FEW:
        return _loop(values)
    wide = values.astype(np.float64)  # (N,)
    result = np.rint(wide * 1e7) / 1e7  # (N,)
    wrong = (result.astype(np.float32) != values) | (np.abs(wide) > 1.0)  # (N,)
    where = wrong.nonzero()[0]  # (M,)
    result[where] = _search(values[where])
    listed: list[float] = result.tolist()
    return listed


def _loop(values: FloatArray) -> list[float]:
    result = []
    for value in values.tolist():
        if 0.125 <= value <= 1.0:
            # Half the distance of neighbouring float32 here.
            half = 2.0**-25 if value >= 0.5 else 2.0**-26 if value >= 0.25 else 2.0**-27
            candidate = (value * 1e7 + _RINT - _RINT) / 1e7
            if not -half < candidate - value < half:
                # Steps of 1e-8 are finer than those of float32 here: one always fits.
                candidate = (value * 1e8 + _RINT - _RINT) / 1e8
            result.append(candidate)
        else:
            result.append(float(str(np.float32(value))))
    return result


def _search(values: FloatArray) -> npt.NDArray[np.float64]:
    """Try 6, 7, 8 and 9 significant digits; what is not safe to search is left to NumPy's text."""
    wide = values.astype(np.float64)  # (M,)
    size = np.abs(wide)
    # Outside this range 10**n is no float64 with n in 0..22. A power of two is nearer to its lower
    # neighbour, so its nearest candidate need not be the right one. NaN fails the comparisons.
    safe = (size > 1e-13) & (size < 1e5) & ((values.view(np.uint32) & _MANTISSA) != 0)
    exponents = np.floor(np.log10(size, where=safe, out=np.zeros_like(size))).astype(np.int64)
    result = wide.copy()
    left = [np.flatnonzero(~safe)]
    pending = np.flatnonzero(safe)
    for digits in (6, 7, 8, 9):
        power = _POWERS[digits - 1 - exponents[pending]]
        scaled = wide[pending] * power  # exact up to 10**12; beyond, a digit beside a half is in doubt
        whole = np.rint(scaled)
        candidate = whole / power
        fits = candidate.astype(np.float32) == values[pending]
        result[pending[fits]] = candidate[fits]
        left.append(pending[fits & (np.abs(scaled - whole) > 0.5 - 1e-6)])
        pending = pending[~fits]
    for index in np.concatenate([*left, pending]).tolist():
        result[index] = float(str(values[index]))
    return result
