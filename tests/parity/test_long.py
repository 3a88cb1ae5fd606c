"""Long documents of 600 to 14,500 tokens: windows against the reference's `stride`, and against sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import golden
import pytest
from documents import STRIDE, Document, documents

from builders import open_engine, predict_blocking
from nerve.engine.engine import Engine
from nerve.types import AggregationStrategy, PredictOptions

Entity = tuple[str, int, int]
SIMPLE = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE)
# Tokens of a group of lines that still fits one window of 512.
GROUP_TOKENS = 480


@pytest.fixture(scope="module")
def engine(rampart: Path) -> Iterator[Engine]:
    """The default model with the stride of the recorded answers."""
    opened = open_engine(rampart, runtime={"window_stride": STRIDE})
    yield opened
    opened.close()


def entities(engine: Engine, text: str, shift: int = 0) -> set[Entity]:
    """Find the entities of a text, their offsets shifted."""
    (rows,) = predict_blocking(engine, [text], SIMPLE).rows
    return {(next(iter(row.results)), row.start + shift, row.end + shift) for row in rows}


def f1(left: set[Entity], right: set[Entity]) -> float:
    """Give the F1 of two sets of entities against each other."""
    return 2 * len(left & right) / (len(left) + len(right))


@pytest.mark.parametrize(
    ("index", "ours_alone", "theirs_alone"), [(0, 3, 2), (1, 7, 24), (2, 19, 29), (3, 44, 111)]
)
def test_differs_from_the_reference_only_inside_overlaps(
    engine: Engine, index: int, ours_alone: int, theirs_alone: int
) -> None:
    """Outside overlaps every entity is the reference's; inside, the counts in docs/explanation/long-texts.md hold."""
    document = documents()[index]
    ours = entities(engine, document.text)
    recorded = golden.unpack(golden.read(golden.LONG))["simple"][index]
    theirs = {(label, start, end) for label, start, end, _ in recorded}
    overlaps = overlap_spans(engine, document)
    different = ours ^ theirs
    assert all(any(start < stop and end > begin for begin, stop in overlaps) for _, start, end in different)
    # Two float32 kernels may decide a near tie differently, so the counts have a little play.
    assert (len(ours - theirs), len(theirs - ours)) == pytest.approx((ours_alone, theirs_alone), abs=4)


def test_windows_cost_no_agreement_with_sentences(engine: Engine) -> None:
    """A windowed document agrees with its sentences as well as groups of sentences in one window do."""
    document = documents()[1]
    alone: set[Entity] = set()
    for line, start in zip(document.lines, document.starts, strict=True):
        alone |= entities(engine, line, start)
    grouped: set[Entity] = set()
    for start, end in groups(engine, document):
        grouped |= entities(engine, document.text[start:end], start)
    assert f1(entities(engine, document.text), alone) > f1(grouped, alone) - 0.05


def overlap_spans(engine: Engine, document: Document) -> list[tuple[int, int]]:
    """Give the code point ranges that two windows of a document share."""
    (text,) = engine.model.tokenizer.tokenize([document.text])
    ends = [window.start + len(window.ids) - text.n_prefix - text.n_suffix for window in text.windows]
    offsets = text.offsets[text.n_prefix :]
    return [
        (offsets[right.start][0], offsets[end - 1][1])
        for end, right in zip(ends, text.windows[1:], strict=False)
    ]


def groups(engine: Engine, document: Document) -> list[tuple[int, int]]:
    """Give code point ranges of consecutive lines that fit one window."""
    lengths = [len(text.ids) for text in engine.model.tokenizer.tokenize(document.lines)]
    spans: list[tuple[int, int]] = []
    total = GROUP_TOKENS
    for line, start, length in zip(document.lines, document.starts, lengths, strict=True):
        end = start + len(line)
        if total + length > GROUP_TOKENS:
            spans.append((start, end))
            total = 0
        spans[-1] = (spans[-1][0], end)
        total += length
    return spans
