"""Puts special tokens around a text, as a kind of tokenizer does once it has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import processors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from nerve.text.vocabularies.files import VocabularyFiles


def cls_and_sep(tokenizer: Tokenizer, files: VocabularyFiles) -> None:
    """Put the tokens with the roles cls and sep before and after a text: `[CLS]` and `[SEP]` of BERT."""
    surround(tokenizer, [files.tokens.text("cls_token")], [files.tokens.text("sep_token")])


def bos_and_eos(tokenizer: Tokenizer, files: VocabularyFiles) -> None:
    """Put the tokens with the roles bos and eos before and after a text: `<s>` and `</s>` of XLM-RoBERTa."""
    surround(tokenizer, [files.tokens.text("bos_token")], [files.tokens.text("eos_token")])


def as_told(tokenizer: Tokenizer, files: VocabularyFiles) -> None:
    """Put the tokens with the roles bos and eos around a text where the settings say so, each on its own."""
    before = [files.tokens.text("bos_token")] if files.flag("add_bos_token", False) else []
    after = [files.tokens.text("eos_token")] if files.flag("add_eos_token", False) else []
    surround(tokenizer, before, after)


def surround(tokenizer: Tokenizer, before: list[str], after: list[str]) -> None:
    """Put these tokens, which the tokenizer has, around a text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(token, _id(tokenizer, token)) for token in {*before, *after}],
    )


def surround_roberta(
    tokenizer: Tokenizer, files: VocabularyFiles, *, trim_offsets: bool, add_prefix_space: bool
) -> None:
    """Put the tokens with the roles cls and sep around a text; trim_offsets: take spaces out of the offsets."""
    first, last = files.tokens.text("cls_token"), files.tokens.text("sep_token")
    tokenizer.post_processor = processors.RobertaProcessing(
        (last, _id(tokenizer, last)),
        (first, _id(tokenizer, first)),
        trim_offsets=trim_offsets,
        add_prefix_space=add_prefix_space,
    )


def _id(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:  # an empty string: the library adds no such token
        raise ValueError(f"the token {token!r} cannot stand beside a text")
    return number
