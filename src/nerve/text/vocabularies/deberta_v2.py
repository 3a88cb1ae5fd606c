"""DeBERTa-v2 and v3: a model of sentencepiece over whole texts, so that a word may have the space before it.

As the DebertaV2Tokenizer of transformers 4: with the model's own table of characters (NFKC), which transformers 5
drops. The tokenizer.json files of these checkpoints, and their training, have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from nerve.text.vocabularies.sentencepiece import SPACE, charsmap, make_model, symbols_of
from nerve.text.vocabularies.sentencepiece_model import read_model

if TYPE_CHECKING:
    from tokenizers import AddedToken

    from nerve.text.vocabularies.files import VocabularyFiles

FILE = "spm.model"
USUAL = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def make(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return the tokenizer and its symbols."""
    source = read_model(files.folder / FILE)
    tokenizer = Tokenizer(make_model(files, source, source.pieces, source.unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Lowercase()] if files.flag("do_lower_case", False) else []),
            normalizers.Strip(),
            *charsmap(source),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    scheme = "always" if files.flag("add_prefix_space", True) else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *([pre_tokenizers.Punctuation("isolated")] if files.flag("split_by_punct", False) else []),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme),
        ]
    )
    return tokenizer, symbols_of(source)
