"""Turns texts into token ids, offsets and windows, with a tokenizer of the library `tokenizers`.

A text is tokenized once; truncation and windows are cut here, from the ids, which gives the same ids as truncating in
the library and lets a window start anywhere. A long text is tokenized piece by piece (`pieces`).

Tokenizers as BERT's do without the library where the words are known (`word_cache`).

Threads: `encode` of the library holds the interpreter lock, `encode_batch` releases it and spreads texts over
threads of its own. For a few short texts `encode` is quicker: there is no lock to win back.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from nerve.errors import InvalidRequest, ModelError
from nerve.text.pieces import LONG, AnyTokenizer, LongTexts, SeparateWords, Tokens, groups_of, offsets_of
from nerve.text.sections import cut_sections
from nerve.text.windows import plan_windows
from nerve.text.word_cache import WordCache, has_separate_words
from nerve.types import Section, TokenizedText, TruncationDirection, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_STRIDE = 128

# Keys of tokenizer_config.json that most tokenizer classes of transformers put over what tokenizer.json says, as
# (part, attribute) there; and the classes that take tokenizer.json as it is.
_OVERRIDES = {
    "do_lower_case": ("normalizer", "lowercase"),
    "strip_accents": ("normalizer", "strip_accents"),
    "tokenize_chinese_chars": ("normalizer", "handle_chinese_chars"),
    "add_prefix_space": ("pre_tokenizer", "add_prefix_space"),
}
_FAITHFUL_CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
# Keys that name a token which transformers' classes put around a text: always, or where another key says so.
_NAMED = ("cls_token", "sep_token")
_NAMED_IF = {"bos_token": "add_bos_token", "eos_token": "add_eos_token"}
# Those of classes whose files name none at all.
_USUAL_PAIRS = (("[CLS]", "[SEP]"), ("<s>", "</s>"))
# Texts of one token at least, for most tokenizers; after them tokens of the vocabulary are tried.
_PROBES = ("warm up", "a", "A", "1", ".", "中", "가")
_MOST_PROBES = 1000
# Characters that few vocabularies have.
_RARE = "zqxj \ua66e \ue000 \U00010348"


class TextTokenizer:
    """A tokenizer together with the window it cuts for.

    max_length: most tokens of a window, special tokens included. cut: tokens at which `truncate` cuts, likewise; None
        for `max_length`.
    stride: tokens that neighbouring windows share; None for 128, or half a window where that is less.
    reach: how far to each side an answer depends on other tokens, where that has an end: then twice that is the stride
        by default, so that every token is answered as in the whole text.
    max_input_tokens: most tokens of a text that is not truncated.
    some_ids: the ids of some short text, special tokens included; at least one.
    foreign_tokens: those that the model has no row for, as `limit_ids` was told: id -> token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        stride: int | None,
        max_input_tokens: int,
        cut: int | None = None,
        reach: int | None = None,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._prefix, self._suffix, self.some_ids = _special_tokens_around(tokenizer)
        separate = has_separate_words(tokenizer)
        self._words = WordCache(tokenizer, self._prefix, self._suffix) if separate else None
        self._long: LongTexts = (
            SeparateWords(tokenizer)
            if separate
            else AnyTokenizer(tokenizer, len(self._prefix), len(self._suffix))
        )
        self._capacity = max_length - len(self._prefix) - len(self._suffix)
        self._most_kept = self._capacity + (0 if cut is None else cut - max_length)
        self._max_input_tokens = max_input_tokens
        self.foreign_tokens: dict[int, str] = {}
        if self._capacity < 1:
            raise ModelError(
                f"a window of {max_length} tokens leaves no room between the special tokens; raise runtime."
                "window_tokens and model.max_length, or correct what config.json or tokenizer_config.json states"
            )
        if stride is None:
            stride = min(_STRIDE if reach is None else 2 * reach, self._capacity // 2)
        self._stride = stride
        if not 0 <= stride < self._capacity:
            raise ModelError(
                f"runtime.window_stride is {stride}, but a window holds {self._capacity} tokens besides "
                f"special ones; set window_stride below that"
            )

    @property
    def n_prefix(self) -> int:
        """Special tokens before each window."""
        return len(self._prefix)

    @property
    def n_suffix(self) -> int:
        """Special tokens after each window."""
        return len(self._suffix)

    def limit_ids(self, n_words: int) -> None:
        """Refuse texts with a token whose id is `n_words` or above from now on: the model has no row for it."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.foreign_tokens = {number: token for token, number in vocabulary.items() if number >= n_words}

    @property
    def special_tokens(self) -> dict[int, str]:
        """The special tokens put around every text: id -> text."""
        ids = {*self._prefix, *self._suffix}
        return {token_id: self._tokenizer.id_to_token(token_id) or "" for token_id in ids}

    def tokenize(
        self,
        texts: Sequence[str],
        truncate: bool = False,
        direction: TruncationDirection = TruncationDirection.RIGHT,
        beside_others: bool = True,
        most_tokens: int = sys.maxsize,
        check: Callable[[], None] = lambda: None,
    ) -> list[TokenizedText]:
        """Tokenize texts; any thread may call this.

        beside_others: let other Python threads go on meanwhile, and use several cores for several texts.
        most_tokens: of the windows of all texts together. check: called now and then; what it raises ends the work.
        Raises `InvalidRequest` for a text above `max_input_tokens` that is not truncated, for texts above
        `most_tokens`, for one with a token that the model has no row for, and for one that holds a lone surrogate
        (impossible over HTTP, possible from Python).
        """
        with _Explained():
            if not beside_others:
                return [
                    self._cut(index, text, *self._encode(text), truncate, direction)
                    for index, text in enumerate(texts)
                ]
            found: list[TokenizedText] = []
            n_left = most_tokens
            for group in groups_of(texts):
                check()
                index = len(found)
                if len(group[0]) > LONG:
                    text = self._tokenize_long(index, group[0], truncate, direction, n_left, check)
                    found += [text] if text is not None else []
                else:
                    found += self._tokenize_group(index, group, truncate, direction)
                n_left -= sum(len(window.ids) for text in found[index:] for window in text.windows)
                if n_left < 0 or len(found) == index:
                    raise too_many_tokens(most_tokens)
            return found

    def sections(self, index: int, text: str, check: Callable[[], None] = lambda: None) -> Iterator[Section]:
        """Yield a text of any length section by section, tokenizing it as they are asked for.

        index: of the text, for messages. check: as for `tokenize`. Raises `InvalidRequest` as `tokenize` does, but for
        no number of tokens.
        """
        windows = cut_sections(
            text, self._long.runs(text, check), self._prefix, self._suffix, self._capacity, self._stride
        )
        with _Explained():
            for section in windows:
                if self.foreign_tokens:
                    self._check_ids(index, section.tokens.ids)
                yield section

    def _tokenize_group(
        self, first: int, texts: Sequence[str], truncate: bool, direction: TruncationDirection
    ) -> list[TokenizedText]:
        """Tokenize texts that are not long; first: index of the first one."""
        words = self._words
        known = [None if words is None else words.encode(text) for text in texts]
        unknown = [text for text, tokens in zip(texts, known, strict=True) if tokens is None]
        encodings = iter(self._tokenizer.encode_batch(unknown) if unknown else ())
        found = []
        for index, (text, tokens) in enumerate(zip(texts, known, strict=True), first):
            if tokens is not None:
                found.append(self._cut(index, text, *tokens, truncate, direction))
                continue
            encoding = next(encodings)
            if not truncate:
                self._check_size(index, len(encoding))  # before a list is made of each
            found.append(self._cut(index, text, encoding.ids, offsets_of(encoding), truncate, direction))
            if words is not None:
                words.learn(text)
        return found

    def _tokenize_long(
        self,
        index: int,
        text: str,
        truncate: bool,
        direction: TruncationDirection,
        n_left: int,
        check: Callable[[], None],
    ) -> TokenizedText | None:
        """Tokenize a long text as far as it is needed; None when it has more than `n_left` tokens."""
        n_special = len(self._prefix) + len(self._suffix)
        if truncate:
            take = (
                self._long.first_tokens if direction is TruncationDirection.RIGHT else self._long.last_tokens
            )
            tokens: Tokens | None = take(text, self._most_kept + 1, check)
        else:
            most = min(self._max_input_tokens, n_left)
            tokens = self._long.all_tokens(text, most - n_special, check)
            if tokens is None and most == self._max_input_tokens:
                raise self._too_long(index, f"more than {most}")
        if tokens is None:
            return None
        ids = self._prefix + tokens[0] + self._suffix
        offsets = [(0, 0)] * len(self._prefix) + tokens[1] + [(0, 0)] * len(self._suffix)
        return self._cut(index, text, ids, offsets, truncate, direction)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and offsets of a short text."""
        words = self._words
        if words is not None and (known := words.encode(text)) is not None:
            return known
        encoding = self._tokenizer.encode(text)
        if words is not None:
            words.learn(text)
        return encoding.ids, encoding.offsets

    def _check_size(self, index: int, n_tokens: int) -> None:
        if n_tokens > self._max_input_tokens:
            raise self._too_long(index, str(n_tokens))

    def _too_long(self, index: int, n_tokens: str) -> InvalidRequest:
        limit = f"limits.max_input_tokens = {self._max_input_tokens}"
        remedy = "send it in parts, or to /predict_tokens with truncate: true"
        return InvalidRequest(f"{n_tokens} tokens, above {limit}; {remedy}", index)

    def _check_ids(self, index: int, ids: list[int]) -> None:
        found = self.foreign_tokens.keys() & set(ids)
        if found:
            raise InvalidRequest(
                f"it has a token that the tokenizer knows and the model does not (id {min(found)}); "
                "leave it out of the text",
                index,
            )

    def _cut(
        self,
        index: int,
        text: str,
        ids: list[int],
        offsets: list[tuple[int, int]],
        truncate: bool,
        direction: TruncationDirection,
    ) -> TokenizedText:
        """Truncate or window one text."""
        n_tokens = len(ids)
        if not truncate:
            self._check_size(index, n_tokens)
        n_prefix, n_suffix = len(self._prefix), len(self._suffix)
        n_real = n_tokens - n_prefix - n_suffix
        truncated = truncate and n_real > self._most_kept
        if truncated:
            first = (
                n_prefix if direction is TruncationDirection.RIGHT else n_tokens - n_suffix - self._most_kept
            )
            n_real = self._most_kept
            ids = self._prefix + ids[first : first + n_real] + self._suffix
            offsets = [(0, 0)] * n_prefix + offsets[first : first + n_real] + [(0, 0)] * n_suffix
        if self.foreign_tokens:
            self._check_ids(index, ids)
        if n_real <= self._capacity:
            return TokenizedText(text, ids, offsets, n_prefix, n_suffix, (Window(ids, 0),), truncated)
        real = ids[n_prefix : n_prefix + n_real]
        windows = tuple(
            Window(self._prefix + real[start:stop] + self._suffix, start)
            for start, stop in plan_windows(n_real, self._capacity, self._stride)
        )
        return TokenizedText(text, ids, offsets, n_prefix, n_suffix, windows, truncated)


class _Explained:
    """Turns what the library raises into errors of ours; a class, since a generator costs a microsecond more."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        if issubclass(kind, TypeError):
            raise InvalidRequest("inputs: a text is not valid Unicode (lone surrogate)") from error
        if kind.__name__ == "PanicException":  # Rust's, and not an `Exception`
            raise RuntimeError("the tokenizer panicked") from None


def too_many_tokens(most: int) -> InvalidRequest:
    """Return the error of a request whose texts have more tokens together than one may have."""
    return InvalidRequest(
        f"the texts: more tokens in all than limits.max_request_tokens = {most}; send several requests"
    )


def load_tokenizer(folder: Path, name: str = "tokenizer.json") -> Tokenizer:
    """Read a whole tokenizer of a model folder. Raises `ModelError` when it cannot be read, or fails on a rare text."""
    path = folder / name
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare `Exception`
        raise ModelError(f"{path} cannot be read by `tokenizers` ({error}); write it anew with it") from error
    try:
        tokenizer.encode(_RARE)
    except Exception as error:
        raise ModelError(
            f"{path} fails on what is not in its vocabulary ({error}); mend its unk_token, or write it anew"
        ) from error
    return tokenizer


def contradictions(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> list[str]:
    """Return the keys of tokenizer_config.json (`settings`) that say otherwise than tokenizer.json."""
    if follows_its_file(settings):
        return []
    found = []
    for key, (part, attribute) in _OVERRIDES.items():
        here = getattr(tokenizer, part)
        value = getattr(here, attribute, None)
        if value is None and key == "strip_accents":  # then accents go where capitals do
            value = getattr(here, "lowercase", None)
        if value is not None and isinstance(settings.get(key), bool) and settings[key] != value:
            found.append(key)
    return found


def missing_special_tokens(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> list[str]:
    """Return the special tokens that the tokenizer's settings name, and tokenizer.json does not put around a text.

    settings: tokenizer_config.json, over special_tokens_map.json.
    """
    wanted = {_content(settings.get(key)) for key in _NAMED}
    wanted |= {_content(settings.get(key)) for key, condition in _NAMED_IF.items() if settings.get(condition)}
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    if not any(settings.get(key) for key in (*_NAMED, *_NAMED_IF)):
        wanted.update(*(pair for pair in _USUAL_PAIRS if all(token in vocabulary for token in pair)))
    prefix, suffix, _ = _special_tokens_around(tokenizer)
    there = {*prefix, *suffix}
    return sorted(token for token in wanted if token in vocabulary and vocabulary[token] not in there)


def follows_its_file(settings: Mapping[str, Any]) -> bool:
    """Tell whether transformers, too, takes tokenizer.json as it is, whatever the settings say."""
    return settings.get("tokenizer_class") in _FAITHFUL_CLASSES


def _content(token: object) -> str:
    """Return the text of a token of the settings, which can be an AddedToken written out; empty for none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _short_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield texts that should have a token: usual ones, then some of the vocabulary."""
    yield from _PROBES
    yield from islice(tokenizer.get_vocab(with_added_tokens=False), _MOST_PROBES)


def _special_tokens_around(tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Return the ids of the special tokens before and after a text, and all ids of some short text.

    They are the same for every text: a single sequence's template has fixed ends.
    """
    for text in _short_texts(tokenizer):
        encoding = tokenizer.encode(text)
        mask: list[int] = encoding.special_tokens_mask
        if 0 in mask:
            break
    else:
        raise ModelError("tokenizer.json gives nothing but special tokens, whatever the text; write it anew")
    n_prefix = mask.index(0)
    n_suffix = mask[::-1].index(0)
    if 1 in mask[n_prefix : len(mask) - n_suffix]:
        raise ModelError("tokenizer.json puts special tokens inside a text; choose another checkpoint")
    ids: list[int] = encoding.ids
    return ids[:n_prefix], ids[len(mask) - n_suffix :], ids
