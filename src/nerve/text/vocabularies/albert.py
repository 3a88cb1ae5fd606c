"""ALBERT, RemBERT, BigBird and XLNet: a model of sentencepiece after rules for quotes, accents and capitals.

As transformers' AlbertTokenizer, RemBertTokenizer, BigBirdTokenizer and XLNetTokenizer. Where transformers 5 drops a
part of the model (BigBird's and RemBERT's table of characters or their unknown piece), the model wins, as in
transformers 4 and in the tokenizer.json files of these checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, normalizers

from nerve.text.vocabularies.ends import surround
from nerve.text.vocabularies.sentencepiece import charsmap, make_model, symbols_of, words
from nerve.text.vocabularies.sentencepiece_model import read_model

if TYPE_CHECKING:
    from tokenizers import AddedToken

    from nerve.text.vocabularies.files import VocabularyFiles

FILE = "spiece.model"
FILE_REMBERT = "sentencepiece.model"
USUAL = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
USUAL_BIG_BIRD = {
    **USUAL,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": {"content": "[MASK]", "lstrip": True},
}
USUAL_XLNET = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "<sep>",
    "pad_token": "<pad>",
    "cls_token": "<cls>",
    "mask_token": {"content": "<mask>", "lstrip": True},
}

_QUOTES: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]


def make(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return ALBERT's tokenizer and its symbols; lower case and no accents unless told otherwise."""
    return _assemble(files, FILE, _QUOTES + _rules(files, lower=True, keep_accents=False))


def make_rembert(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return RemBERT's tokenizer and its symbols; capitals and accents stay unless told otherwise."""
    quotes_and_spaces = [*_QUOTES, normalizers.Replace(Regex(" {2,}"), " ")]
    return _assemble(files, FILE_REMBERT, quotes_and_spaces + _rules(files, lower=False, keep_accents=True))


def make_xlnet(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return XLNet's tokenizer and its symbols; capitals stay and accents go unless told otherwise."""
    return _assemble(files, FILE, _QUOTES + _rules(files, lower=False, keep_accents=False))


def make_big_bird(files: VocabularyFiles) -> tuple[Tokenizer, list[AddedToken]]:
    """Return BigBird's tokenizer and its symbols."""
    return _assemble(files, FILE, [])


def finish_xlnet(tokenizer: Tokenizer, files: VocabularyFiles) -> None:
    """Put <sep> and <cls> after a text."""
    surround(tokenizer, [], [files.tokens.text("sep_token"), files.tokens.text("cls_token")])


def _rules(files: VocabularyFiles, *, lower: bool, keep_accents: bool) -> list[normalizers.Normalizer]:
    rules: list[normalizers.Normalizer] = []
    if not files.flag("keep_accents", keep_accents):
        rules += [normalizers.NFKD(), normalizers.StripAccents()]
    if files.flag("do_lower_case", lower):
        rules.append(normalizers.Lowercase())
    return rules


def _assemble(
    files: VocabularyFiles, name: str, rules: list[normalizers.Normalizer]
) -> tuple[Tokenizer, list[AddedToken]]:
    source = read_model(files.folder / name)
    tokenizer = Tokenizer(make_model(files, source, source.pieces, source.unknown))
    if rules := [*rules, *charsmap(source)]:
        tokenizer.normalizer = normalizers.Sequence(rules)
    tokenizer.pre_tokenizer = words(files)
    return tokenizer, symbols_of(source)
