"""Makes the tokenizer of a checkpoint that has no tokenizer.json, from the vocabulary and the settings that it has.

`make_tokenizer` is the interface; `find_kind` tells at no cost whether it can be tried. The result gives the ids and
offsets of transformers' fast tokenizer made from the same files; where transformers 5 drops a part of a file, the file
wins (the modules say where).

    kinds         the one table: tokenizer class -> files, usual special tokens, functions.
    special       special and added tokens, as four JSON files and the class name them.
    bert          vocab.txt.
    byte_pairs    vocab.json and merges.txt.
    albert, deberta_v2, decoders, xlm_roberta   models of sentencepiece; `pieces` and `sentencepiece_model` are theirs.
    ends          special tokens around a text.

Pure apart from the reading of files; called at start, from any thread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nerve.errors import CheckpointError
from nerve.text.vocabularies.files import VocabularyFiles
from nerve.text.vocabularies.kinds import KINDS, SLOW_CLASSES, class_name
from nerve.text.vocabularies.special import add_tokens, moved_tokens, read_special_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tokenizers import Tokenizer

    from nerve.text.vocabularies.kinds import Kind

__all__ = ["FILES", "find_kind", "make_tokenizer"]

log = logging.getLogger(__name__)

# Every file that a vocabulary may lie in.
FILES = tuple(sorted({name for kind in KINDS.values() for name in kind.files}))
_WRITE_ONE = (
    "write tokenizer.json with transformers: AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(FOLDER), or "
    "with `nerve export`"
)


def make_tokenizer(
    folder: Path,
    origin: str,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    special_tokens_map: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    *,
    is_trial: bool = False,
) -> Tokenizer:
    """Make a tokenizer from the files in `folder`. Raises `CheckpointError`, which says what to do, and `OSError`.

    origin: whose files these are, in messages. The others are the decoded config.json, tokenizer_config.json,
    special_tokens_map.json and added_tokens.json; empty where there is no such file. is_trial: only whether one can be
    made is asked; what is returned is no tokenizer of the checkpoint.
    """
    kind = find_kind(folder, origin, config, settings)
    try:
        tokens = read_special_tokens(settings, special_tokens_map, added_tokens, kind.usual)
        files = VocabularyFiles(folder, settings, tokens, is_trial)
        tokenizer, symbols = kind.make(files)
        add_tokens(tokenizer, tokens, symbols)
        kind.finish(tokenizer, files)
        tokenizer.encode_special_tokens = files.flag("split_special_tokens", False)
    except OSError:
        raise
    except Exception as error:  # the library raises bare `Exception`
        raise CheckpointError(
            f"no tokenizer can be made from {' and '.join(kind.files)} of {origin} and its settings: {_reason(error)}; "
            f"fetch them again, or {_WRITE_ONE}"
        ) from error
    if not is_trial and (moved := moved_tokens(tokenizer, tokens)):
        text, (stated, number) = next(iter(moved.items()))
        log.warning(
            "%d added tokens have other ids than the files of the tokenizer say, as in transformers' fast tokenizers: "
            "%r has %d, not %d; see that the model was trained so",
            *(len(moved), text, number, stated),
        )
    return tokenizer


def find_kind(folder: Path, origin: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Kind:
    """Return the kind of a tokenizer whose files are in `folder`. Raises `CheckpointError`; see `make_tokenizer`."""
    name = class_name(config, settings)
    if name in SLOW_CLASSES:
        raise CheckpointError(
            f"{origin} has no tokenizer.json, and there cannot be one: its {name} runs in Python only; choose a "
            "checkpoint with a fast tokenizer"
        )
    kind = KINDS.get(name)
    if kind is None:
        raise CheckpointError(
            f"{origin} has no tokenizer.json, and nerve cannot make one for its {name}; {_WRITE_ONE}"
        )
    missing = [file for file in kind.files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{origin} has no tokenizer.json, and for its {name} one is made from {' and '.join(kind.files)}, but "
            f"there is no {' and no '.join(missing)}; add what is missing, or {_WRITE_ONE}"
        )
    return kind


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is null or not there"
    return " ".join(str(error).split()) or type(error).__name__
