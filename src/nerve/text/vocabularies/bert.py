"""Vocabularies of BERT and its kin: vocab.txt, one token a line, its id the number of the line; WordPiece.

As transformers' BertTokenizer, MPNetTokenizer and FunnelTokenizer. Text is lower-cased where nothing says otherwise,
accents go where capitals do, and Chinese characters stand alone; `never_split` and `do_basic_tokenize` count for
transformers' slow tokenizers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from nerve.text.vocabularies.ends import surround_roberta

if TYPE_CHECKING:
    from tokenizers import AddedToken

    from nerve.text.vocabularies.files import VocabularyFiles

FILE = "vocab.txt"
USUAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
USUAL_MPNET = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "[UNK]",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": {"content": "<mask>", "lstrip": True},
}
USUAL_FUNNEL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "<sep>",
    "pad_token": "<pad>",
    "cls_token": "<cls>",
    "mask_token": "<mask>",
}


def make(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return the tokenizer; it has no symbols. Raises `ValueError` for a vocabulary without the unknown token."""
    unknown = files.tokens.text("unk_token")
    vocabulary = models.WordPiece.read_file(str(files.folder / FILE))
    if unknown not in vocabulary:
        raise ValueError(f"there is no {unknown} for words that are not in it")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=files.flag("tokenize_chinese_chars", True),
        strip_accents=files.settings.get("strip_accents"),
        lowercase=files.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, []


def finish_mpnet(tokenizer: Tokenizer, files: VocabularyFiles) -> None:
    """Put <s> and </s> around a text, and trim offsets as RoBERTa does."""
    surround_roberta(tokenizer, files, trim_offsets=True, add_prefix_space=False)
