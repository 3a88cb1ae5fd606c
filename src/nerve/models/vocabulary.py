"""What grouping tokens into words needs to know of a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.text.words import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Unknown tokens of transformers' classes.
_USUAL_UNKNOWN = ("<unk>", "[UNK]")


def read_vocabulary(
    tokenizer: Tokenizer, tokenizer_settings: dict[str, Any], special_tokens: dict[int, str]
) -> Vocabulary:
    """Collect the facts of a tokenizer that grouping tokens into words needs.

    tokenizer_settings: tokenizer_config.json, over special_tokens_map.json.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int64)  # (V,)
    for token, token_id in vocabulary.items():
        lengths[token_id] = len(token)
    unknown = tokenizer_settings.get("unk_token") or getattr(tokenizer.model, "unk_token", None)
    if isinstance(unknown, dict):  # an AddedToken written out
        unknown = unknown.get("content")
    if unknown is None:  # of Unigram the library tells none; transformers' classes have one of these
        unknown = next((token for token in _USUAL_UNKNOWN if token in vocabulary), None)
    return Vocabulary(
        token_lengths=lengths,
        is_word_aware=bool(getattr(tokenizer.model, "continuing_subword_prefix", None)),
        unk_id=tokenizer.token_to_id(unknown) if unknown else None,
        special_tokens=special_tokens,
    )
