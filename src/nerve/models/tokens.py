"""Makes a tokenizer fit its model, and says where transformers may give other tokens and which ones the model lacks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nerve.errors import ModelError
from nerve.graph import local_windows
from nerve.models.room import reach_of
from nerve.models.vocabulary import read_vocabulary
from nerve.text.tokenizer import TextTokenizer, contradictions, follows_its_file, missing_special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from nerve.config import Config
    from nerve.models.limits import Lengths
    from nerve.text.words import Vocabulary

log = logging.getLogger(__name__)

_NAMED_TOKENS = 5  # in a message
_WRITE_ANEW = "write both anew with AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(FOLDER)"


def warn_of_tokenizer(tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """Say where transformers may give other tokens than tokenizer.json, which is used as it is."""
    if contradicted := contradictions(tokenizer, settings):
        log.warning(
            "tokenizer_config.json contradicts tokenizer.json in %s; tokenizer.json is used, where transformers may "
            "follow the other: %s",
            " and ".join(contradicted),
            _WRITE_ANEW,
        )
    if missing := missing_special_tokens(tokenizer, settings):
        log.warning(
            "tokenizer.json puts no %s around a text, though the tokenizer has these special tokens; it is used as it "
            "is, %s",
            " and no ".join(missing),
            "and so it is in transformers: see that the model was trained without them"
            if follows_its_file(settings)
            else f"where transformers' own class adds them: {_WRITE_ANEW}",
        )


def fit_tokenizer(
    raw: Tokenizer,
    settings: dict[str, Any],
    tokenizer_settings: dict[str, Any],
    config: Config,
    lengths: Lengths,
    n_words: int | None,
) -> tuple[TextTokenizer, Vocabulary]:
    """Return the tokenizer of a model, with its windows, and what grouping tokens into words needs of it.

    settings: config.json. n_words: see `limit_ids`, which may raise `ModelError`.
    """
    tokenizer = TextTokenizer(
        raw,
        lengths.window_tokens,
        config.runtime.window_stride,
        config.limits.most_input_tokens,
        lengths.max_length,
        reach_of(local_windows(settings)),
    )
    vocabulary = read_vocabulary(raw, tokenizer_settings, tokenizer.special_tokens)
    limit_ids(tokenizer, vocabulary, n_words)
    return tokenizer, vocabulary


def limit_ids(tokenizer: TextTokenizer, vocabulary: Vocabulary, n_words: int | None) -> None:
    """Refuse tokens that the model has no row for; raise `ModelError` where no text could do without them."""
    if n_words is None:
        return
    tokenizer.limit_ids(n_words)
    foreign = tokenizer.foreign_tokens
    if not foreign:
        return
    named = ", ".join(f"{foreign[token]!r} ({token})" for token in sorted(foreign)[:_NAMED_TOKENS])
    more = f" and {len(foreign) - _NAMED_TOKENS} more" if len(foreign) > _NAMED_TOKENS else ""
    message = f"the model has rows for {n_words} tokens, but its tokenizer has {named}{more} beyond them"
    if foreign.keys() & {*vocabulary.special_tokens, vocabulary.unk_id}:
        raise ModelError(
            f"{message}, which every text may need; the two belong to different models: fetch the checkpoint again"
        )
    log.warning("%s: a request with one of these tokens is refused (422), others are served", message)
