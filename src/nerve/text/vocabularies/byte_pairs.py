"""Vocabularies of GPT-2's kind: vocab.json (token -> id) and merges.txt (two parts a line, in order); bytes in pairs.

As transformers' RobertaTokenizer, DebertaTokenizer, GPT2Tokenizer, GPTNeoXTokenizer and Qwen2Tokenizer; and
HerbertTokenizer, which has words in the place of bytes. A line that begins with `#version` is none of the merges.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from nerve.text.vocabularies.ends import surround_roberta

if TYPE_CHECKING:
    from tokenizers import AddedToken

    from nerve.text.vocabularies.files import VocabularyFiles

VOCABULARY = "vocab.json"
MERGES = "merges.txt"
USUAL_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
USUAL_DEBERTA = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
USUAL_GPT2 = {
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}
USUAL_GPT_NEOX = {**USUAL_GPT2, "pad_token": "<|padding|>"}
USUAL_QWEN2 = {
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
USUAL_HERBERT = {
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
# Words of Qwen2's texts (tokenization_qwen2.py of transformers).
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return the tokenizer; it has no symbols. Raises `ValueError` or `TypeError` for files of another form."""
    return _over_bytes(files), []


def make_gpt_neox(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return the tokenizer, which composes characters (NFC); otherwise as `make`."""
    tokenizer = _over_bytes(files)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer, []


def make_qwen2(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return the tokenizer, which composes characters and has words of its own; otherwise as `make`."""
    tokenizer = _over_bytes(files)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=_adds_space(files), use_regex=False),
        ]
    )
    return tokenizer, []


def make_herbert(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return the tokenizer; it has no symbols. Raises `ValueError` for a vocabulary without the unknown token."""
    unknown = files.tokens.text("unk_token")
    vocabulary, merges = _read(files)
    if unknown not in vocabulary:
        raise ValueError(f"there is no {unknown} for words that are not in it")
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, []


def finish_roberta(tokenizer: Tokenizer, files: VocabularyFiles) -> None:
    """Put <s> and </s> around a text, and take spaces out of the offsets unless told otherwise."""
    trim_offsets = files.flag("trim_offsets", True)
    surround_roberta(tokenizer, files, trim_offsets=trim_offsets, add_prefix_space=_adds_space(files))


def _adds_space(files: VocabularyFiles) -> bool:
    return files.flag("add_prefix_space", False)


def _over_bytes(files: VocabularyFiles) -> Tokenizer:
    vocabulary, merges = _read(files)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_adds_space(files))
    return tokenizer


def _read(files: VocabularyFiles) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges in their order."""
    vocabulary: dict[str, int] = json.loads((files.folder / VOCABULARY).read_text(encoding="utf-8"))
    lines = (files.folder / MERGES).read_text(encoding="utf-8").split("\n")
    merges = []
    for number, line in enumerate((line.removesuffix("\r") for line in lines), 1):
        if not line or line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise ValueError(f"line {number} of {MERGES} has {len(parts)} parts, not two")
        merges.append((parts[0], parts[1]))
    return vocabulary, merges
