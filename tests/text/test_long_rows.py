"""Long texts in sections: their rows are those of the whole text, wherever windows and sections end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nerve.text.aggregation import decode_texts
from nerve.text.labels import parse_labels
from nerve.text.long_rows import LongRows
from nerve.text.sections import cut_sections
from nerve.text.viterbi import Biases, Decoder, has_decoder
from nerve.text.windows import plan_windows
from nerve.text.words import Vocabulary
from nerve.types import (
    AggregationStrategy,
    OffsetUnit,
    PredictOptions,
    Row,
    Section,
    TokenizedText,
    TokenScores,
    Window,
)

LABELS = {
    "BIO": ["O", "B-A", "I-A", "B-B", "I-B"],
    "BIOES": ["O", *(f"{prefix}-{tag}" for tag in "AB" for prefix in "BIES")],
    "BILOU, O last": [*(f"{prefix}-{tag}" for tag in "AB" for prefix in "BILU"), "O"],
    "IOB1": ["B-A", "I-A", "I-B", "O"],
    "no prefix": ["O", "A", "B"],
    "no O": ["B-A", "I-A", "B-B", "I-B"],
}
WORDS = ["anna ", "é", "😀 ", "\u05d0\u05d1 ", "e\u0301 ", "\r\n", "x"]
PREFIX, SUFFIX = [1], [2]
STRATEGIES = list(AggregationStrategy)


def make_tokens(rng: np.random.Generator, n_tokens: int) -> tuple[str, list[int], list[tuple[int, int]]]:
    """Make a text, ids and offsets; some tokens share a character, some take blanks with them."""
    text, ids, offsets = "", [], []
    for _ in range(n_tokens):
        ids.append(int(rng.integers(3, 9)))
        if offsets and rng.random() < 0.05:
            offsets.append(offsets[-1])
            continue
        word = WORDS[rng.integers(len(WORDS))]
        offsets.append(
            (len(text), len(text) + (len(word) if rng.random() < 0.2 else len(word.rstrip()) or 1))
        )
        text += word
    return text, ids, offsets


def make_scores(
    rng: np.random.Generator, n_tokens: int, n_labels: int, outside: int, calm: float
) -> TokenScores:
    """Make the scores of a window; calm: share of the tokens that are surely `O`."""
    logits = rng.normal(0, 2, (n_tokens, n_labels)).astype(np.float32)
    logits[rng.random(n_tokens) < calm, outside] += 12
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = logits.argmax(axis=1)
    scores = (exp / exp.sum(axis=1, keepdims=True))[np.arange(n_tokens), best].astype(np.float32)
    return TokenScores(best, scores, logits)


def sections_of(
    text: str, ids: list[int], offsets: list[tuple[int, int]], sizes: tuple[int, int, int], n_run: int
) -> list[Section]:
    """Cut tokens that come in runs of so many; sizes: capacity, stride, tokens of a section."""

    def runs() -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        for start in range(0, len(ids), n_run):
            yield ids[start : start + n_run], offsets[start : start + n_run]

    return list(cut_sections(text, runs(), PREFIX, SUFFIX, *sizes))


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Choose the tokens of a text, capacity and stride, tokens of a section, and of a run."""
    capacity = draw(st.integers(1, 20))
    stride = draw(st.integers(0, capacity - 1))
    step = capacity - stride
    # Also exactly as long as some windows.
    n_tokens = draw(st.one_of(st.integers(0, 150), st.integers(0, 6).map(lambda k: capacity + k * step)))
    return n_tokens, capacity, stride, draw(st.integers(1, 60)), draw(st.integers(1, 50))


@given(plans())
@example((0, 4, 1, 8, 3))
@settings(max_examples=300, deadline=None)
def test_sections_are_the_windows_of_the_whole_text(plan: tuple[int, int, int, int, int]) -> None:
    """Every window, once and in order, and every token in exactly one section."""
    n_tokens, capacity, stride, section_tokens, n_run = plan
    text, ids, offsets = make_tokens(np.random.default_rng(1), n_tokens)
    sections = sections_of(text, ids, offsets, (capacity, stride, section_tokens), n_run)
    windows = [window for section in sections for window in section.tokens.windows]
    ranges = plan_windows(n_tokens, capacity, stride)
    assert windows == [Window([*PREFIX, *ids[a:b], *SUFFIX], a) for a, b in ranges]
    assert [i for section in sections for i in section.tokens.ids] == [*PREFIX, *ids, *SUFFIX]
    assert [s.is_first for s in sections] == [True] + [False] * (len(sections) - 1)
    assert [s.is_last for s in sections] == [False] * (len(sections) - 1) + [True]
    if n_tokens > 4 * (section_tokens + capacity):
        assert len(sections) > 1


@pytest.mark.parametrize("name", LABELS)
@given(plans(), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.9, 0.98]), st.booleans(), st.booleans())
@settings(max_examples=120, deadline=None)
def test_rows_are_those_of_the_whole_text(
    name: str, plan: tuple[int, int, int, int, int], seed: int, calm: float, raw: bool, biased: bool
) -> None:
    """Every strategy and unit, with windows that disagree, entities across all borders, and biases."""
    n_tokens, capacity, stride, section_tokens, n_run = plan
    rng = np.random.default_rng(seed)
    labels = parse_labels(LABELS[name])
    names = LABELS[name]
    outside = names.index("O") if "O" in names else 0
    text, ids, offsets = make_tokens(rng, n_tokens)
    vocabulary = Vocabulary(np.full(10, 2), bool(seed % 2), 3, {1: "[CLS]", 2: "[SEP]"})
    biases = Biases(*rng.normal(0, 2, 6)) if biased else Biases()
    decoder = Decoder(labels, biases) if has_decoder(labels) else None
    sections = sections_of(text, ids, offsets, (capacity, stride, section_tokens), n_run)
    parts = [
        [make_scores(rng, len(w.ids), len(names), outside, calm) for w in section.tokens.windows]
        for section in sections
    ]
    whole = TokenizedText(
        text,
        [*PREFIX, *ids, *SUFFIX],
        [(0, 0), *offsets, (0, 0)],
        1,
        1,
        tuple(window for section in sections for window in section.tokens.windows),
        truncated=False,
    )
    scores = [part for section in parts for part in section]
    for strategy in STRATEGIES:
        if strategy is AggregationStrategy.VITERBI and decoder is None:
            continue
        unit = list(OffsetUnit)[seed % 3]
        options = PredictOptions(aggregation_strategy=strategy, offset_unit=unit, raw_scores=raw)
        made = LongRows(text, labels, vocabulary, options, decoder)
        for section, part in zip(sections, parts, strict=True):
            made.add(section, part, 1, 1)
        (expected,) = decode_texts([whole], scores, labels, vocabulary, options, decoder)
        assert made.rows == expected, strategy


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s is not AggregationStrategy.NONE])
def test_little_is_held(strategy: AggregationStrategy) -> None:
    """Rows are made section by section, and what waits for the next one is short where most tokens are `O`."""
    rng = np.random.default_rng(0)
    names = LABELS["BIOES"]
    labels = parse_labels(names)
    text, ids, offsets = make_tokens(rng, 40_000)
    vocabulary = Vocabulary(np.full(10, 2), True, 3, {1: "[CLS]", 2: "[SEP]"})
    options = PredictOptions(aggregation_strategy=strategy)
    made = LongRows(text, labels, vocabulary, options, Decoder(labels))
    n_rows: list[int] = []
    for section in sections_of(text, ids, offsets, (126, 32, 2048), 5000):
        made.add(section, [make_scores(rng, len(w.ids), 9, 0, 0.95) for w in section.tokens.windows], 1, 1)
        n_rows.append(len(made.rows))
        held = made._waiting
        assert held is None or len(held[0].ids) < 500
    assert len(n_rows) > 15
    assert all(later > sooner for sooner, later in itertools.pairwise(n_rows))
    assert isinstance(made.rows[0], Row)


@given(
    st.sampled_from(["BIO", "BIOES", "BILOU, O last", "IOB1"]),
    st.integers(0, 10**6),
    st.sampled_from([0.3, 0.7, 0.95]),
)
@settings(max_examples=150, deadline=None)
def test_nothing_that_follows_changes_a_border(name: str, seed: int, calm: float) -> None:
    """Where a border is found, the path before and after it is that of every longer text."""
    rng = np.random.default_rng(seed)
    names = LABELS[name]
    labels = parse_labels(names)
    decoder = Decoder(labels, Biases(*rng.normal(0, 1.5, 6)) if seed % 2 else Biases())
    outside = names.index("O")
    known = make_scores(rng, int(rng.integers(30, 300)), len(names), outside, calm)
    assert known.logits is not None
    border = decoder.find_border(known.logits, known.label_ids)
    if border is None:
        return
    alone = decoder.best_path(known.logits[: border + 1], known.label_ids[: border + 1])
    assert alone[-1] == outside
    for n_more in (1, 3, 40):
        more = make_scores(rng, n_more, len(names), outside, 0.0)
        assert more.logits is not None
        more.logits[:] *= 5
        logits = np.concatenate([known.logits, more.logits])
        best = logits.argmax(axis=1)
        path = decoder.best_path(logits, best)
        assert (path[: border + 1] == alone).all()
        assert (decoder.best_path(logits[border:], best[border:]) == path[border:]).all()
