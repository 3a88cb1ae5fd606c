"""Tokenizes a long text in overlapping pieces, for tokenizers of which nobody knows where a cut changes nothing. Pure.

Two neighbouring pieces share some thousand characters. Near a cut their tokens may differ from those of the whole text;
where a run of tokens in the middle of what they share is the same in both, the cuts have no effect there, and the
pieces are joined. A tokenizer whose tokens depend on nothing beyond a word, or some words, has such runs always. Where
there is none, as within one word without end, the piece grows, if need be to the whole text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nerve.text.pieces import Tokens

# Characters of a piece, and of what two neighbours share.
PIECE = 65_536
SHARED = 8_192
# Tokens, on either side of the place where two pieces are joined, that must be the same in both.
_ALIKE = 64
# Places where a cut changes least, for most tokenizers.
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])(?= [^\W_])")


def joined_runs(text: str, encode: Callable[[str], Tokens], check: Callable[[], None]) -> Iterator[Tokens]:
    """Yield the tokens of a text, run by run. encode: gives those of a part, offsets from its beginning on."""
    start, length = 0, PIECE
    stop = _place(text, PIECE)
    ids, offsets = encode(text[:stop])
    done = 0  # tokens of this piece that were given
    while stop < len(text):
        check()
        following = _place(text, stop - SHARED)
        following_stop = _place(text, following + PIECE)
        next_ids, next_offsets = encode(text[following:following_stop])
        joint = _joint((ids, offsets), start, (next_ids, next_offsets), following, (following + stop) // 2)
        if joint is None:
            length *= 2
            stop = _place(text, start + length)
            ids, offsets = encode(text[start:stop])
            continue
        end, begin = joint
        yield _moved(ids[done:end], offsets[done:end], start)
        start, length, stop, done = following, PIECE, following_stop, begin
        ids, offsets = next_ids, next_offsets
    check()
    yield _moved(ids[done:], offsets[done:], start)


def _place(text: str, low: int) -> int:
    """Return where to cut from `low` on: between two words where they are near."""
    if low >= len(text):
        return len(text)
    found = _BETWEEN_WORDS.search(text, low, low + SHARED // 4)
    return low if found is None else found.start()


def _joint(
    left: Tokens, left_start: int, right: Tokens, right_start: int, middle: int
) -> tuple[int, int] | None:
    """Return the tokens, one of each piece, at which both go on alike, and did so before; None where they do not."""
    at_left = bisect_left(left[1], (middle - left_start, 0))
    at_right = bisect_left(right[1], (middle - right_start, 0))
    if at_left < _ALIKE or at_right < _ALIKE or len(left[0]) - at_left < _ALIKE:
        return None
    shift = right_start - left_start
    on_left, on_right = (slice(at - _ALIKE, at + _ALIKE) for at in (at_left, at_right))
    if left[0][on_left] != right[0][on_right]:
        return None
    moved = [(a + shift, b + shift) for a, b in right[1][on_right]]
    return (at_left, at_right) if left[1][on_left] == moved else None


def _moved(ids: list[int], offsets: list[tuple[int, int]], by: int) -> Tokens:
    return ids, [(start + by, end + by) for start, end in offsets] if by else offsets
