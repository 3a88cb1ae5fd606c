"""Phone numbers, where the extra `nerve[phone]` is installed."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("phonenumbers", reason="nerve[phone] is not installed")

from nerve.text.phones import find_numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Call +49 30 901820 or (212) 555-2368.", ["+49 30 901820", "(212) 555-2368"]),
        ("+33 1 42 68 53 00\n+44 20 7946 0958", ["+33 1 42 68 53 00", "+44 20 7946 0958"]),
        ("電話+81 3-3580-3311まで", ["+81 3-3580-3311"]),
        ("1 2 3 4 5 6 7 8 9, 12/05/2024, 1234567890123456789", []),
    ],
)
def test_numbers_of_many_countries(text: str, expected: list[str]) -> None:
    """With a country code those of any country, without it American ones."""
    assert [text[start:end] for start, end in find_numbers(text)] == expected


def test_a_number_across_the_parts_of_a_long_run() -> None:
    """Long runs of digits and signs are looked at in parts; every number is found whole."""
    for shift in range(0, 60, 7):
        text = "1 " * (165 + shift) + "\n(212) 555-2368\n" + "1 " * 300
        found = [text[start:end] for start, end in find_numbers(text)]
        assert "(212) 555-2368" in found


@pytest.mark.parametrize(
    "kind",
    [
        "1",
        "1 ",
        "4",
        "4444 ",
        "+1 ",
        "(212) 555-2368 ",
        "(",
        "+",
        "1-",
        "1.",
        "1.1.1.",
        "0 0 0 0000 ",
        "٣",
        "\u00a01",
        "-",
    ],
)
def test_time_grows_with_the_text_alone(kind: str) -> None:
    """1 MB of what may be numbers takes seconds of a core; quadratic would be hours."""
    started = time.process_time()
    for _ in find_numbers((kind * (1 << 20))[: 1 << 20]):
        pass
    assert time.process_time() - started < 60
