"""Tokenizes short texts piece by piece, from a cache of pieces that were tokenized before.

The library takes 45 us for a sentence of 35 tokens, of which most words have been seen before. For tokenizers as
BERT's, what stands between two spaces is tokenized alike wherever it stands:

    - the added tokens hold no space and take none with them, so none reaches over a space;
    - `BertNormalizer` maps characters one by one, but for the order of combining marks, which a space ends;
    - `BertPreTokenizer` ends a word at a space and drops it, and `WordPiece` sees one word at a time.

So a piece is given to the library once, alone and without special tokens, and its ids and offsets are kept. Every
piece is the library's own work: emoji, marks, control characters and whatever else included. A tokenizer of
any other kind has no cache.

Pieces are parts of what clients sent; they are kept in memory only, and only short ones (SECURITY.md).

Threads: any may call `encode`; the dicts' own operations are atomic, and a piece that is lost or learned twice does no
harm.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Pieces in each of the two generations: some 10 MB when both are full.
_GENERATION = 16_384
# Longest piece that is kept, in characters.
_LONGEST = 32
# Unknown pieces of a text with which it is still quicker than the library on the whole text: so many, and in a longer
# text one for so many characters.
_MOST_UNKNOWN = 5
_CHARACTERS = 36
# Pieces learned from a text that had more.
_LEARNED = 2

# Ids, and offsets from the beginning of the piece. Of a piece that is one token as a whole, as most are, only its id:
# it is reached by fewer steps through memory.
Piece = int | tuple[list[int], list[tuple[int, int]]]


class WordCache:
    """The pieces that one tokenizer has met. Two generations: what is used again survives the younger one."""

    def __init__(self, tokenizer: Tokenizer, prefix: list[int], suffix: list[int]) -> None:
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._suffix = suffix
        self._young: dict[str, Piece] = {}
        self._old: dict[str, Piece] = {}

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]] | None:
        """Return ids and offsets of a text, special tokens included; None where the library is quicker.

        Raises what the library raises.
        """
        young = self._young
        ids = self._prefix.copy()
        offsets = [(0, 0)] * len(ids)
        n_unknown = 0
        most_unknown = max(_MOST_UNKNOWN, len(text) // _CHARACTERS)
        position = 0
        for word in text.split(" "):
            after = position + len(word)
            piece = young.get(word)
            if piece is None and word:
                piece = self._old.get(word)
                if piece is None:
                    n_unknown += 1
                    if n_unknown > most_unknown:
                        return None
                    piece = self._learn(word)
                else:
                    self._keep(word, piece)
            if isinstance(piece, int):
                ids.append(piece)
                offsets.append((position, after))
            elif piece is not None:
                piece_ids, spans = piece
                ids += piece_ids
                for start, end in spans:  # sooner done than a comprehension is begun
                    offsets.append((position + start, position + end))
            position = after + 1
        ids += self._suffix
        offsets += [(0, 0)] * len(self._suffix)
        return ids, offsets

    def learn(self, text: str) -> None:
        """Learn a few pieces of a text that `encode` gave up."""
        left = _LEARNED
        for word in text.split(" "):
            if 0 < len(word) <= _LONGEST and word not in self._young and word not in self._old:
                self._learn(word)
                left -= 1
                if not left:
                    return

    def _learn(self, word: str) -> Piece:
        encoding = self._tokenizer.encode(word, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        piece: Piece = ids[0] if offsets == [(0, len(word))] else (ids, offsets)
        if len(word) <= _LONGEST:
            self._keep(word, piece)
        return piece

    def _keep(self, word: str, piece: Piece) -> None:
        if len(self._young) >= _GENERATION:
            self._old, self._young = self._young, {}
        self._young[word] = piece


def has_separate_words(tokenizer: Tokenizer) -> bool:
    """Tell whether what stands between two spaces is tokenized alike wherever it stands (see above)."""
    settings: dict[str, Any] = json.loads(tokenizer.to_str())
    kinds = [(settings.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not any(
        _may_hold_space(tokenizer, token) for token in settings["added_tokens"]
    )


def _may_hold_space(tokenizer: Tokenizer, token: dict[str, Any]) -> bool:
    """Tell whether an added token may take a space, or what is made one before added tokens are looked for."""
    content: str = token["content"]
    forms = (content, tokenizer.normalizer.normalize_str(content))
    return token["lstrip"] or token["rstrip"] or any(map(str.isspace, "".join(forms)))
