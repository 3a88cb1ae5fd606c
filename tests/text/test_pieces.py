"""Long texts are tokenized piece by piece: the tokens are those of the whole text, and no more is read than needed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from corpus import texts as corpus_texts
from nerve.errors import ClientGone, InvalidRequest
from nerve.text import joined_runs, pieces
from nerve.text.pieces import AnyTokenizer, SeparateWords, Tokens
from nerve.text.tokenizer import TextTokenizer, load_tokenizer
from nerve.text.word_cache import has_separate_words
from nerve.types import TruncationDirection

MANY = 10**9
# What may stand beside a cut: spaces of all kinds, marks, special tokens whole and in part, controls, Chinese, Hangul,
# punctuation of all kinds, letters that become several, code points that mean nothing or came late.
ODD = [
    *(
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u00a0",
        "\u2003",
        "\u2028",
        "\u2029",
        "\u3000",
        "\u1680",
        "\u200b",
        "\u180e",
    ),
    *(
        "\x00",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\ufeff",
        "\ufffd",
        "\u00ad",
        "\u0301",
        "\u0327",
        "\u0345",
        "\u20dd",
    ),
    *(
        "[SEP]",
        "[CLS]",
        "[MASK]",
        "[SEP",
        "SEP]",
        "[",
        "]",
        "[mask]",
        "[UNK][PAD]",
        "##s",
        "..",
        "-",
        "_",
        "$",
        "'s",
    ),
    *(
        "東京",
        "李",
        "\u9fa5",
        "\u9fff",
        "\u3400",
        "\U00020000",
        "\U0002b740",
        "\uf900",
        "\ufa0e",
        "ひらがな",
        "。",
        "、",
        "！",
    ),
    *(
        "한국",
        "\u1100\u1161",
        "ไทย",
        "ﬁ",
        "ß",
        "İ",
        "Σ",
        "ς",
        "ǆ",
        "½",
        "👩‍👩‍👧",
        "😀",
        "\u037e",
        "\u0387",
        "\u2e52",
        "\u0378",
    ),
    *(
        "anna",
        "Paris",
        "é",
        "e\u0301",
        "Ångström",
        "\u0438\u0306",
        "שלום",
        "\u05bc",
        "العربية",
        "\u0640",
        "हिन्दी",
        "।",
    ),
]


def odd_texts() -> st.SearchStrategy[str]:
    """Make texts of odd parts and of any characters."""
    characters = st.characters(exclude_categories=["Cs"])
    marks = st.characters(categories=["Mn", "Mc", "Me", "Cf", "Cc", "Zs", "Po", "Ps", "Pd", "Lo", "Cn"])
    part = st.one_of(st.sampled_from(ODD), st.text(characters, max_size=8), st.text(marks, max_size=4))
    return st.lists(part, max_size=20).map("".join)


def twin(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer of its own."""
    return Tokenizer.from_str(tokenizer.to_str())


@pytest.fixture(scope="module")
def bert(rampart: Path) -> Tokenizer:
    """Return the default model's tokenizer."""
    return load_tokenizer(rampart)


def whole(tokenizer: Tokenizer, text: str) -> Tokens:
    """Return the library's tokens of the whole text."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


def nothing() -> None:
    """Let the work go on."""


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give pieces other sizes."""

    def change(piece: int = 8_192, window: int = 32_768, large: int = 32_768, unsure: int = 64) -> None:
        monkeypatch.setattr(pieces, "_PIECE", piece)
        monkeypatch.setattr(pieces, "_WINDOW", window)
        monkeypatch.setattr(pieces, "_LARGE_PIECE", large)
        monkeypatch.setattr(pieces, "_UNSURE", unsure)

    return change


def assert_as_the_whole(tokenizer: Tokenizer, ours: SeparateWords, text: str) -> None:
    """All tokens, and those of either end, are those of the whole text."""
    ids, offsets = whole(tokenizer, text)
    assert ours.first_tokens(text, MANY, nothing) == (ids, offsets), ascii(text)
    assert ours.last_tokens(text, MANY, nothing) == (ids, offsets), ascii(text)
    for enough in (1, 3, len(ids) // 2, len(ids)):
        first_ids, first_offsets = ours.first_tokens(text, enough, nothing)
        n = len(first_ids)
        assert n >= min(enough, len(ids))
        assert (first_ids, first_offsets) == (ids[:n], offsets[:n]), ascii(text)
        last_ids, last_offsets = ours.last_tokens(text, enough, nothing)
        n = len(last_ids)
        assert n >= min(enough, len(ids))
        assert (last_ids, last_offsets) == (ids[len(ids) - n :], offsets[len(ids) - n :]), ascii(text)


@pytest.mark.parametrize(("piece", "window"), [(1, 1), (1, 3), (2, 100), (7, 2), (50, 100)])
def test_pieces_of_odd_texts(bert: Tokenizer, sizes: Callable[..., None], piece: int, window: int) -> None:
    """Wherever the cuts fall: each odd part beside each other one, and all of them in any order."""
    sizes(piece, window)
    ours = SeparateWords(twin(bert))
    for left, right in itertools.product(ODD, ODD):
        text = f"ab{left}{right}cd"
        assert ours.first_tokens(text, MANY, nothing) == whole(bert, text), ascii(text)
    rng = random.Random(piece)
    for _ in range(50):
        assert_as_the_whole(bert, ours, "".join(rng.choice(ODD) for _ in range(60)))


@given(odd_texts(), st.integers(1, 12), st.integers(1, 40))
@example("[SEP", 1, 1)
@example("a[SEP]b]", 2, 1)
@settings(max_examples=500, deadline=None)
def test_pieces_of_any_text(bert: Tokenizer, text: str, piece: int, window: int) -> None:
    """Ids and offsets, from either end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_PIECE", piece)
        patch.setattr(pieces, "_WINDOW", window)
        assert_as_the_whole(bert, SeparateWords(bert), text)


def variants(bert: Tokenizer) -> list[Tokenizer]:
    """Return tokenizers of the same kind: other normalizers, other added tokens."""
    found = []
    for clean, chinese, strip, lower in itertools.product(
        (True, False), (True, False), (None, True, False), (True, False)
    ):
        one = twin(bert)
        one.normalizer = normalizers.BertNormalizer(clean, chinese, strip, lower)
        found.append(one)
    for tokens in (
        [AddedToken("anna", single_word=True, normalized=False)],
        [AddedToken("Paris", normalized=True)],
        [AddedToken("-_-", normalized=False)],
        [AddedToken("..", normalized=False), AddedToken(".", normalized=False)],
        [AddedToken("。、", normalized=False)],
        [AddedToken("ab", special=True), AddedToken("bc.d", special=True)],
    ):
        one = twin(bert)
        one.add_tokens(tokens)
        found.append(one)
    return found


def test_pieces_for_tokenizers_of_the_same_kind(bert: Tokenizer, sizes: Callable[..., None]) -> None:
    """Whatever they do to accents, capitals, controls and Chinese, and whatever tokens were added to them."""
    sizes(3, 5)
    parts = [*ODD, "-_-", "...", "。、", "abc.d", "ab", "bc.d", "anna安", "Paris京"]
    for number, tokenizer in enumerate(variants(bert)):
        assert has_separate_words(tokenizer)
        ours = SeparateWords(twin(tokenizer))
        rng = random.Random(number)
        for _ in range(60):
            assert_as_the_whole(tokenizer, ours, "".join(rng.choice(parts) for _ in range(30)))


def test_pieces_of_the_corpus(bert: Tokenizer, sizes: Callable[..., None]) -> None:
    """Real text, at the sizes that are used and at small ones."""
    text = " ".join(corpus_texts())
    for piece in (8_192, 100):
        sizes(piece)
        ours = SeparateWords(twin(bert))
        assert ours.first_tokens(text, MANY, nothing) == whole(bert, text)
        assert ours.last_tokens(text, MANY, nothing) == whole(bert, text)


@pytest.mark.parametrize(
    "content", ["New York", "New\u00a0York", "a\tb", "a\nb", "\u3000", "a安", "[X] "], ids=ascii
)
def test_added_tokens_that_hold_a_space_allow_no_pieces(bert: Tokenizer, content: str) -> None:
    """Nor those in which the normalizer makes one, which are looked for when it has."""
    tokenizer = twin(bert)
    tokenizer.add_tokens([AddedToken(content, normalized=True)])
    assert has_separate_words(bert)
    assert not has_separate_words(tokenizer)


# --- how much is read ---------------------------------------------------------------------------------


class Watched(SeparateWords):
    """Notes the pieces that it encodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.read: list[tuple[int, int]] = []

    def _encode(self, text: str, cuts: list[int]) -> list[Tokens]:
        self.read += itertools.pairwise(cuts)
        return super()._encode(text, cuts)


@pytest.mark.parametrize(
    "unit",
    ["anna lives in paris . ", "!", "a,", "東京", "あ、", "[SEP]", "a\n", "a\u3000", "。", "\U00020000"],
)
def test_no_more_is_read_than_needed(bert: Tokenizer, unit: str) -> None:
    """In texts of any script: pieces stay small, and end with what is enough."""
    text = unit * (1_000_000 // len(unit))
    ours = Watched(twin(bert))
    assert ours.all_tokens(text, 10_000, nothing) is None
    ours.first_tokens(text, 10_000, nothing)
    ours.last_tokens(text, 10_000, nothing)
    assert max(stop - start for start, stop in ours.read) < 8_300
    assert sum(stop - start for start, stop in ours.read) < 3 * 60_000
    assert (min(ours.read)[0], max(ours.read)[1]) == (0, len(text))


def test_text_without_a_place_to_cut_is_one_piece(bert: Tokenizer) -> None:
    """It is one word; that it is looked through for a place takes no time to speak of."""
    text = "a" * 300_000 + " b"
    ours = Watched(twin(bert))
    assert ours.first_tokens(text, MANY, nothing) == whole(bert, text)
    assert ours.read == [(0, 300_000), (300_000, 300_002)]
    assert ours.last_tokens(text, MANY, nothing) == whole(bert, text)


def test_nobody_waits_any_more(bert: Tokenizer) -> None:
    """What is asked between two pieces ends the work."""
    asked = itertools.count()

    def check() -> None:
        if next(asked) == 3:
            raise ClientGone("left")

    ours = Watched(twin(bert))
    for take in (ours.first_tokens, ours.last_tokens):
        ours.read.clear()
        asked = itertools.count()
        with pytest.raises(ClientGone):
            take("anna " * 100_000, MANY, check)
        assert len(ours.read) == 1 + 2 + 4


# --- any other tokenizer ------------------------------------------------------------------------------


def train(kind: str) -> Tokenizer:
    """Train a small tokenizer: BPE as RoBERTa's, as newer models', and without words; Unigram as XLM-R's."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=2_000, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        split = pre_tokenizers.Split(
            Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"
        )
        whole_text = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = {
            "bpe": pre_tokenizers.ByteLevel(add_prefix_space=True),
            "split": pre_tokenizers.Sequence([split, whole_text]),
            "whole": whole_text,
        }[kind]
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    tokenizer.train_from_iterator(corpus_texts(), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = (
        processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=True)
        if kind == "bpe"
        else processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    )
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return twin(tokenizer)  # a file rounds scores, so that equally good tokens change places


@pytest.fixture(scope="module", params=["bpe", "split", "unigram", "whole"])
def other(request: pytest.FixtureRequest) -> Tokenizer:
    """Give a tokenizer of which nothing is known."""
    return train(request.param)


LONG_TEXT = " ".join(corpus_texts())


@pytest.mark.parametrize(
    "text", [LONG_TEXT, "  ".join("x" * 50), "ab" * 3_000, "", "<mask> anna  <mask> " * 300]
)
def test_other_tokenizers_give_all_tokens_or_none(
    other: Tokenizer, sizes: Callable[..., None], text: str
) -> None:
    """The whole text's, up to the limit and no further."""
    sizes(large=500)
    ours = AnyTokenizer(twin(other), 1, 1)
    ids, offsets = other.encode(text).ids[1:-1], other.encode(text).offsets[1:-1]
    assert ours.all_tokens(text, len(ids), nothing) == (ids, offsets)
    assert ours.all_tokens(text, len(ids) - 1, nothing) is None
    assert ours.all_tokens(text, (len(ids) - 1) // 2, nothing) is None


@pytest.mark.parametrize("enough", [1, 100, 1_000, MANY])
def test_ends_of_a_text_for_other_tokenizers(
    other: Tokenizer, sizes: Callable[..., None], enough: int
) -> None:
    """What is taken of an end has the ids and offsets of the whole text there."""
    sizes(large=500)
    ours = AnyTokenizer(twin(other), 1, 1)
    ids, offsets = other.encode(LONG_TEXT).ids[1:-1], other.encode(LONG_TEXT).offsets[1:-1]
    found = ours.first_tokens(LONG_TEXT, enough, nothing)
    n = len(found[0])
    assert min(enough, len(ids)) <= n
    assert found == (ids[:n], offsets[:n])
    found = ours.last_tokens(LONG_TEXT, enough, nothing)
    n = len(found[0])
    assert min(enough, len(ids)) <= n
    assert found == (ids[-n:], offsets[-n:])
    assert n < len(ids) or enough > 100


def test_other_tokenizers_do_not_encode_what_is_far_too_long(
    other: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces are counted until they are too many; the rest is not read, and the whole text never."""
    ours = AnyTokenizer(twin(other), 1, 1)
    read: list[int] = []
    encode = ours._library.encode
    monkeypatch.setattr(
        ours._library, "encode", lambda texts, **named: read.extend(map(len, texts)) or encode(texts, **named)
    )
    text = "anna lives in paris . " * 100_000
    assert ours.all_tokens(text, 20_000, nothing) is None
    assert max(read) < 33_000
    assert sum(read) < 200_000
    read.clear()
    for take in (ours.first_tokens, ours.last_tokens):
        assert len(take(text, 500, nothing)[0]) >= 500
    assert sum(read) < 100_000


# --- behind the tokenizer -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["bert", "bpe", "unigram"])
def any_kind(request: pytest.FixtureRequest) -> Tokenizer:
    """Give a tokenizer of either sort."""
    return request.getfixturevalue("bert") if request.param == "bert" else train(request.param)


@pytest.mark.parametrize("direction", list(TruncationDirection))
def test_long_text_that_is_cut_is_the_librarys(any_kind: Tokenizer, direction: TruncationDirection) -> None:
    """Truncated from either end, as the library does it with the whole text."""
    text = LONG_TEXT * (1 + 200_000 // len(LONG_TEXT))
    library = twin(any_kind)
    library.enable_truncation(500, direction=direction.value)
    expected = library.encode(text)
    ours = TextTokenizer(twin(any_kind), 500, 10, 1_000)
    (found,) = ours.tokenize([text], truncate=True, direction=direction)
    assert (found.ids, found.offsets, found.truncated) == (expected.ids, expected.offsets, True)


def test_texts_of_all_lengths_keep_their_order(any_kind: Tokenizer) -> None:
    """Short ones in groups, long ones in pieces; each is what it is alone."""
    rng = random.Random(3)
    words = LONG_TEXT.split(" ")
    texts = [
        " ".join(rng.choices(words, k=k)) for k in (1, 8_000, 3, 0, 5_000, 2_000, 2_500, 2_500, 9_000, 1)
    ]
    ours = TextTokenizer(twin(any_kind), 64, 8, 10**6)
    for text, found in zip(texts, ours.tokenize(texts), strict=True):
        expected = any_kind.encode(text)
        assert (found.text, found.ids, found.offsets) == (text, expected.ids, expected.offsets)
        assert found.windows[0].ids == ours.tokenize([text])[0].windows[0].ids


def test_long_text_above_the_limit_names_it(any_kind: Tokenizer) -> None:
    """With its index. At the limit it is taken."""
    text = "anna " * 10_000
    n_tokens = len(any_kind.encode(text))
    ours = TextTokenizer(twin(any_kind), 500, 10, n_tokens)
    assert len(ours.tokenize([text])[0].ids) == n_tokens
    ours = TextTokenizer(twin(any_kind), 500, 10, n_tokens - 1)
    with pytest.raises(
        InvalidRequest, match=rf"inputs\[1\]: more than {n_tokens - 1} tokens, above limits.max_input"
    ):
        ours.tokenize(["anna", text])
    assert len(ours.tokenize(["anna", text], truncate=True)) == 2


@pytest.mark.parametrize("unit", [10, 10_000], ids=["short", "long"])
@pytest.mark.parametrize("truncate", [False, True])
def test_request_has_a_limit_of_its_own(any_kind: Tokenizer, unit: int, truncate: bool) -> None:
    """For all of its texts together, none of which is too long; also for what is left of them when they are cut."""
    texts = ["anna " * unit] * 7
    ours = TextTokenizer(twin(any_kind), 5_000, 10, 10**6)
    windows = [window for found in ours.tokenize(texts, truncate=truncate) for window in found.windows]
    n_tokens = sum(
        len(window.ids) for window in windows
    )  # those that windows share count in each, as in the queue
    assert len(ours.tokenize(texts, truncate=truncate, most_tokens=n_tokens)) == 7
    for most in (n_tokens - 1, n_tokens // 2, 1):
        with pytest.raises(
            InvalidRequest, match=rf"^the texts: more tokens .* limits\.max_request_tokens = {most};"
        ):
            ours.tokenize(texts, truncate=truncate, most_tokens=most)


def test_surrogates_in_a_long_text_are_refused(any_kind: Tokenizer) -> None:
    """As in a short one."""
    ours = TextTokenizer(twin(any_kind), 500, 10, 10**6)
    with pytest.raises(InvalidRequest, match="surrogate"):
        ours.tokenize(["anna " * 10_000 + "\ud800"])


@given(odd_texts(), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_runs_of_any_text(bert: Tokenizer, text: str, piece: int) -> None:
    """Run by run, they are the tokens of the whole text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_PIECE", piece)
        runs = list(SeparateWords(bert).runs(text, nothing))
    ids, offsets = whole(bert, text)
    assert [i for run, _ in runs for i in run] == ids
    assert [o for _, run in runs for o in run] == offsets


@pytest.mark.parametrize("shared", [600, 2_000])
def test_joined_runs(other: Tokenizer, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For other tokenizers pieces overlap, and are joined where both go on alike: the tokens are those of the whole."""
    ours = AnyTokenizer(other, 1, 1)
    monkeypatch.setattr(joined_runs, "PIECE", 3 * shared)
    monkeypatch.setattr(joined_runs, "SHARED", shared)
    rng = random.Random(shared)
    real = " ".join(corpus_texts())
    for text in (
        real[:30_000],
        "".join(rng.choice(ODD) for _ in range(8_000)),
        " ".join(rng.choice(ODD) for _ in range(8_000)),
        "a" * 20_000,
        "ab" * 10_000 + "c" + "ab" * 10_000,
        " " * 20_000,
        "\r\n" * 10_000,
        "東京" * 5_000,
        "1234567890" * 2_000,
        "😀" * 5_000 + "👩‍👩‍👧" * 2_000,
        "e\u0301" * 10_000,
        "שלום " * 4_000,
        "",
        real[:2_000] + "x" * 15_000 + real[:20_000],
    ):
        runs = list(ours.runs(text, nothing))
        encoding = other.encode(text)
        assert [i for run, _ in runs for i in run] == encoding.ids[1:-1], ascii(text[:40])
        assert [o for _, run in runs for o in run] == encoding.offsets[1:-1], ascii(text[:40])
        if text.startswith(real[:30_000]):
            assert len(runs) > 3
