"""Tokenizers of decoders and of T5, which few token classifiers have: tokenizer.model, or spiece.model of T5.

As transformers' LlamaTokenizer, GemmaTokenizer, T5Tokenizer, and `TokenizersBackend`, which takes a model of
sentencepiece without a class of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from nerve.text.vocabularies.ends import surround
from nerve.text.vocabularies.sentencepiece import (
    SPACE,
    charsmap,
    make_model,
    make_pairs,
    make_unigram,
    symbols_of,
    words,
)
from nerve.text.vocabularies.sentencepiece_model import Algorithm, read_model

if TYPE_CHECKING:
    from nerve.text.vocabularies.files import VocabularyFiles

FILE = "tokenizer.model"
FILE_T5 = "spiece.model"
USUAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
USUAL_GEMMA = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
USUAL_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_T5_EXTRA = 100


def make(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return the tokenizer of a model without a class, and its symbols."""
    source = read_model(files.folder / FILE)
    if source.algorithm == Algorithm.BPE:
        tokenizer = Tokenizer(
            make_pairs(source.pieces, source.unknown_piece, byte_fallback=source.byte_fallback)
        )
    else:
        tokenizer = Tokenizer(
            make_unigram(files, source.pieces, source.unknown, byte_fallback=source.byte_fallback)
        )
    tokenizer.normalizer = normalizers.Sequence([*charsmap(source), normalizers.Replace(" ", SPACE)])
    return tokenizer, symbols_of(source)


def make_llama(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return Llama's tokenizer and its symbols."""
    source = read_model(files.folder / FILE)
    tokenizer = Tokenizer(make_pairs(source.pieces, None, byte_fallback=True))
    scheme = "always" if files.flag("legacy", False) else "first"
    if not files.flag("add_prefix_space", True):
        scheme = "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    return tokenizer, symbols_of(source)


def make_gemma(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return Gemma's tokenizer and its symbols."""
    source = read_model(files.folder / FILE)
    unknown = files.tokens.text("unk_token")
    tokenizer = Tokenizer(make_pairs(source.pieces, unknown, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    return tokenizer, symbols_of(source)


def make_t5(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return T5's tokenizer and its symbols, of which the last are `<extra_id_0>`..., in falling order of ids."""
    source = read_model(files.folder / FILE_T5)
    stated = files.settings.get("extra_ids")
    n_extra = _T5_EXTRA if stated is None else int(stated)
    extra = [f"<extra_id_{number}>" for number in reversed(range(n_extra))]
    tokenizer = Tokenizer(
        make_model(files, source, source.pieces + [(text, 0.0) for text in extra], source.unknown)
    )
    if table := charsmap(source):
        tokenizer.normalizer = normalizers.Sequence(table)
    tokenizer.pre_tokenizer = words(files)
    return tokenizer, [*symbols_of(source), *(AddedToken(text, special=True) for text in extra)]


def finish_t5(tokenizer: Tokenizer, files: VocabularyFiles) -> None:
    """Put </s> after a text."""
    surround(tokenizer, [], [files.tokens.text("eos_token")])
