"""Constrained decoding: against all paths on short sequences, and against a plain restatement of OPF's decoder."""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerve.text.aggregation import decode
from nerve.text.labels import parse_labels
from nerve.text.viterbi import Biases, Decoder, has_decoder
from nerve.text.words import Vocabulary
from nerve.types import AggregationStrategy, OffsetUnit, PredictOptions, TokenizedText, TokenScores, Window

if TYPE_CHECKING:
    from nerve.types import Row

PRIVACY_TAGS = [
    *("account_number", "private_address", "private_date", "private_email"),
    *("private_person", "private_phone", "private_url", "secret"),
]
FIELDS = Biases.__struct_fields__


def label_names(scheme: str, tags: list[str]) -> list[str]:
    """Write out a label set; the letters of a scheme are its prefixes."""
    return ["O", *(f"{prefix}-{tag}" for tag in tags for prefix in scheme)]


SETS = {
    "BIOES": label_names("BIES", ["A", "B"]),
    "BMES": label_names("BMES", ["A", "B"]),
    "BILOU": label_names("BILU", ["A", "B"]),
    "BIO": label_names("BI", ["A", "B", "C"]),
    "O last": [*label_names("BI", ["A", "B"])[1:], "O"],
    "no O": label_names("BI", ["A", "B"])[1:],
    "no O BIOES": label_names("BIES", ["A"])[1:],
    "IOB1": ["B-A", "I-A", "I-B", "O"],
    "IO": ["O", "I-A", "I-B"],
    "single only": ["O", "S-T", "B-A", "I-A", "E-A", "S-A"],
    "bare beside": ["O", "B-A", "I-A", "MISC"],
    "bare beside BIOES": ["MISC", "O", "B-A", "I-A", "E-A", "S-A"],
    "no end": ["O", "B-A", "I-A", "B-B", "I-B", "E-B", "S-B"],
}


# --- the rules, written once more and in another way -------------------------------------------------


def split(name: str) -> tuple[str, str]:
    """Give prefix and tag; a bare name has the prefix "*"."""
    if name == "O":
        return "O", ""
    if name[1:2] == "-":
        return name[0].translate(str.maketrans("MLU", "IES")), name[2:]
    return "*", name


def is_ended(names: list[str]) -> bool:
    """Tell whether the set has labels for the end."""
    return any(split(name)[0] in "ES" for name in names)


def is_iob1(names: list[str]) -> bool:
    """Tell whether some tag has I and no B, in a set without labels for the end."""
    tags = {prefix: {tag for p, tag in map(split, names) if p == prefix} for prefix in "BI"}
    return not is_ended(names) and bool(tags["I"] - tags["B"])


def bias_of(before: str, after: str, names: list[str], biases: Biases) -> float | None:
    """Give what a move adds; None where the scheme forbids it."""
    (p, tag), (q, other) = split(before), split(after)
    if q in ("I", "*") and p in ("B", "I", "*") and tag == other:
        return biases.inside_to_continue
    if q == "E":
        return biases.inside_to_end if p in ("B", "I", "*") and tag == other else None
    if p in ("B", "I") and is_ended(names):
        return None
    if q == "O":
        return biases.background_stay if p == "O" else biases.end_to_background
    if q == "I" and not is_iob1(names):
        return None
    return biases.background_to_start if p == "O" else biases.end_to_start


def may_begin(name: str, names: list[str]) -> bool:
    """Tell whether a sequence may begin with a label."""
    prefix = split(name)[0]
    return prefix in "OBS*" or (prefix == "I" and is_iob1(names))


def may_end(name: str, names: list[str]) -> bool:
    """Tell whether a sequence may end with a label."""
    return split(name)[0] in "OES*" or not is_ended(names)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Log-softmax in float64, (T, L)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def path_value(path: tuple[int, ...], names: list[str], logs: np.ndarray, biases: Biases) -> float:
    """Give the value of a path; -inf where it is not allowed."""
    if not may_begin(names[path[0]], names) or not may_end(names[path[-1]], names):
        return -math.inf
    value = sum(float(logs[t, label]) for t, label in enumerate(path))
    for before, after in itertools.pairwise(path):
        bias = bias_of(names[before], names[after], names, biases)
        if bias is None:
            return -math.inf
        value += bias
    return value


def decoded(names: list[str], logits: np.ndarray, biases: Biases) -> tuple[int, ...]:
    """Give the path that is under test."""
    decoder = Decoder(parse_labels(names), biases)
    return tuple(decoder.best_path(logits, logits.argmax(axis=1)).tolist())


BIAS_SETS = st.one_of(
    st.just(Biases()), st.builds(Biases, **dict.fromkeys(FIELDS, st.floats(-4, 4).map(lambda x: round(x, 2))))
)


@pytest.mark.parametrize("kind", SETS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_tokens=st.integers(1, 4),
    spread=st.sampled_from([0.5, 3, 8]),
    biases=BIAS_SETS,
)
def test_the_path_is_the_best_of_all(
    kind: str, seed: int, n_tokens: int, spread: float, biases: Biases
) -> None:
    """On short sequences every path is tried; where none is allowed, each token has its best label."""
    names = SETS[kind]
    logits = (np.random.default_rng(seed).normal(size=(n_tokens, len(names))) * spread).astype(np.float32)
    logs = log_probabilities(logits)
    found = decoded(names, logits, biases)
    values = {
        path: path_value(path, names, logs, biases)
        for path in itertools.product(range(len(names)), repeat=n_tokens)
    }
    best = max(values.values())
    if best == -math.inf:
        assert found == tuple(logits.argmax(axis=1).tolist())
    else:
        assert values[found] == pytest.approx(best, abs=1e-9)


def test_ties_go_to_the_smallest_ids_from_the_end() -> None:
    """Of equal paths: the last label with the smallest id, then the one before it."""
    names = SETS["BIOES"]
    logits = np.zeros((3, len(names)), np.float32)
    assert decoded(names, logits, Biases()) == (0, 0, 0)
    logits[1, 0] = -9  # O is out of the question in the middle
    logs = log_probabilities(logits)
    paths = itertools.product(range(len(names)), repeat=3)
    values = {path: path_value(path, names, logs, Biases()) for path in paths}
    best = max(values.values())
    expected = min((p for p, v in values.items() if v == best), key=lambda path: path[::-1])
    assert decoded(names, logits, Biases()) == expected


# --- openai/privacy-filter's decoder, restated from its description ---------------------------------


def opf_decode(names: list[str], logits: np.ndarray, biases: Biases) -> list[int]:  # noqa: C901 - one plain loop
    """Decode with plain loops: emissions, start, end and moves as ../shared/privacy-filter.md says of OPF."""
    impossible = -1e9
    logs = log_probabilities(logits).tolist()
    cut = [("O", "") if name == "O" else (name[0], name[2:]) for name in names]
    n_labels = len(names)

    def move(a: int, b: int) -> float:
        (p, tag), (q, other) = cut[a], cut[b]
        if p in ("O", "E", "S"):
            if q == "O":
                return biases.background_stay if p == "O" else biases.end_to_background
            if q in ("B", "S"):
                return biases.background_to_start if p == "O" else biases.end_to_start
        elif q in ("I", "E") and tag == other:
            return biases.inside_to_continue if q == "I" else biases.inside_to_end
        return impossible

    moves = [[move(a, b) for a in range(n_labels)] for b in range(n_labels)]  # [to][from]
    scores = [logs[0][b] + (0.0 if cut[b][0] in "OBS" else impossible) for b in range(n_labels)]
    back: list[list[int]] = []
    for emission in logs[1:]:
        fresh, pointers = [], []
        for b in range(n_labels):
            best, pointer = -math.inf, 0
            for a, bias in enumerate(moves[b]):
                value = scores[a] + bias
                if value > best:
                    best, pointer = value, a
            fresh.append(best + emission[b])
            pointers.append(pointer)
        scores = fresh
        back.append(pointers)
    totals = [value + (0.0 if cut[b][0] in "OES" else impossible) for b, value in enumerate(scores)]
    label = max(range(n_labels), key=lambda b: totals[b])
    path = [label]
    for pointers in reversed(back):
        label = pointers[label]
        path.append(label)
    return path[::-1]


def document(seed: int, names: list[str], n_tokens: int, noise: float) -> np.ndarray:
    """Make up logits as of a model: mostly O, entities of a few tokens, some labels that do not fit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_tokens, len(names))) * noise
    tags = [name[2:] for name in names if name.startswith("B-")]
    wanted = ["O"] * n_tokens
    position = 0
    while position < n_tokens:
        position += int(rng.integers(1, 12))
        length = int(rng.integers(1, 7))
        tag = tags[int(rng.integers(len(tags)))]
        labels = [f"S-{tag}"] if length == 1 else [f"B-{tag}", *[f"I-{tag}"] * (length - 2), f"E-{tag}"]
        if position + length < n_tokens:
            wanted[position : position + length] = labels
        position += length
    for token, name in enumerate(wanted):
        logits[token, names.index(name)] += rng.uniform(2, 9)
    return logits.astype(np.float32)


CALIBRATED = Biases(-0.4, 0.9, 0.3, -0.7, 0.2, 0.6)
LARGE = Biases(2.5, -3.0, 1.5, -2.0, -1.0, 4.0)
WIDE_TAGS = [f"T{index}" for index in range(54)]


@pytest.mark.parametrize("biases", [Biases(), CALIBRATED, LARGE], ids=["none", "calibrated", "large"])
@pytest.mark.parametrize(
    ("tags", "n_tokens"), [(PRIVACY_TAGS, 300), (WIDE_TAGS, 60)], ids=["33 labels", "217 labels"]
)
@pytest.mark.parametrize("noise", [0.8, 2.0])
def test_as_openai_privacy_filter(tags: list[str], n_tokens: int, biases: Biases, noise: float) -> None:
    """The labels are those of OPF's own decoder, over whole documents."""
    names = label_names("BIES", tags)
    for seed in range(3):
        logits = document(seed, names, n_tokens, noise)
        assert list(decoded(names, logits, biases)) == opf_decode(names, logits, biases)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_tokens=st.integers(1, 90),
    noise=st.sampled_from([0.3, 1, 2, 4]),
    biases=BIAS_SETS,
)
def test_pieces_change_nothing(seed: int, n_tokens: int, noise: float, biases: Biases) -> None:
    """Cutting at anchors gives the path that is found without cutting."""
    names = label_names("BIES", PRIVACY_TAGS)
    logits = document(seed, names, n_tokens, noise)
    best = logits.argmax(axis=1)
    decoder = Decoder(parse_labels(names), biases)
    whole = best.copy()
    decoder._solve(logits, np.array([0]), np.array([n_tokens]), whole)
    assert decoder.best_path(logits, best).tolist() == whole.tolist()


def test_sure_tokens_are_cut() -> None:
    """A long document falls into many pieces, with biases, too: otherwise it would be slow."""
    names = label_names("BIES", PRIVACY_TAGS)
    logits = document(1, names, 4000, 0.8)
    logits[logits.argmax(axis=1) == 0, 0] += 8  # as sure as models are
    best = logits.argmax(axis=1)
    for biases in (Biases(), CALIBRATED):
        decoder = Decoder(parse_labels(names), biases)
        moves = np.concatenate(([0.0], decoder._moves[best[:-1], best[1:]], [0.0]))
        begins, stops = decoder._pieces(logits, best, moves)
        assert len(begins) > 300
        assert (stops - begins).max() < 60


def test_impossible_logits() -> None:
    """Infinities and NaN neither fail nor warn."""
    names = SETS["BIOES"]
    for value in (-np.inf, np.nan):
        for token, label in itertools.product(range(4), range(3)):
            logits = np.random.default_rng(0).normal(size=(4, len(names))).astype(np.float32)
            logits[token, label] = value
            assert len(decoded(names, logits, Biases())) == 4
            assert len(decoded(names, logits, CALIBRATED)) == 4


def test_labels_without_prefixes_have_no_decoder() -> None:
    """There is nothing that a scheme would forbid."""
    assert not has_decoder(parse_labels(["O", "PER", "LOC"]))
    assert all(has_decoder(parse_labels(names)) for names in SETS.values())


VOCABULARY = Vocabulary(np.zeros(1, np.int64), is_word_aware=False, unk_id=None, special_tokens={})


def words_of(text: str) -> TokenizedText:
    """Take each word for a token, with a special token at either end."""
    offsets, position = [(0, 0)], 0
    for word in text.split():
        position = text.index(word, position)
        offsets.append((position, position + len(word)))
        position += len(word)
    offsets.append((0, 0))
    ids = list(range(len(offsets)))
    return TokenizedText(text, ids, offsets, 1, 1, (Window(ids, 0),), truncated=False)


# --- entities ----------------------------------------------------------------------------------------


def viterbi_rows(
    names: list[str], tokens: TokenizedText, logits: np.ndarray, biases: Biases | None = None
) -> list[Row]:
    """Decode the logits of the real tokens."""
    n_special = tokens.n_prefix
    special = np.zeros((n_special, len(names)), np.float32)
    logits = np.concatenate([special, logits, special]).astype(np.float32)
    best = logits.argmax(axis=1)
    scores = TokenScores(best, np.ones(len(best), np.float32), logits)
    labels = parse_labels(names)
    options = PredictOptions(aggregation_strategy=AggregationStrategy.VITERBI)
    return decode(tokens, scores, labels, VOCABULARY, options, Decoder(labels, biases))


def test_entities_of_the_path() -> None:
    """Argmax splits the person; the best allowed path does not, and its score is that of its own labels."""
    names = ["O", "B-P", "I-P", "E-P", "S-P"]
    tokens = words_of("Ann Lee Fox left")
    logits = np.log(
        [
            [0.05, 0.80, 0.05, 0.05, 0.05],
            [0.05, 0.05, 0.40, 0.45, 0.05],  # E- by itself, I- as a part of the whole
            [0.05, 0.02, 0.03, 0.85, 0.05],
            [0.96, 0.01, 0.01, 0.01, 0.01],
        ]
    )
    (row,) = viterbi_rows(names, tokens, logits)
    assert (row.token, row.start, row.end) == ("Ann Lee Fox", 0, 11)
    assert row.results["P"] == pytest.approx((0.80 * 0.40 * 0.85) ** (1 / 3), abs=1e-6)


def test_spans_lose_white_space_and_do_not_overlap() -> None:
    """Byte-level tokens carry the blank before them; two tokens may share one character."""
    text = "by  Ann\u00a0\n 😀x"
    offsets = [(0, 2), (2, 7), (7, 9), (9, 10), (10, 11), (10, 12)]
    tokens = TokenizedText(text, list(range(6)), offsets, 0, 0, (Window(list(range(6)), 0),), truncated=False)
    names = ["O", "B-P", "I-P", "E-P", "S-P"]
    logits = np.full((6, 5), -5, np.float32)
    for token, name in enumerate(["O", "B-P", "E-P", "S-P", "S-P", "S-P"]):
        logits[token, names.index(name)] = 5
    rows = viterbi_rows(names, tokens, logits)
    assert [(row.token, row.start, row.end) for row in rows] == [("Ann", 4, 7), ("😀", 10, 11), ("x", 11, 12)]


def test_biases_can_find_what_no_token_says() -> None:
    """A text of which each best label is O is decoded all the same where biases speak against O."""
    names = ["O", "B-P", "I-P", "E-P", "S-P"]
    tokens = words_of("Ann Lee")
    logits = np.log([[0.5, 0.4, 0.05, 0.02, 0.03], [0.5, 0.02, 0.05, 0.4, 0.03]])
    assert viterbi_rows(names, tokens, logits) == []
    (row,) = viterbi_rows(names, tokens, logits, Biases(background_stay=-3.0))
    assert row.token == "Ann Lee"


@pytest.mark.parametrize("unit", list(OffsetUnit))
def test_no_tokens(unit: OffsetUnit) -> None:
    """A text without real tokens has no entity."""
    labels = parse_labels(SETS["BIOES"])
    tokens = words_of(" ")
    scores = TokenScores(
        np.zeros(2, np.int64), np.ones(2, np.float32), np.zeros((2, len(labels)), np.float32)
    )
    options = PredictOptions(aggregation_strategy=AggregationStrategy.VITERBI, offset_unit=unit)
    assert decode(tokens, scores, labels, VOCABULARY, options, Decoder(labels, CALIBRATED)) == []


def test_a_very_long_text_without_outside_tokens() -> None:
    """Nothing can be cut, nothing is allowed as it is: 100,000 steps, of some microseconds each."""
    names = SETS["BIO"]
    logits = np.tile(np.eye(len(names), dtype=np.float32)[[1, 2, 4]] * 3, (33_334, 1))
    started = time.perf_counter()
    path = decoded(names, logits, Biases())
    assert time.perf_counter() - started < 20
    assert path[:3] == (1, 2, 0)


def test_time_grows_with_the_labels_not_their_square() -> None:
    """A step of 217 labels takes about the time of one of 33, not 43 times that."""
    seconds = {}
    for tags in (PRIVACY_TAGS, WIDE_TAGS):
        names = label_names("BIES", tags)
        decoder = Decoder(parse_labels(names))
        scores = np.zeros((50, len(names)))
        best = math.inf
        for _ in range(20):
            started = time.perf_counter()
            decoder._step(scores)
            best = min(best, time.perf_counter() - started)
        seconds[len(names)] = best
    assert seconds[217] < 15 * seconds[33]
