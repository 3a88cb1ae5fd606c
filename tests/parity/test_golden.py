"""Our answers against those recorded from transformers' pipeline: labels and offsets exact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from builders import open_engine
from nerve.text.aggregation import decode
from nerve.text.labels import LabelSet, parse_labels
from nerve.text.viterbi import Decoder, has_decoder
from nerve.text.words import Vocabulary
from nerve.types import AggregationStrategy, OffsetUnit, PredictOptions, TokenizedText, TokenScores, Window

from . import corpus, golden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nerve.types import Row

MAX_SCORE_DRIFT = 1e-4
# The first test that needs Rampart runs 2,095 texts: 12 s alone on two cores, 80 s on a crowded machine.
pytestmark = pytest.mark.timeout(600)
FAMILIES = ("byte_level_prefix_space", "byte_level_plain", "unigram_metaspace", "wordpiece_cased")


@dataclass(frozen=True)
class Subject:
    """One tokenizer with its labels, and what `decode` needs of a list of texts."""

    labels: LabelSet
    vocabulary: Vocabulary
    inputs: list[tuple[TokenizedText, TokenScores]]


def read_vocabulary(tokenizer: Tokenizer, unk_id: int | None) -> Vocabulary:
    """Take the facts of the word rules from a `tokenizer.json`."""
    size = tokenizer.get_vocab_size()
    added = tokenizer.get_added_tokens_decoder()
    return Vocabulary(
        token_lengths=np.array([len(tokenizer.id_to_token(index)) for index in range(size)]),
        is_word_aware=bool(getattr(tokenizer.model, "continuing_subword_prefix", None)),
        unk_id=unk_id,
        special_tokens={index: token.content for index, token in added.items() if token.special},
    )


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> list[TokenizedText]:
    """Encode texts that fit one window."""
    mask = tokenizer.encode("a").special_tokens_mask
    n_prefix, n_suffix = mask.index(0), mask[::-1].index(0)
    return [
        TokenizedText(
            text, encoding.ids, encoding.offsets, n_prefix, n_suffix, (Window(encoding.ids, 0),), False
        )
        for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True)
    ]


def score(logits: np.ndarray) -> TokenScores:
    """Turn logits (T, L) into the scores of one text."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    best = shares.argmax(axis=-1)
    return TokenScores(best, shares[np.arange(len(best)), best], logits)


def by_length(texts: list[TokenizedText], batch_size: int = 32) -> Iterator[list[int]]:
    """Yield batches of indexes of texts of equal length, so that nothing is padded."""
    lengths: dict[int, list[int]] = {}
    for index, text in enumerate(texts):
        lengths.setdefault(len(text.ids), []).append(index)
    for indexes in lengths.values():
        for begin in range(0, len(indexes), batch_size):
            yield indexes[begin : begin + batch_size]


@pytest.fixture(scope="module")
def default_model(rampart: Path) -> Subject:
    """Run the default model, as it is served, over the whole corpus, once."""
    engine = open_engine(rampart)
    engine.close()  # its session is enough here
    model = engine.model
    texts = model.tokenizer.tokenize(corpus.texts())
    scores: dict[int, TokenScores] = {}
    for same in by_length(texts):
        batch = model.backend.run([texts[index].windows[0] for index in same], needs_logits=True)
        scores.update(zip(same, batch, strict=True))
    return Subject(model.labels, model.vocabulary, [(text, scores[k]) for k, text in enumerate(texts)])


@lru_cache(maxsize=len(FAMILIES))
def family(name: str) -> Subject:
    """Tokenize a part of the corpus with one of the recorded tokenizers."""
    source = golden.read(golden.FAMILIES)["families"][name]["tokenizer"]
    tokenizer = Tokenizer.from_str(json.dumps(source))
    texts = tokenize(tokenizer, corpus.texts()[:: golden.FAMILY_STEP])
    unk_id = tokenizer.token_to_id("[UNK]" if name == "wordpiece_cased" else "<unk>")
    return Subject(
        parse_labels(golden.FAMILY_LABELS),
        read_vocabulary(tokenizer, unk_id),
        [(text, score(golden.synthetic_logits(text.ids))) for text in texts],
    )


# --- comparison ---------------------------------------------------------------------------------------


def answer(subject: Subject, index: int, options: PredictOptions) -> list[Row]:
    """Give our rows for one text; for `none` without the special tokens, which the pipeline leaves out."""
    tokens, scores = subject.inputs[index]
    decoder = Decoder(subject.labels) if has_decoder(subject.labels) else None
    rows = decode(tokens, scores, subject.labels, subject.vocabulary, options, decoder)
    if options.aggregation_strategy is AggregationStrategy.NONE:
        return rows[tokens.n_prefix : len(rows) - tokens.n_suffix]
    return rows


def assert_equal(subject: Subject, recorded: list[Any], strategy: str) -> None:
    """Compare all texts of one strategy and say at once how many differ."""
    options = PredictOptions(aggregation_strategy=AggregationStrategy(strategy))
    assert len(recorded) == len(subject.inputs)
    differing = []
    for index, expected in enumerate(recorded):
        got = [
            (*row.results, row.start, row.end, *row.results.values())
            for row in answer(subject, index, options)
        ]
        same = len(got) == len(expected) and all(
            ours[:3] == theirs[:3] and abs(ours[3] - theirs[3]) <= MAX_SCORE_DRIFT
            for ours, theirs in zip(got, expected, strict=True)
        )
        if not same:
            differing.append((subject.inputs[index][0].text, got, expected))
    assert not differing, f"{len(differing)} of {len(recorded)} texts differ, the first: {differing[0]}"


@pytest.mark.parametrize("strategy", golden.STRATEGIES)
def test_the_default_model_answers_as_the_reference(default_model: Subject, strategy: str) -> None:
    """Every text of the corpus gives the reference's labels, offsets and scores."""
    stored = golden.read(golden.RAMPART)
    assert stored["texts_sha256"] == corpus.checksum(corpus.texts()), "the corpus changed: make golden"
    assert len(corpus.texts()) >= 2000
    assert_equal(default_model, golden.unpack(stored)[strategy], strategy)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("strategy", golden.STRATEGIES)
def test_other_tokenizers_group_as_the_reference(name: str, strategy: str) -> None:
    """Byte-level BPE, Unigram and cased WordPiece give the reference's words and entities."""
    stored = golden.read(golden.FAMILIES)
    assert stored["texts_sha256"] == corpus.checksum(corpus.texts()[:: golden.FAMILY_STEP])
    assert_equal(family(name), golden.unpack(stored["families"][name])[strategy], strategy)


@pytest.mark.parametrize(
    ("index", "ours"),
    [
        (0, [("PER", 0, 1), ("PER", 2, 3), ("PER", 4, 7), ("PER", 8, 9)]),
        (1, [("PER", 0, 1), ("PER", 2, 3), ("PER", 4, 7), ("PER", 8, 9)]),
        (2, [("first-name", 0, 3), ("E-MAIL", 6, 7)]),
    ],
)
def test_knowing_differences_from_the_reference(index: int, ours: list[tuple[str, int, int]]) -> None:
    """The schemes that transformers does not know: our answer, and that the reference's is another."""
    _, names, wanted = golden.DIFFERENCES[index]
    labels = parse_labels(names.split())
    logits = np.eye(len(labels), dtype=np.float32)[[labels.names.index(name) for name in wanted.split()]]
    offsets = [(2 * place, 2 * place + 1) for place in range(5)]
    tokens = TokenizedText("a b c d e", [0] * 5, offsets, 0, 0, (), truncated=False)
    vocabulary = Vocabulary(np.ones(1, dtype=np.int64), is_word_aware=True, unk_id=None, special_tokens={})
    rows = decode(tokens, score(logits), labels, vocabulary, PredictOptions(AggregationStrategy.SIMPLE))
    assert [(*row.results, row.start, row.end) for row in rows] == ours
    recorded = golden.read(golden.FAMILIES)["differences"]
    assert len(recorded) == len(golden.DIFFERENCES)
    assert [tuple(row) for row in recorded[index]] != ours


@pytest.mark.parametrize("name", ["default", *FAMILIES])
@pytest.mark.parametrize("strategy", list(AggregationStrategy))
def test_offsets_slice_back_to_the_token(
    default_model: Subject, name: str, strategy: AggregationStrategy
) -> None:
    """In every unit, the source sliced by a row's offsets is the row's token."""
    subject = default_model if name == "default" else family(name)
    for index, (tokens, _) in enumerate(subject.inputs):
        as_bytes = tokens.text.encode()
        as_utf16 = tokens.text.encode("utf-16-le")
        slices: dict[OffsetUnit, Callable[[Row], str]] = {
            OffsetUnit.CODE_POINT: lambda row, text=tokens.text: text[row.start : row.end],
            OffsetUnit.BYTE: lambda row, text=as_bytes: text[row.start : row.end].decode(),
            OffsetUnit.UTF16: lambda row, text=as_utf16: text[2 * row.start : 2 * row.end].decode(
                "utf-16-le"
            ),
        }
        for unit, cut in slices.items():
            rows = answer(subject, index, PredictOptions(aggregation_strategy=strategy, offset_unit=unit))
            assert [cut(row) for row in rows] == [row.token for row in rows]
