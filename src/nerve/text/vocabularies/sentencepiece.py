"""The parts that tokenizers with a model of sentencepiece share."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from nerve.text.vocabularies.sentencepiece_model import Algorithm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.text.vocabularies.files import VocabularyFiles
    from nerve.text.vocabularies.sentencepiece_model import SentencePieceModel

SPACE = "▁"


def make_model(
    files: VocabularyFiles, source: SentencePieceModel, vocabulary: list[tuple[str, float]], unknown: int
) -> models.Unigram | models.BPE:
    """Return the library's model of a vocabulary: text and score of each piece, by id.

    unknown: id of the unknown piece. A vocabulary of BPE stays one where a class of transformers 5 takes it for one of
    Unigram; transformers 4 and sentencepiece itself agree with the file.
    """
    if not 0 <= unknown < len(vocabulary):
        raise ValueError(f"its unknown piece has the id {unknown}, which no piece has")
    if source.algorithm == Algorithm.BPE:
        return make_pairs(vocabulary, unknown=vocabulary[unknown][0], byte_fallback=False)
    return make_unigram(files, vocabulary, unknown, byte_fallback=False)


def make_unigram(
    files: VocabularyFiles, vocabulary: Sequence[tuple[str, float]], unknown: int, *, byte_fallback: bool
) -> models.Unigram:
    """Return the library's Unigram; for a trial, of the pieces up to the unknown one.

    What the library objects to is a place of the unknown piece that no piece has. The tree that it makes of 250,000
    pieces takes more than a second and, for good, 0.7 GB of the process.
    """
    pieces = vocabulary[: unknown + 1] if files.is_trial and 0 <= unknown < len(vocabulary) else vocabulary
    return models.Unigram(list(pieces), unk_id=unknown, byte_fallback=byte_fallback)


def make_pairs(
    vocabulary: Sequence[tuple[str, float]], unknown: str | None, *, byte_fallback: bool
) -> models.BPE:
    """Return BPE over the pieces of sentencepiece, which lists no merges: a piece of two others is one.

    They are tried in the order of the whole pieces' ids, and the shorter left part first (`generate_merges` of
    transformers).
    """
    ids = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    merges = []
    for piece, number in ids.items():
        for cut in range(1, len(piece)):
            if piece[:cut] in ids and piece[cut:] in ids:
                merges.append((number, cut, piece))
    merges.sort(key=itemgetter(0, 1))
    return models.BPE(
        vocab=ids,
        merges=[(piece[:cut], piece[cut:]) for _, cut, piece in merges],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=byte_fallback,
    )


def symbols_of(source: SentencePieceModel) -> list[AddedToken]:
    """Return the control and user-defined symbols as tokens that are found in the text itself."""
    return [AddedToken(text, normalized=False, special=control) for text, control in source.symbols()]


def charsmap(source: SentencePieceModel) -> list[normalizers.Normalizer]:
    """Return the normaliser of the model's own table; none where it has no table."""
    return [normalizers.Precompiled(source.charsmap)] if source.charsmap else []


def words(files: VocabularyFiles) -> pre_tokenizers.PreTokenizer:
    """Return the rule that white space separates words, and that each begins with `▁`."""
    scheme = "always" if files.flag("add_prefix_space", True) else "never"
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme),
        ]
    )
