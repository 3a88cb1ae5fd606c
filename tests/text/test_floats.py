"""Scores as shortest decimals: equal to NumPy's own text of a float32."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve.text.aggregation import shortest_floats

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
PROBABILITY = st.floats(0, 1, width=32)
# Both sides of the size where a loop gives way to whole arrays.
REPEATS = (1, 80)


def expected(values: np.ndarray) -> list[float]:
    """Read back NumPy's text of each value."""
    return [float(str(value)) for value in values]


@pytest.mark.parametrize("repeats", REPEATS)
@given(values=st.one_of(st.lists(FLOAT32, min_size=1), st.lists(PROBABILITY, min_size=1)))
def test_equals_the_text_of_numpy(repeats: int, values: list[float]) -> None:
    """Any float32, alone or in a large array."""
    array = np.array(values * repeats, dtype=np.float32)
    assert shortest_floats(array) == expected(array)


@pytest.mark.parametrize("repeats", REPEATS)
@pytest.mark.parametrize(
    "values",
    [
        [0.0, -0.0, 1.0, -1.0, 0.1, 0.5, 0.125, 0.25, 0.9999999, 0.99999994],
        [2.0**power for power in range(-149, 128, 3)],
        [10.0**power for power in range(-44, 39)],
        [float(np.nextafter(np.float32(10.0**power), np.float32(0))) for power in range(-30, 30)],
        [float(np.nextafter(np.float32(2.0**power), np.float32(9e9))) for power in range(-30, 30)],
        [1e5, 99999.99, 1000001.0, 16777216.0, 16777218.0, 3.4028235e38, -12.345678, 1e-13, 1e-14, 1e-45],
    ],
)
def test_edges(values: list[float], repeats: int) -> None:
    """Zeros, powers of two (unequal neighbours), powers of ten, the ends of the range."""
    array = np.array(values * repeats, dtype=np.float32)
    got = shortest_floats(array)
    assert got == expected(array)
    assert [math.copysign(1, value) for value in got] == [math.copysign(1, value) for value in array.tolist()]


def test_random_scores_of_a_whole_answer() -> None:
    """Softmax scores from 1 down to 1e-17, logits, and bit patterns at random."""
    chance = np.random.default_rng(5)
    shares = np.exp(-chance.random(20_000) * 40).astype(np.float32)
    logits = (chance.normal(size=20_000) * 8).astype(np.float32)
    bits = chance.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    for array in (shares, logits, bits[np.isfinite(bits)]):
        assert shortest_floats(array) == expected(array)


def test_encoded_text_is_short_and_exact() -> None:
    """JSON shows the digits of the float32, and they read back as the same float32."""
    array = np.array([0.9975586, 0.1, 1.0, 0.3333333], dtype=np.float32)
    text = msgspec.json.encode(shortest_floats(array)).decode()
    assert text == "[0.9975586,0.1,1.0,0.3333333]"
    assert np.array_equal(np.array(msgspec.json.decode(text), dtype=np.float32), array)


@pytest.mark.parametrize("repeats", REPEATS)
def test_what_is_no_number_stays_so(repeats: int) -> None:
    """NaN and infinities pass through; nothing warns."""
    got = shortest_floats(np.array([np.nan, np.inf, -np.inf] * repeats, dtype=np.float32))
    assert math.isnan(got[0])
    assert got[1:3] == [math.inf, -math.inf]


def test_empty() -> None:
    """No scores, no floats."""
    assert shortest_floats(np.zeros(0, dtype=np.float32)) == []
