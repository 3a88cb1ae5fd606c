"""Rows of tokens and entities: tables worked out by hand, and properties of every answer."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve.endpoints.predict_tokens import encode_rows
from nerve.errors import InvalidRequest
from nerve.text.aggregation import check_scores, decode
from nerve.text.labels import parse_labels
from nerve.text.words import Vocabulary
from nerve.types import (
    AggregationStrategy,
    OffsetUnit,
    PredictOptions,
    RawScoresAs,
    TokenizedText,
    TokenScores,
    Window,
)

if TYPE_CHECKING:
    from nerve.types import Row

IOB = "O B-PER I-PER B-LOC I-LOC"
# Those that need nothing but scores and labels; test_viterbi.py has the other.
STRATEGIES = [strategy for strategy in AggregationStrategy if strategy is not AggregationStrategy.VITERBI]
AGGREGATED = [strategy for strategy in STRATEGIES if strategy is not AggregationStrategy.NONE]
CLS, SEP, UNK = 0, 1, 2


def tokenized(text: str, pieces: str, *, n_special: int = 1) -> tuple[TokenizedText, Vocabulary]:
    """Lay WordPiece pieces ("Hel ##lo") over a text, `n_special` special tokens at either end.

    A piece `?n` is the unknown token over n code points; every other piece gets an id of its own.
    """
    vocabulary = ["[CLS]", "[SEP]", "[UNK]"]
    ids, offsets, position = [], [], 0
    for piece in pieces.split():
        while text[position : position + 1] in (" ", "\n"):
            position += 1
        if piece.startswith("?"):
            ids.append(UNK)
            width = int(piece[1:])
        else:
            ids.append(len(vocabulary))
            vocabulary.append(piece)
            width = len(piece.removeprefix("##"))
        offsets.append((position, position + width))
        position += width
    ids = [CLS] * n_special + ids + [SEP] * n_special
    offsets = [(0, 0)] * n_special + offsets + [(0, 0)] * n_special
    tokens = TokenizedText(text, ids, offsets, n_special, n_special, (Window(ids, 0),), truncated=False)
    return tokens, Vocabulary(
        token_lengths=np.array([len(entry) for entry in vocabulary]),
        is_word_aware=True,
        unk_id=UNK,
        special_tokens={CLS: "[CLS]", SEP: "[SEP]"},
    )


def scored(names: str, tokens: TokenizedText, wanted: str) -> TokenScores:
    """Give each real token a label and a score ("B-PER:0.9"; 0.75 when none); special tokens get O."""
    labels = names.split()
    label_ids, scores = [], []
    for word in wanted.split():
        name, _, score = word.partition(":")
        label_ids.append(labels.index(name))
        scores.append(float(score or 0.75))
    label_ids = [0] * tokens.n_prefix + label_ids + [0] * tokens.n_suffix
    scores = [0.5] * tokens.n_prefix + scores + [0.5] * tokens.n_suffix
    shares = np.zeros((len(scores), len(labels)), dtype=np.float32)
    for row, label, score in zip(shares, label_ids, scores, strict=True):
        row[:] = (1 - score) / max(1, len(labels) - 1)
        row[label] = score
    return TokenScores(np.array(label_ids), np.array(scores, dtype=np.float32), np.log(shares))


def answer(names: str, text: str, pieces: str, wanted: str, options: PredictOptions) -> list[Row]:
    """Decode one text laid out by `tokenized` and `scored`."""
    tokens, vocabulary = tokenized(text, pieces)
    labels = parse_labels(names.split())
    return decode(tokens, scored(names, tokens, wanted), labels, vocabulary, options)


def entities(names: str, text: str, pieces: str, wanted: str, strategy: str) -> str:
    """Print entities as "token/tag", without scores."""
    options = PredictOptions(aggregation_strategy=AggregationStrategy(strategy))
    rows = answer(names, text, pieces, wanted, options)
    assert all(text[row.start : row.end] == row.token and row.token_id == 0 for row in rows)
    return " ".join(f"{row.token.replace(' ', '_')}/{next(iter(row.results))}" for row in rows)


# --- none -------------------------------------------------------------------------------------------


def test_scores_of_all_labels_are_counted() -> None:
    """Only where the answer has them; the message names the limit."""
    labels = parse_labels(["O", "B-X", "I-X"])
    raw = PredictOptions(raw_scores=True)
    check_scores(10, raw, labels, 30)
    check_scores(10, PredictOptions(), labels, 29)
    with pytest.raises(InvalidRequest, match=r"of 10 tokens for each of 3 labels .*max_request_scores = 29"):
        check_scores(10, raw, labels, 29)


def test_none_gives_every_token() -> None:
    """Special tokens carry their own text at 0, O rows stay, labels keep their prefix."""
    rows = answer(IOB, "Ann left", "An ##n left", "B-PER:0.9 I-PER:0.8 O:0.7", PredictOptions())
    assert [(row.token, row.token_id, row.start, row.end, row.results) for row in rows] == [
        ("[CLS]", CLS, 0, 0, {"O": 0.5}),
        ("An", 3, 0, 2, {"B-PER": 0.9}),
        ("n", 4, 2, 3, {"I-PER": 0.8}),
        ("left", 5, 4, 8, {"O": 0.7}),
        ("[SEP]", SEP, 0, 0, {"O": 0.5}),
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_special", [0, 1, 2])
def test_a_text_without_tokens(strategy: AggregationStrategy, n_special: int) -> None:
    """Nothing but special tokens: those alone for `none`, no entity otherwise."""
    tokens, vocabulary = tokenized(" ", "", n_special=n_special)
    scores = scored(IOB, tokens, "")
    labels = parse_labels(IOB.split())
    for raw in (False, True):
        options = PredictOptions(aggregation_strategy=strategy, raw_scores=raw)
        rows = decode(tokens, scores, labels, vocabulary, options)
        assert len(rows) == (2 * n_special if strategy is AggregationStrategy.NONE else 0)


# --- grouping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("B-PER I-PER O B-LOC", "a_b/PER d/LOC"),
        ("I-PER I-PER O I-LOC", "a_b/PER d/LOC"),  # I- opens, too: IOB1
        ("B-PER B-PER I-PER B-PER", "a/PER b_c/PER d/PER"),
        ("B-PER I-LOC I-PER I-PER", "a/PER b/LOC c_d/PER"),
        ("B-PER O I-PER O", "a/PER c/PER"),
        ("O O O O", ""),
        ("B-LOC I-LOC I-LOC I-LOC", "a_b_c_d/LOC"),
    ],
)
def test_iob(wanted: str, expected: str) -> None:
    """Words with one tag are one entity until B- opens the next; O never is one."""
    for strategy in AGGREGATED:
        assert entities(IOB, "a b c d", "a b c d", wanted, strategy) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("S-PER S-PER O S-LOC", "a/PER b/PER d/LOC"),
        ("B-PER E-PER B-PER E-PER", "a_b/PER c_d/PER"),
        ("B-PER I-PER E-PER I-PER", "a_b_c/PER d/PER"),
        ("I-PER E-PER E-PER I-PER", "a_b/PER c/PER d/PER"),  # ill-formed: E- closes what is open, or itself
        ("B-PER S-PER E-PER O", "a/PER b/PER c/PER"),
        ("B-PER E-LOC I-LOC O", "a/PER b/LOC c/LOC"),
        ("B-PER I-PER I-PER I-PER", "a_b_c_d/PER"),  # never closed
    ],
)
def test_bioes_and_bilou(wanted: str, expected: str) -> None:
    """E- and S- (L- and U-) end an entity, B- and S- (U-) begin one."""
    for strategy in AGGREGATED:
        bioes = "O B-PER I-PER E-PER S-PER B-LOC I-LOC E-LOC S-LOC"
        assert entities(bioes, "a b c d", "a b c d", wanted, strategy) == expected
        bilou = bioes.replace("E-", "L-").replace("S-", "U-")
        wanted_bilou = wanted.replace("E-", "L-").replace("S-", "U-")
        assert entities(bilou, "a b c d", "a b c d", wanted_bilou, strategy) == expected


def test_a_tag_of_single_tokens_in_a_scheme() -> None:
    """A label set in which one tag has S- (U-) alone is decoded as any other of its scheme."""
    for strategy in AGGREGATED:
        for end, single in ("ES", "LU"):
            names = f"O B-PER I-PER {end}-PER {single}-PER {single}-TITLE"
            wanted = f"{single}-TITLE {single}-TITLE B-PER {end}-PER"
            assert entities(names, "a b c d", "a b c d", wanted, strategy) == "a/TITLE b/TITLE c_d/PER"


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        ("O PER LOC", "PER PER LOC PER", "a_b/PER c/LOC d/PER"),
        ("O first-name E-MAIL", "first-name E-MAIL E-MAIL O", "a/first-name b_c/E-MAIL"),
        ("O I-PER I-LOC", "I-PER I-PER I-LOC O", "a_b/PER c/LOC"),
        ("O B-PER I-PER MISC", "MISC MISC B-PER MISC", "a_b/MISC c/PER d/MISC"),
        ("NOUN VERB", "NOUN NOUN VERB NOUN", "a_b/NOUN c/VERB d/NOUN"),  # no O: all are entities
    ],
)
def test_labels_without_prefixes(names: str, wanted: str, expected: str) -> None:
    """Neighbours with the same name are one entity and the name is printed whole."""
    for strategy in AGGREGATED:
        assert entities(names, "a b c d", "a b c d", wanted, strategy) == expected


# --- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "wanted", "expected"),
    [
        ("simple", "B-PER:0.6 I-LOC:0.9 O:0.5", "micro/PER soft/LOC"),
        ("first", "B-PER:0.6 I-LOC:0.9 O:0.5", "microsoft/PER"),
        ("max", "B-PER:0.6 I-LOC:0.9 O:0.5", "microsoft/LOC"),
        ("average", "B-PER:0.6 I-LOC:0.9 O:0.5", "microsoft/LOC"),
        ("first", "O:0.6 I-LOC:0.9 O:0.5", ""),
        ("max", "O:0.9 I-LOC:0.6 O:0.5", ""),
        ("max", "I-LOC:0.9 B-PER:0.9 O:0.5", "microsoft/LOC"),  # a tie: the first token
        ("average", "I-LOC:0.9 B-PER:0.9 O:0.5", "microsoft/PER"),  # a tie: the smallest label id
    ],
)
def test_the_tokens_of_a_word_agree(strategy: str, wanted: str, expected: str) -> None:
    """`first` takes the first token's label, `max` the surest token's, `average` the best mean."""
    assert entities(IOB, "microsoft x", "micro ##soft x", wanted, strategy) == expected


@pytest.mark.parametrize(
    ("text", "pieces", "expected"),
    [
        ("ab cd", "a ##b c ##d", "ab_cd/PER"),
        ("ab", "?1 ##b", "ab/PER"),
        ("ab", "a ?1", "a/PER b/LOC"),  # the unknown token starts a word, whatever its length
        ("##b", "##b", "#/PER"),  # the first token starts a word even when it looks like a continuation
    ],
)
def test_words_of_a_word_aware_tokenizer(text: str, pieces: str, expected: str) -> None:
    """A piece as long as its source starts a word; a longer one continues it."""
    wanted = {"a ##b c ##d": "I-PER I-LOC I-PER I-LOC", "##b": "I-PER"}.get(pieces, "I-PER I-LOC")
    assert entities(IOB, text, pieces, wanted, "first") == expected


def test_words_of_other_tokenizers() -> None:
    """Without a prefix for continued words, a blank before or at the start of a token separates."""
    text = "ab cd,e"
    offsets = [(0, 1), (1, 2), (2, 4), (4, 5), (5, 6), (6, 7)]  # a|b| c|d|,|e
    tokens = TokenizedText(text, [5, 6, 7, 8, 9, 2], offsets, 0, 0, (), truncated=False)
    vocabulary = Vocabulary(np.ones(10, dtype=np.int64), is_word_aware=False, unk_id=2, special_tokens={})
    scores = scored(IOB, tokens, "B-PER I-PER B-LOC O O B-PER")
    labels = parse_labels(IOB.split())
    rows = decode(tokens, scores, labels, vocabulary, PredictOptions(AggregationStrategy.FIRST))
    # The offsets of the reference: a token that holds the leading blank starts with it.
    assert [(row.token, row.start, row.end) for row in rows] == [("ab", 0, 2), (" cd,", 2, 6), ("e", 6, 7)]


# --- scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("simple", [0.7, 0.5]),  # mean of 0.9, 0.6, 0.6; then 0.5 alone
        ("first", [0.75]),  # words 0.9 and 0.6
        ("max", [0.75]),
        ("average", [0.55]),  # words (0.9 + 0.1) / 2 for B-PER, and 0.6
    ],
)
def test_the_score_of_an_entity_is_the_mean_of_its_words(strategy: str, expected: list[float]) -> None:
    """A word's score: its first token's, its surest token's, or the mean of the winning label."""
    options = PredictOptions(aggregation_strategy=AggregationStrategy(strategy))
    wanted = "B-PER:0.9 I-PER:0.6 I-PER:0.6 O:0.5 I-LOC:0.5"
    if strategy != "simple":
        wanted = "B-PER:0.9 I-PER:0.6 I-PER:0.6 O:0.5 O:0.5"
    rows = answer(IOB, "ab c d e", "a ##b c d e", wanted, options)
    assert [value for row in rows for value in row.results.values()] == pytest.approx(expected, abs=1e-6)


def test_means_are_added_up_in_float32() -> None:
    """Bit-equal to numpy.nanmean of float32 scores, which the reference calls."""
    chance = np.random.default_rng(3)
    for length in (1, 2, 3, 5, 9, 40):
        pieces = " ".join(["a"] * length)
        tokens, vocabulary = tokenized(pieces, pieces)
        scores = scored(IOB, tokens, " ".join(["I-PER"] * length))
        values = chance.random(length + 2).astype(np.float32)
        scores = TokenScores(scores.label_ids, values, None)
        labels = parse_labels(IOB.split())
        rows = decode(tokens, scores, labels, vocabulary, PredictOptions(AggregationStrategy.SIMPLE))
        assert [row.results["PER"] for row in rows] == [float(str(np.nanmean(values[1:-1])))]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("raw_scores_as", list(RawScoresAs))
def test_raw_scores_hold_every_label(strategy: AggregationStrategy, raw_scores_as: RawScoresAs) -> None:
    """One vector per token, or the mean of an entity's tokens; full label names."""
    options = PredictOptions(strategy, raw_scores=True, raw_scores_as=raw_scores_as)
    tokens, vocabulary = tokenized("a b c", "a b c")
    scores = scored(IOB, tokens, "B-PER:0.9 I-PER:0.6 O:0.8")
    rows = decode(tokens, scores, parse_labels(IOB.split()), vocabulary, options)
    assert scores.logits is not None
    vectors = scores.logits if raw_scores_as is RawScoresAs.LOGITS else np.exp(scores.logits)
    expected = vectors if strategy is AggregationStrategy.NONE else vectors[1:3].mean(axis=0, keepdims=True)
    assert all(list(row.results) == IOB.split() for row in rows)
    assert np.array([list(row.results.values()) for row in rows]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("names", [IOB, 'a"b O', "a\\b O", "Ä-ß O é", "a/b </script> O", "O"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("msgpack", [False, True])
def test_rows_to_encode_give_the_same_bytes(names: str, strategy: AggregationStrategy, msgpack: bool) -> None:
    """Whatever the labels are called, NaN included."""
    tokens, vocabulary = tokenized("a b c", "a b c")
    labels = parse_labels(names.split())
    logits = np.random.default_rng(3).normal(size=(5, len(labels))).astype(np.float32)
    scores = TokenScores(logits.argmax(-1), np.ones(5, np.float32), logits)
    options = PredictOptions(strategy, raw_scores=True)

    def encode(options: PredictOptions) -> bytes:
        return encode_rows([decode(tokens, scores, labels, vocabulary, options)], msgpack=msgpack)

    assert encode(options) == encode(msgspec.structs.replace(options, to_encode=True))
    logits[2] = np.nan
    assert encode(options) == encode(msgspec.structs.replace(options, to_encode=True))


def test_missing_logits_are_a_defect() -> None:
    """Raw scores without logits stop with a word that says whose fault it is."""
    tokens, vocabulary = tokenized("a", "a")
    scores = TokenScores(np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.float32), None)
    labels = parse_labels(["O"])
    with pytest.raises(AssertionError, match="this is a bug"):
        decode(tokens, scores, labels, vocabulary, PredictOptions(raw_scores=True))


# --- offsets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "spans"),
    [
        (OffsetUnit.CODE_POINT, [(0, 3), (4, 5), (6, 7)]),
        (OffsetUnit.UTF16, [(0, 3), (4, 6), (7, 8)]),
        (OffsetUnit.BYTE, [(0, 4), (5, 9), (10, 13)]),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_offset_units(unit: OffsetUnit, spans: list[tuple[int, int]], strategy: AggregationStrategy) -> None:
    """Code points of one to four bytes and of one or two UTF-16 units."""
    options = PredictOptions(aggregation_strategy=strategy, offset_unit=unit)
    rows = answer(IOB, "Zoë 😀 中", "Zoë 😀 中", "B-PER B-LOC B-PER", options)
    if strategy is AggregationStrategy.NONE:
        rows = rows[1:-1]
    assert [(row.start, row.end) for row in rows] == spans
    assert [row.token for row in rows] == ["Zoë", "😀", "中"]


@pytest.mark.parametrize("unit", list(OffsetUnit))
def test_a_lone_surrogate_does_no_harm(unit: OffsetUnit) -> None:
    """`wire` refuses such texts; the Python API may still be given one."""
    options = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE, offset_unit=unit)
    (row,) = answer(IOB, "\ud800 b", "\ud800 b", "O B-PER", options)
    assert (row.token, row.start) == ("b", 4 if unit is OffsetUnit.BYTE else 2)


# --- properties -------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[TokenizedText, TokenScores, Vocabulary, str]:
    """Any text cut at any places into pieces, with any labels and scores."""
    names = draw(
        st.sampled_from([IOB, "O B-X I-X E-X S-X", "B-X I-X L-X U-X O", "O I-X I-Y", "X Y Z", "O X-Y Z"])
    )
    text = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=12)))
    n_tokens, n_labels = len(cuts) + 1, len(names.split())
    offsets = [(0, 0), *itertools.pairwise(cuts), (0, 0)]
    ids = [CLS, *draw(st.lists(st.integers(2, 9), min_size=n_tokens - 2, max_size=n_tokens - 2)), SEP]
    numbers = st.floats(-9, 9, width=32)
    flat = draw(st.lists(numbers, min_size=n_tokens * n_labels, max_size=n_tokens * n_labels))
    logits = np.array(flat, dtype=np.float32).reshape(n_tokens, n_labels)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    best = shares.argmax(axis=1)
    vocabulary = Vocabulary(
        token_lengths=np.array(draw(st.lists(st.integers(1, 4), min_size=10, max_size=10))),
        is_word_aware=draw(st.booleans()),
        unk_id=draw(st.sampled_from([None, UNK])),
        special_tokens={CLS: "[CLS]", SEP: "[SEP]"},
    )
    tokens = TokenizedText(text, ids, offsets, 1, 1, (), truncated=False)
    return tokens, TokenScores(best, shares[np.arange(n_tokens), best], logits), vocabulary, names


@given(cases(), st.sampled_from(STRATEGIES), st.booleans())
def test_spans_are_sorted_inside_and_slice_back(
    case: tuple[TokenizedText, TokenScores, Vocabulary, str], strategy: AggregationStrategy, raw: bool
) -> None:
    """In every unit; entities do not overlap, and scores are probabilities."""
    tokens, scores, vocabulary, names = case
    labels = parse_labels(names.split())
    answers = {}
    for unit in OffsetUnit:
        options = PredictOptions(strategy, raw_scores=raw, offset_unit=unit)
        answers[unit] = decode(tokens, scores, labels, vocabulary, options)
    rows = answers[OffsetUnit.CODE_POINT]
    if strategy is AggregationStrategy.NONE:
        assert len(rows) == len(tokens.ids)
        answers = {unit: of_unit[1:-1] for unit, of_unit in answers.items()}
        rows = rows[1:-1]
    edges = [edge for row in rows for edge in (row.start, row.end)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= len(tokens.text) for edge in edges)
    assert all(0 <= value <= 1 for row in rows for value in row.results.values())
    as_bytes, as_utf16 = tokens.text.encode(), tokens.text.encode("utf-16-le")
    for code_point, utf16, byte in zip(*(answers[unit] for unit in OffsetUnit), strict=True):
        assert tokens.text[code_point.start : code_point.end] == code_point.token
        assert as_utf16[2 * utf16.start : 2 * utf16.end].decode("utf-16-le") == code_point.token
        assert as_bytes[byte.start : byte.end].decode() == code_point.token


@given(cases(), st.sampled_from(AGGREGATED))
def test_entities_cover_exactly_the_words_that_are_not_outside(
    case: tuple[TokenizedText, TokenScores, Vocabulary, str], strategy: AggregationStrategy
) -> None:
    """With `simple`, each token with a tag is in one entity of that tag and no other token is."""
    tokens, scores, vocabulary, names = case
    labels = parse_labels(names.split())
    rows = decode(tokens, scores, labels, vocabulary, PredictOptions(strategy))
    if strategy is AggregationStrategy.SIMPLE:
        covered = [tag for row in rows for tag in row.results for start, end in tokens.offsets[1:-1]
                   if row.start <= start and end <= row.end]  # fmt: skip
        wanted = [labels.tags[label] for label in scores.label_ids[1:-1].tolist()]
        assert covered == [tag for tag in wanted if tag != "O"]
    assert all(tag in labels.tags and tag != "O" for row in rows for tag in row.results)


def test_a_very_long_text_takes_no_seconds() -> None:
    """100,000 tokens in every strategy, each well under a second on an idle machine."""
    pieces = "a ##b c"
    tokens, vocabulary = tokenized("ab c", pieces)
    count = 33_334
    ids = [CLS, *(tokens.ids[1:-1] * count), SEP]
    offsets = [(0, 0)]
    for index in range(count):
        offsets += [(start + 5 * index, end + 5 * index) for start, end in tokens.offsets[1:-1]]
    offsets.append((0, 0))
    long = TokenizedText("ab c " * count, ids, offsets, 1, 1, (), truncated=False)
    one = scored(IOB, tokens, "B-PER:0.9 I-PER:0.6 I-LOC:0.8")
    assert one.logits is not None
    scores = TokenScores(
        np.concatenate([[0], np.tile(one.label_ids[1:-1], count), [0]]),
        np.concatenate([one.scores[:1], np.tile(one.scores[1:-1], count), one.scores[-1:]]),
        np.concatenate([one.logits[:1], np.tile(one.logits[1:-1], (count, 1)), one.logits[-1:]]),
    )
    labels = parse_labels(IOB.split())
    for strategy in STRATEGIES:
        started = time.perf_counter()
        rows = decode(long, scores, labels, vocabulary, PredictOptions(strategy))
        assert time.perf_counter() - started < 3
        assert len(rows) == (3 * count + 2 if strategy is AggregationStrategy.NONE else 2 * count)


@pytest.mark.parametrize("strategy", AGGREGATED)
def test_nan_is_not_hidden(strategy: AggregationStrategy) -> None:
    """A score that is no number makes the entity's one; transformers' `nanmean` would leave it out."""
    tokens, vocabulary = tokenized("Anna Maria", "Anna Maria")
    logits = np.full((4, 5), np.nan, np.float32)
    scores = TokenScores(
        label_ids=np.array([0, 1, 2, 0]), scores=np.array([1, 0.5, np.nan, 1], np.float32), logits=logits
    )
    rows = decode(tokens, scores, parse_labels(IOB.split()), vocabulary, PredictOptions(strategy))
    assert all(np.isnan(value) for row in rows for value in row.results.values())
    if strategy is not AggregationStrategy.AVERAGE:  # that one finds its labels among the NaN
        assert [(row.start, row.end) for row in rows] == [(0, 10)]
