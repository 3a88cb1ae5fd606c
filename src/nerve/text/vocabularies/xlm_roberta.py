"""XLM-RoBERTa and CamemBERT: a model of sentencepiece whose ids are shifted, as fairseq did.

As transformers' XLMRobertaTokenizer and CamembertTokenizer. fairseq has its own special tokens first, in the place of
the model's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, normalizers

from nerve.text.vocabularies.sentencepiece import charsmap, make_model, symbols_of, words
from nerve.text.vocabularies.sentencepiece_model import read_model

if TYPE_CHECKING:
    from tokenizers import AddedToken

    from nerve.text.vocabularies.files import VocabularyFiles
    from nerve.text.vocabularies.sentencepiece_model import SentencePieceModel

FILE = "sentencepiece.bpe.model"
USUAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
USUAL_CAMEMBERT = {**USUAL, "mask_token": {"content": "<mask>", "lstrip": True}}
_UNKNOWN = 3


def make(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return XLM-RoBERTa's tokenizer and its symbols.

    The ids: `<s> <pad> </s> <unk>`, the pieces of the model from the fourth on, `<mask>`.
    """
    source = read_model(files.folder / FILE)
    head = [files.tokens.text(role) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    return _assemble(files, source, [(text, 0.0) for text in head] + source.pieces[3:])


def make_camembert(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return CamemBERT's tokenizer and its symbols.

    The ids: five tokens of which two are in use, the pieces of the model from the second on, `<mask>`.
    """
    source = read_model(files.folder / FILE)
    head = [
        ("<s>NOTUSED", 0.0),
        (files.tokens.text("pad_token"), 0.0),
        ("</s>NOTUSED", 0.0),
        (files.tokens.text("unk_token"), 0.0),
        ("<unk>NOTUSED", -100.0),
    ]
    return _assemble(files, source, head + source.pieces[1:])


def _assemble(
    files: VocabularyFiles, source: SentencePieceModel, vocabulary: list[tuple[str, float]]
) -> tuple[Tokenizer, list[AddedToken]]:
    vocabulary.append((files.tokens.text("mask_token"), 0.0))
    tokenizer = Tokenizer(make_model(files, source, vocabulary, _UNKNOWN))
    if table := charsmap(source):
        tokenizer.normalizer = normalizers.Sequence(table)
    tokenizer.pre_tokenizer = words(files)
    return tokenizer, symbols_of(source)
