from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from corpus import texts as corpus_texts
from nerve.errors import InvalidRequest, ModelError
from nerve.text.tokenizer import TextTokenizer, contradictions, load_tokenizer
from nerve.text.word_cache import WordCache, has_separate_words
from nerve.types import TokenizedText, TruncationDirection

CORPUS = [
    "Anna Schmidt lives in Paris and sees Bob.",
    "naïve café, Ünïcödé; 你好，世界 😀👩‍👩‍👧 שלום العربية e\u0301 \u200b\u200d",
    "def f(x): return {'a': 1}  # comment\n\t<b>html</b>",
]
ODD_TEXTS = [
    "",
    " \t\r\n\u00a0\u3000",
    "a",
    "\x00\x01",
    "😀👩‍👩‍👧🏽",
    "你好，世界",
    "שלום עולם",
    "مرحبا بالعالم",
    "e\u0301\u0327 a\u0308",
    "\u200b\u200d\ufeff",
    "ﬁ ½ Ａｎｎａ",
    "x" * 5000,
    "anna [SEP] paris [CLS] [PAD] [UNK] [MASK]",
    "<s> anna </s> <pad> <unk>",
    "\U0010ffff\ufffe",
]


def train(kind: str) -> Tokenizer:
    """Train a small tokenizer as RoBERTa (byte-level BPE) or XLM-R (Unigram) has it."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram", "rampart"])
def tokenizer_json(request: pytest.FixtureRequest, lookup_model: Path) -> str:
    """Give a tokenizer as the JSON of its file."""
    if request.param == "wordpiece":
        return load_tokenizer(lookup_model).to_str()
    if request.param == "rampart":
        return load_tokenizer(request.getfixturevalue("rampart")).to_str()
    return train(request.param).to_str()


def text_of(n_tokens: int, library: Tokenizer) -> str:
    """Write a text that has exactly `n_tokens` tokens, special tokens included."""
    rng = random.Random(n_tokens)
    text = "".join(rng.choice([" anna", " in", " Paris", ",", " x"]) for _ in range(n_tokens))
    start, _ = library.encode(text).offsets[n_tokens - 4]
    text = text[: text.rindex(" ", 0, start + 1)]
    while (missing := n_tokens - len(library.encode(text).ids)) > 0:
        text += " x" if missing > 1 else ","
    while len(library.encode(text).ids) > n_tokens:
        text = text[:-1]
    assert len(library.encode(text).ids) == n_tokens
    return text


def encode(
    tokenizer_json: str,
    text: str,
    max_length: int = 16,
    stride: int = 4,
    truncate: bool = False,
    direction: TruncationDirection = TruncationDirection.RIGHT,
) -> TokenizedText:
    """Tokenize one text with `nerve`."""
    ours = TextTokenizer(Tokenizer.from_str(tokenizer_json), max_length, stride, 10**6)
    (result,) = ours.tokenize([text], truncate, direction)
    return result


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_text_that_fits_is_the_librarys_encoding(tokenizer_json: str, text: str) -> None:
    """Ids and offsets are the library's; offsets are code points inside the text; one window holds all."""
    library = Tokenizer.from_str(tokenizer_json)
    library.no_truncation()
    library.no_padding()
    expected = library.encode(text)
    found = encode(tokenizer_json, text, max_length=10_000)
    assert found.ids == expected.ids
    assert found.offsets == expected.offsets
    assert all(0 <= start <= end <= len(text) for start, end in found.offsets)
    (window,) = found.windows
    assert (window.ids, window.start, found.truncated) == (found.ids, 0, False)
    assert found.offsets[: found.n_prefix] == [(0, 0)] * found.n_prefix


@pytest.mark.parametrize("n_tokens", [16, 17, 31, 500])
@pytest.mark.parametrize("direction", list(TruncationDirection))
def test_truncation_is_the_librarys(
    tokenizer_json: str, n_tokens: int, direction: TruncationDirection
) -> None:
    """A cut text has the ids and offsets the library gives when it truncates, from either end."""
    library = Tokenizer.from_str(tokenizer_json)
    library.no_padding()
    library.no_truncation()
    text = text_of(n_tokens, library)
    library.enable_truncation(16, direction=direction.value)
    expected = library.encode(text)
    found = encode(tokenizer_json, text, truncate=True, direction=direction)
    assert found.ids == expected.ids
    assert found.offsets == expected.offsets
    assert found.truncated is (n_tokens > 16)
    assert [window.ids for window in found.windows] == [found.ids]


@pytest.mark.parametrize("n_tokens", [16, 17, 30, 31, 500, 10_000])
@pytest.mark.parametrize("stride", [0, 4, 13])
def test_windows_are_the_librarys_overflow(tokenizer_json: str, n_tokens: int, stride: int) -> None:
    """The windows of a long text have the ids of the library's overflow with the same stride."""
    library = Tokenizer.from_str(tokenizer_json)
    library.no_padding()
    library.no_truncation()
    text = text_of(n_tokens, library)
    found = encode(tokenizer_json, text, stride=stride)
    assert len(found.ids) == n_tokens
    assert found.ids == library.encode(text).ids
    library.enable_truncation(16, stride=stride)
    first = library.encode(text)
    assert [window.ids for window in found.windows] == [part.ids for part in (first, *first.overflowing)]
    assert not found.truncated


def test_truncation_and_padding_of_the_file_are_ignored(lookup_model: Path) -> None:
    """What tokenizer.json says of truncation and padding does not lose or add a token."""
    library = load_tokenizer(lookup_model)
    library.enable_truncation(4)
    library.enable_padding(length=12)
    assert (
        encode(library.to_str(), "anna x x x x x").ids
        == encode(load_tokenizer(lookup_model).to_str(), "anna x x x x x").ids
    )


def test_texts_of_a_request_do_not_touch_each_other(lookup_model: Path) -> None:
    """A text in a list is tokenized as if it came alone."""
    source = load_tokenizer(lookup_model).to_str()
    ours = TextTokenizer(Tokenizer.from_str(source), 16, 4, 10**6)
    assert ours.tokenize(ODD_TEXTS) == [encode(source, text) for text in ODD_TEXTS]
    assert ours.tokenize([]) == []


def test_special_tokens_of_a_text_are_its_ends(lookup_model: Path) -> None:
    """A special token's text inside a text is text: only the ends are special."""
    source = load_tokenizer(lookup_model)
    source.add_special_tokens(["[SEP]"])
    ours = TextTokenizer(source, 16, 4, 10**6)
    (found,) = ours.tokenize(["anna [SEP] paris"])
    assert found.ids.count(3) == 2
    assert found.offsets[2] == (5, 10)
    assert (found.n_prefix, found.n_suffix) == (1, 1)
    assert ours.special_tokens == {2: "[CLS]", 3: "[SEP]"}


@pytest.mark.parametrize(("n_tokens", "limit"), [(10, 9), (100, 99)])
def test_max_input_tokens_is_a_limit_of_what_is_not_truncated(
    lookup_model: Path, n_tokens: int, limit: int
) -> None:
    """A text above the limit is refused by its index, whether or not it fits one window; cut, it is taken."""
    library = load_tokenizer(lookup_model)
    text = text_of(n_tokens, library)
    ours = TextTokenizer(library, 16, 4, limit)
    with pytest.raises(
        InvalidRequest, match=rf"inputs\[1\]: {n_tokens} tokens, .*max_input_tokens = {limit}"
    ):
        ours.tokenize(["x", text])
    assert len(ours.tokenize(["x", text], truncate=True)) == 2
    assert TextTokenizer(library, 16, 4, n_tokens).tokenize([text])


def test_lone_surrogates_are_refused(lookup_model: Path) -> None:
    """A string that is not Unicode, possible from Python only, is the caller's mistake."""
    with pytest.raises(InvalidRequest, match="surrogate"):
        encode(load_tokenizer(lookup_model).to_str(), "a\ud800b")


@pytest.mark.parametrize(
    "made",
    [
        models.WordLevel({"a": 0}, unk_token="?"),
        models.WordPiece({"a": 0}, unk_token="?"),
        models.BPE({"a": 0}, [], unk_token="?"),
        models.Unigram([("a", 0.0)]),
    ],
)
def test_no_token_for_the_unknown_is_refused_at_start(tmp_path: Path, made: Any) -> None:
    """The library fails on the first word that it does not know, and so does transformers."""
    Tokenizer(made).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"tokenizer\.json fails on what is not in its vocabulary \(.*unk"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("max_length", "stride"), [(3, 0), (16, 7), (257, 127), (258, 128), (512, 128)])
def test_stride_by_default(lookup_model: Path, max_length: int, stride: int) -> None:
    """A short window shares half of its tokens, so that a model with 128 positions needs no setting."""
    text = "anna " * 1000
    found = TextTokenizer(load_tokenizer(lookup_model), max_length, None, 2000).tokenize([text])[0].windows
    assert found[1].start == max_length - 2 - stride


@pytest.mark.parametrize(("max_length", "stride"), [(16, 14), (16, 500), (3, 1)])
def test_stride_must_be_shorter_than_a_window(lookup_model: Path, max_length: int, stride: int) -> None:
    """A stride that leaves no progress is refused at start; the library would panic at the first long text."""
    with pytest.raises(ModelError, match=r"runtime\.window_stride is .* set window_stride below"):
        TextTokenizer(load_tokenizer(lookup_model), max_length, stride, 100)


@pytest.mark.parametrize("max_length", [2, 1])
def test_a_window_must_hold_more_than_special_tokens(lookup_model: Path, max_length: int) -> None:
    """A length that leaves no room is refused at start, and not with advice about the stride that cannot help."""
    with pytest.raises(ModelError, match=r"a window of \d tokens .* raise runtime\.window_tokens"):
        TextTokenizer(load_tokenizer(lookup_model), max_length, 0, 100)


def test_special_tokens_inside_a_text_are_refused(lookup_model: Path) -> None:
    """A tokenizer that gives nothing but special tokens cannot be windowed."""
    tokenizer = load_tokenizer(lookup_model)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    with pytest.raises(ModelError, match="special tokens"):
        TextTokenizer(tokenizer, 16, 4, 100)


@pytest.mark.parametrize(
    "content", [None, "", "{}", "not json", '{"version": "1.0", "model": {"type": "X"}}']
)
def test_broken_tokenizer_file_is_refused(tmp_path: Path, content: str | None) -> None:
    """A tokenizer.json that is missing or cannot be read is named."""
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_offsets_of_a_long_text_are_those_of_the_library(rampart: Path) -> None:
    """Beyond some thousand tokens offsets are asked for one by one; they are the same."""
    text = "Ich heiße Ana\u0301 😀 [SEP] 李雷, lives in 東京. " * 500
    library = Tokenizer.from_file(str(rampart / "tokenizer.json"))
    ours = TextTokenizer(library, 512, 128, max_input_tokens=100_000).tokenize([text])[0]
    assert len(ours.ids) > 4096
    assert ours.offsets == library.encode(text).offsets


@pytest.fixture(scope="module")
def rampart_tokenizer(rampart: Path) -> Tokenizer:
    """Return the default model's tokenizer, as the library has it."""
    return load_tokenizer(rampart)


def assert_as_the_library(tokenizer: Tokenizer, cached: TextTokenizer, text: str) -> None:
    """Ids and offsets of a text are the library's for the whole text."""
    encoding = tokenizer.encode(text)
    (found,) = cached.tokenize([text], beside_others=False)
    assert (found.ids, found.offsets) == (encoding.ids, encoding.offsets), repr(text)


def test_word_cache_gives_what_the_library_gives(rampart_tokenizer: Tokenizer) -> None:
    """Over the whole corpus, odd texts included, with cold words and with known ones."""
    cached = TextTokenizer(load_twin(rampart_tokenizer), 512, 128, 10**6)
    texts = [*corpus_texts(), *ODD_TEXTS, *(f"{a} {b}" for a in ODD_TEXTS for b in ODD_TEXTS)]
    for _ in range(3):
        for text in texts:
            if len(text) <= 20_000:
                assert_as_the_library(rampart_tokenizer, cached, text)


@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.sampled_from(
                [" ", "  ", "[MASK]", "[mask]", "[CLS", "\u0301", "e\u0301", "\u00a0", "\t", "\u2028", "ﬁ"]
            ),
            st.text(st.characters(categories=["Mn", "Mc", "Cf", "Zs", "Cc", "Lo"]), max_size=5),
        ),
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_word_cache_on_any_text(rampart_tokenizer: Tokenizer, parts: list[str]) -> None:
    """Whatever stands beside a space: marks, special tokens, other kinds of space, unassigned code points."""
    text = "".join(parts)
    if any("\ud800" <= character <= "\udfff" for character in text):
        return
    cached = TextTokenizer(load_twin(rampart_tokenizer), 512, 128, 10**6)
    for variant in (text, text + " " + text, " " + text):
        assert_as_the_library(rampart_tokenizer, cached, variant)
        assert_as_the_library(rampart_tokenizer, cached, variant)


def load_twin(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer of its own: `TextTokenizer` changes the one it is given."""
    return Tokenizer.from_str(tokenizer.to_str())


def test_word_cache_forgets_what_is_not_used(
    rampart_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: two generations, of which what is used again survives; long pieces are not kept."""
    monkeypatch.setattr("nerve.text.word_cache._GENERATION", 100)
    cache = WordCache(rampart_tokenizer, [], [])
    for number in range(1000):
        cache.encode(f"often w{number} {'x' * 40}")
    assert len(cache._young) <= 100
    assert len(cache._old) <= 100
    assert "often" in cache._young
    assert "w999" in cache._young
    assert "w1" not in {*cache._young, *cache._old}
    assert max(map(len, {*cache._young, *cache._old})) <= 32


def test_texts_of_one_request_come_from_the_word_cache_too(rampart_tokenizer: Tokenizer) -> None:
    """Those whose words are known; the library gets the others. All are the library's, in their order."""
    cached = TextTokenizer(load_twin(rampart_tokenizer), 512, 128, 10**6)
    strange = [" ".join(f"{number}x{word}" for word in range(40)) for number in range(3)]
    texts = [strange[0], *ODD_TEXTS, strange[1], *corpus_texts()[:40], strange[2]]
    expected = [(one.ids, one.offsets) for one in rampart_tokenizer.encode_batch(texts)]
    for _ in range(2):
        assert [(one.ids, one.offsets) for one in cached.tokenize(texts)] == expected


def test_word_cache_may_learn_more_of_a_longer_text(rampart_tokenizer: Tokenizer) -> None:
    """As long as that is quicker than the library on the whole text."""
    cache = WordCache(rampart_tokenizer, [], [])
    cache.encode("often")
    few, many = (" ".join(f"{name}{number}" for number in range(6)) for name in ("few", "many"))
    assert cache.encode(few) is None
    assert cache.encode("often " * 100 + many) is not None


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_other_tokenizers_have_no_word_cache(kind: str) -> None:
    """A space belongs to the word after it there."""
    assert not has_separate_words(train(kind))


def test_added_token_over_a_space_forbids_the_word_cache(rampart_tokenizer: Tokenizer) -> None:
    """Such a token is found in the whole text only."""
    assert has_separate_words(rampart_tokenizer)
    for token in (AddedToken("New York"), AddedToken("[X]", lstrip=True), AddedToken("[X]", rstrip=True)):
        twin = load_twin(rampart_tokenizer)
        twin.add_tokens([token])
        assert not has_separate_words(twin)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"do_lower_case": False}, ["do_lower_case"]),
        ({"do_lower_case": True, "strip_accents": True, "tokenize_chinese_chars": True}, []),
        (
            {"strip_accents": False, "tokenize_chinese_chars": False},
            ["strip_accents", "tokenize_chinese_chars"],
        ),
        ({"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, []),
        ({"do_lower_case": "no", "strip_accents": None, "add_prefix_space": True}, []),
    ],
)
def test_settings_that_contradict_the_tokenizer(stated: dict[str, Any], expected: list[str]) -> None:
    """tokenizer.json wins; that tokenizer_config.json, which transformers follows, says otherwise is noticed."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert contradictions(tokenizer, stated) == expected


def test_prefix_space_that_contradicts_the_tokenizer() -> None:
    """The same for byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert contradictions(tokenizer, {"add_prefix_space": True}) == ["add_prefix_space"]
    assert contradictions(tokenizer, {"add_prefix_space": False, "do_lower_case": True}) == []
