"""Opens the tokenizer of a checkpoint: a file that holds it whole, else made from its vocabulary and settings.

Which files that are, `choice` says; how one is made, `nerve.text.vocabularies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.checkpoint.choice import TOKENIZERS, choose_tokenizer
from nerve.checkpoint.settings import (
    ADDED_TOKENS,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    read_config,
    read_optional,
)
from nerve.observability.progress import announce
from nerve.text.tokenizer import load_tokenizer
from nerve.text.vocabularies import find_kind, make_tokenizer

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tokenizers import Tokenizer

# Of a vocabulary from which a tokenizer takes more than about a second.
_LARGE_BYTES = 2_000_000


def open_tokenizer(folder: Path) -> tuple[Tokenizer, bool]:
    """Return the tokenizer of a model folder, and whether it was made from a vocabulary.

    Raises `ModelError` for a file that is no tokenizer, and `CheckpointError` where none can be made.
    """
    whole = next((name for name in TOKENIZERS if (folder / name).exists()), None)
    if whole is not None:
        return load_tokenizer(folder, whole), False
    return _make(folder, str(folder)), True


def check_tokenizer(folder: Path, files: Collection[str], origin: str) -> None:
    """Prove that the files of a tokenizer are there and of a kind that is known; raise `CheckpointError` otherwise.

    files: of the checkpoint; those of the tokenizer must be in `folder`. The vocabulary is not read.
    """
    if not _is_whole(files):
        find_kind(
            folder, origin, read_config(folder, origin), read_optional(folder, TOKENIZER_CONFIG, origin)
        )


def prove_tokenizer(folder: Path, files: Collection[str], origin: str) -> None:
    """Prove that a tokenizer can be made, by a trial, where no file holds one whole; otherwise as `check_tokenizer`."""
    if not _is_whole(files):
        _make(folder, origin, is_trial=True)


def _is_whole(files: Collection[str]) -> bool:
    return not set(choose_tokenizer(files)).isdisjoint(TOKENIZERS)


def _make(folder: Path, origin: str, *, is_trial: bool = False) -> Tokenizer:
    settings, special_tokens, added_tokens = (
        read_optional(folder, name, origin) for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS)
    )
    config = read_config(folder, origin)
    if not is_trial and _is_large(folder, find_kind(folder, origin, config, settings).files):
        announce(f"making the tokenizer of {origin} from its vocabulary, since it has no tokenizer.json")
    return make_tokenizer(folder, origin, config, settings, special_tokens, added_tokens, is_trial=is_trial)


def _is_large(folder: Path, files: Collection[str]) -> bool:
    return sum((folder / name).stat().st_size for name in files) > _LARGE_BYTES
