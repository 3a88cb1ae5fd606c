"""What a checkpoint has of a tokenizer beside tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nerve.text.vocabularies.special import SpecialTokens


@dataclass(frozen=True, slots=True)
class VocabularyFiles:
    """The files of a tokenizer, those in JSON decoded.

    folder: where the vocabulary lies. settings: tokenizer_config.json. tokens: what the JSON files say of tokens.
    is_trial: whether a tokenizer can be made is asked, not what it would answer; see `sentencepiece.make_unigram`.
    """

    folder: Path
    settings: Mapping[str, Any]
    tokens: SpecialTokens
    is_trial: bool = False

    def flag(self, key: str, usual: bool) -> bool:
        """Return a setting that is true or false; `usual` where the files are silent."""
        value = self.settings.get(key)
        return usual if value is None else bool(value)
