"""Tokenizes long texts piece by piece, so that no step takes much memory or holds the interpreter lock for long.

Until the library is done with a text it takes up to 550 bytes for each token and 170 for each character, so that some
megabytes of text take gigabytes. Whoever asks says how many tokens are enough, and the rest of the text is not read.

`SeparateWords` is for tokenizers as BERT's (`word_cache`). The pieces have exactly the tokens of the whole text,
because each cut is made

    - before white space, which ends a word, and over which no added token reaches;
    - after punctuation, which is a word of its own: what combines with characters comes after them, and stays together;
    - before a Chinese character, where the normalizer puts spaces around these.

The last two might cut an added token such as `[SEP]`; such places are passed over. Only characters that have been what
they are since Unicode 3.2 count: the library's tables are older than Python's, and it drops what they do not know.

`AnyTokenizer` is for all others. What a cut does to tokens there is not known in general, so a text is encoded whole
where its tokens are wanted at once, and in overlapping pieces (`joined_runs`) where they are wanted run by run.
But first the tokens of its pieces are counted, which differ from the whole by some tokens at each cut: what is far
above the limit is not encoded at all. A text of which one end is enough is cut between two words, well beyond that end.

Threads: any may call anything. Nothing is kept of a text.
"""

from __future__ import annotations

import contextlib
import re
import threading
import unicodedata
from array import array
from functools import cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Protocol

from nerve.text.joined_runs import joined_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tokenizers import Encoding, Tokenizer

# Real tokens, without special ones: ids and offsets.
Tokens = tuple[list[int], list[tuple[int, int]]]

# Characters from which on a text is cut, and of a piece: encoding one takes some ms. At first one is encoded, then ever
# more together, which the library does on several cores.
LONG = 16_384
_PIECE = 8_192
_MOST_PIECES = 8
# Characters of texts that are given to the library together.
_GROUP = 131_072
# The same where tokens are only counted, or an end is looked for.
_LARGE_PIECE = 32_768
# Tokens by which a cut may change the count, of tokenizers of which nothing is known; and tokens beside a cut of which
# none is used.
_UNSURE = 64
# Characters looked through in one go for a place to cut: about 1 ms.
_WINDOW = 32_768
# Characters from which on the library has one text at a time.
_GIANT = 262_144
# Tokens up to which their offsets are asked for in one go.
_MANY_TOKENS = 4096
# White space of which the library says the same, and Chinese characters: some thousand that are always assigned.
_SPACES = "\t\n\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CHINESE = "\u3400-\u4db5\u4e00-\u9fa5\U00020000-\U0002a6d6"
_ASCII_PUNCTUATION = r"!-/:-@\[-`{-~"
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])(?= [^\W_])")


class LongTexts(Protocol):
    """Tokenizes long texts. `check` is called now and then, and may raise."""

    def runs(self, text: str, check: Callable[[], None]) -> Iterator[Tokens]:
        """Yield the tokens run by run, in order: no more of the text is encoded at once than one of them needs."""

    def all_tokens(self, text: str, most: int, check: Callable[[], None]) -> Tokens | None:
        """Return all tokens; None when there are more than `most`."""

    def first_tokens(self, text: str, enough: int, check: Callable[[], None]) -> Tokens:
        """Return the tokens from the beginning on: all, or at least `enough`."""

    def last_tokens(self, text: str, enough: int, check: Callable[[], None]) -> Tokens:
        """Return the tokens up to the end: all, or at least `enough`."""


class _Library:
    """The library, which has one giant text at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def encode(self, texts: list[str], *, specials: bool) -> list[Encoding]:
        """Encode texts; other Python threads go on meanwhile."""
        is_giant = max(map(len, texts)) >= _GIANT
        with self._lock if is_giant else contextlib.nullcontext():
            return self._tokenizer.encode_batch(texts, add_special_tokens=specials)


class _Packed:
    """Tokens in 12 bytes each, where lists take 160: a text that is refused in the end takes little until then."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._bounds = array("i")  # start and end of each token in turn

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, run: Tokens) -> None:
        """Take in more tokens."""
        self._ids.extend(run[0])
        self._bounds.extend(chain.from_iterable(run[1]))

    def tokens(self) -> Tokens:
        """Return them all."""
        return self._ids.tolist(), list(zip(self._bounds[::2], self._bounds[1::2], strict=True))


class SeparateWords:
    """Long texts for a tokenizer with separate words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library = _Library(tokenizer)
        added = list(tokenizer.get_added_tokens_decoder().values())
        self._added = [token.content for token in added if len(token.content) > 1]
        places = [f"(?=[{_SPACES}])"]
        # Added tokens that depend on what is beside them, or are looked for in the normalized text, are safe at spaces.
        if not any(token.single_word or token.normalized for token in added):
            places.append(f"(?<=[{_ASCII_PUNCTUATION}{_punctuation()}])")
            if tokenizer.normalizer.handle_chinese_chars:
                places.append(f"(?=[{_CHINESE}])")
        self._place = re.compile("|".join(places))

    def runs(self, text: str, check: Callable[[], None]) -> Iterator[Tokens]:
        """See `LongTexts`."""
        stop, n_pieces = 0, 1
        while stop < len(text):
            check()
            cuts = [stop]
            while stop < len(text) and len(cuts) <= n_pieces:
                stop = self._first_place(text, stop + _PIECE, len(text))
                cuts.append(stop)
            pieces = self._encode(text, cuts)
            yield (
                list(chain.from_iterable(ids for ids, _ in pieces)),
                list(chain.from_iterable(offsets for _, offsets in pieces)),
            )
            n_pieces = min(2 * n_pieces, _MOST_PIECES)

    def all_tokens(self, text: str, most: int, check: Callable[[], None]) -> Tokens | None:
        """See `LongTexts`."""
        found = self._collect(text, most + 1, check)
        return found.tokens() if len(found) <= most else None

    def first_tokens(self, text: str, enough: int, check: Callable[[], None]) -> Tokens:
        """See `LongTexts`."""
        return self._collect(text, enough, check).tokens()

    def _collect(self, text: str, enough: int, check: Callable[[], None]) -> _Packed:
        """Return the tokens from the beginning on: all, or at least `enough`."""
        found = _Packed()
        if enough > 0:
            for run in self.runs(text, check):
                found.add(run)
                if len(found) >= enough:
                    break
        return found

    def last_tokens(self, text: str, enough: int, check: Callable[[], None]) -> Tokens:
        """See `LongTexts`."""
        pieces: list[Tokens] = []  # the last one first
        n_tokens, start, n_pieces = 0, len(text), 1
        while start > 0 and n_tokens < enough:
            check()
            cuts = [start]
            while start > 0 and len(cuts) <= n_pieces:
                start = self._start_of_last_piece(text, start)
                cuts.append(start)
            pieces += reversed(self._encode(text, cuts[::-1]))
            n_tokens = sum(len(ids) for ids, _ in pieces)
            n_pieces = min(2 * n_pieces, _MOST_PIECES)
        pieces.reverse()
        ids = list(chain.from_iterable(piece_ids for piece_ids, _ in pieces))
        return ids, list(chain.from_iterable(piece_offsets for _, piece_offsets in pieces))

    def _encode(self, text: str, cuts: list[int]) -> list[Tokens]:
        """Return the tokens of the pieces between these places."""
        encodings = self._library.encode([text[a:b] for a, b in pairwise(cuts)], specials=False)
        return [
            (encoding.ids, _moved(offsets_of(encoding), start))
            for encoding, start in zip(encodings, cuts, strict=False)
        ]

    def _first_place(self, text: str, low: int, high: int) -> int:
        """Return the first place to cut at, from `low` on; `high` where there is none before it."""
        at = low
        while at < high:
            found = self._place.search(text, at, min(high, at + _WINDOW))
            if found is None:
                at += _WINDOW
            elif self._is_free(text, found.start()):
                return found.start()
            else:
                at = found.start() + 1
        return high

    def _start_of_last_piece(self, text: str, stop: int) -> int:
        low, high = stop - _PIECE, stop
        while low > 0:
            place = self._first_place(text, low, high)
            if place < high:
                return place
            low, high = low - _WINDOW, low
        return 0

    def _is_free(self, text: str, place: int) -> bool:
        """Tell whether no added token reaches over a place."""
        return not any(
            text.find(token, max(0, place - len(token) + 1), place + len(token) - 1) >= 0
            for token in self._added
        )


class AnyTokenizer:
    """Long texts for any tokenizer; n_prefix, n_suffix: of the special tokens that it puts around a text."""

    def __init__(self, tokenizer: Tokenizer, n_prefix: int, n_suffix: int) -> None:
        self._library = _Library(tokenizer)
        self._n_prefix = n_prefix
        self._n_suffix = n_suffix

    def runs(self, text: str, check: Callable[[], None]) -> Iterator[Tokens]:
        """See `LongTexts`."""
        return joined_runs(text, self._encode, check)

    def all_tokens(self, text: str, most: int, check: Callable[[], None]) -> Tokens | None:
        """See `LongTexts`."""
        if self._has_more(text, most, check):
            return None
        check()
        (encoding,) = self._library.encode([text], specials=True)
        n_real = len(encoding) - self._n_prefix - self._n_suffix
        return self._real(encoding) if n_real <= most else None

    def first_tokens(self, text: str, enough: int, check: Callable[[], None]) -> Tokens:
        """See `LongTexts`."""
        for n in self._lengths(text, enough):
            check()
            found = _BETWEEN_WORDS.search(text, n, n + _WINDOW)
            if found is None:
                break
            ids, offsets = self._encode(text[: found.start()])
            if len(ids) >= enough + _UNSURE:
                return ids[:-_UNSURE], offsets[:-_UNSURE]
        check()
        return self._encode(text)

    def last_tokens(self, text: str, enough: int, check: Callable[[], None]) -> Tokens:
        """See `LongTexts`."""
        for n in self._lengths(text, enough):
            check()
            found = _BETWEEN_WORDS.search(text, len(text) - n, len(text) - n + _WINDOW)
            if found is None:
                break
            ids, offsets = self._encode(text[found.start() :])
            if len(ids) >= enough + _UNSURE:
                return ids[_UNSURE:], _moved(offsets[_UNSURE:], found.start())
        check()
        return self._encode(text)

    @staticmethod
    def _lengths(text: str, enough: int) -> Iterator[int]:
        """Yield lengths of an end of a text that may have enough tokens, each much longer than the one before."""
        n = max(_LARGE_PIECE, 4 * enough)
        while n < len(text):
            yield n
            n *= 4

    def _has_more(self, text: str, most: int, check: Callable[[], None]) -> bool:
        """Tell whether a text has more than `most` tokens for certain."""
        at_least = start = 0
        while start < len(text):
            check()
            stop = start + _LARGE_PIECE
            found = _BETWEEN_WORDS.search(text, stop, stop + _WINDOW)
            if found is not None:
                stop = found.start()
            (encoding,) = self._library.encode([text[start:stop]], specials=False)
            at_least += max(0, len(encoding) - _UNSURE)
            if at_least > most:
                return True
            start = stop
        return False

    def _encode(self, text: str) -> Tokens:
        return self._real(*self._library.encode([text], specials=True))

    def _real(self, encoding: Encoding) -> Tokens:
        real = slice(self._n_prefix, len(encoding) - self._n_suffix)
        return encoding.ids[real], offsets_of(encoding)[real]


def offsets_of(encoding: Encoding) -> list[tuple[int, int]]:
    """Return the offsets of all tokens.

    The library gives them in one call that holds the interpreter lock, 0.2 us a token. Of a long text they
    are asked for one by one, which takes as long in all, but lets other threads in.
    """
    if len(encoding) <= _MANY_TOKENS:
        offsets: list[tuple[int, int]] = encoding.offsets
        return offsets
    span = encoding.token_to_chars  # None for the special tokens around the text
    return [span(index) or (0, 0) for index in range(len(encoding))]


def _moved(offsets: list[tuple[int, int]], by: int) -> list[tuple[int, int]]:
    return [(start + by, end + by) for start, end in offsets] if by else offsets


@cache
def _punctuation() -> str:
    """Return the punctuation outside ASCII, for a set in a regular expression."""
    characters = map(chr, range(0x80, 0x10000))
    return re.escape("".join(filter(_is_punctuation, characters)))


def _is_punctuation(character: str) -> bool:
    """Tell whether a character is punctuation for the library, and remains it when the text is decomposed."""
    decomposition = unicodedata.decomposition(character)
    is_kept = not decomposition or decomposition.startswith("<")
    return (
        is_kept and unicodedata.ucd_3_2_0.category(character)[0] == unicodedata.category(character)[0] == "P"
    )


def groups_of(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in order: each long one alone, others together as far as they are not much."""
    group: list[str] = []
    n_characters = 0
    for text in texts:
        n_characters += len(text)
        if group and (n_characters > _GROUP or len(text) > LONG):
            yield group
            group, n_characters = [], len(text)
        group.append(text)
        if len(text) > LONG:
            yield group
            group, n_characters = [], 0
    if group:
        yield group
