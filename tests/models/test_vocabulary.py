"""What is known of a tokenizer besides its tokens."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from nerve.models.vocabulary import read_vocabulary


@pytest.mark.parametrize(
    ("vocabulary", "settings", "expected"),
    [
        (["a", "<unk>"], {}, 1),
        (["a", "[UNK]"], {}, 1),
        (["a", "b"], {}, None),
        (["a", "<unk>", "?"], {"unk_token": "?"}, 2),
        (["a", "<unk>", "?"], {"unk_token": {"content": "?", "lstrip": False}}, 2),
    ],
)
def test_unknown_token_of_a_unigram_tokenizer(
    vocabulary: list[str], settings: dict[str, Any], expected: int | None
) -> None:
    """XLM-RoBERTa's files name none: it is the one that transformers' class has."""
    tokenizer = Tokenizer(Unigram([(token, 0.0) for token in vocabulary], unk_id=0))
    assert read_vocabulary(tokenizer, settings, {}).unk_id == expected
