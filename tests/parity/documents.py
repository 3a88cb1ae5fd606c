"""Long documents, always the same ones: letters and news of one language, a sentence to a line.

Used where PyTorch is (`record_long.py`) and where it is not (`test_long.py`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import corpus

# Lines of each document: about 1,000, 2,000, 8,000 and 20,000 tokens of the default model.
SIZES = (28, 60, 240, 570)
STRIDE = 128


@dataclass(frozen=True)
class Document:
    """A text and where each of its lines starts."""

    text: str
    lines: tuple[str, ...]
    starts: tuple[int, ...]


def documents() -> list[Document]:
    """Give all documents."""
    chance = random.Random(7)
    english = corpus.LOCALES["en"]
    return [_document(chance, english, size) for size in SIZES]


def _document(chance: random.Random, locale: corpus.Locale, size: int) -> Document:
    lines = tuple(
        corpus._letter(chance, locale)
        if chance.random() < 0.6
        else corpus._fill(chance, locale, chance.choice(corpus.NEWS))
        for _ in range(size)
    )
    starts = tuple(sum(len(line) + 1 for line in lines[:k]) for k in range(size))
    return Document("\n".join(lines), lines, starts)
