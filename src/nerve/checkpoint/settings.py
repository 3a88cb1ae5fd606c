"""What the JSON files of a model folder say: config.json, the settings of the tokenizer, the index of shards.

The one module that reads them and judges what it reads, so that each rule and each refusal has one wording. Keys are
those of transformers' configuration classes; what only a family of architectures knows (numbers of layers, names of
activations) is read in `graph.architectures`. Pure functions, apart from the `read_...`; called at start-up and by
commands, from any thread.

origin: whose file it is, as messages name it: a folder, or "REPOSITORY at COMMIT".
Everything that cannot be read or used is a `CheckpointError` that says what to change.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nerve.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"

_HEAD = "ForTokenClassification"
# How transformers names its classes for other tasks (modeling_auto.py).
_OTHER_TASKS = (
    "Classification", "LM", "Generation", "Answering", "AnsweringSimple", "Choice", "PreTraining", "Prediction",
    "Regression", "Retrieval", "Detection", "Segmentation", "CTC",
)  # fmt: skip
# Families whose tokens have positions from the padding id + 1 (modeling_roberta.py,
# create_position_ids_from_input_ids), so that the first rows of the position table are no token's.
_POSITIONS_AFTER_PADDING = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "mpnet",
        "longformer",
        "roberta-prelayernorm",
        "data2vec-text",
        "esm",
        "ibert",
        "luke",
        "xmod",
    }
)
# The padding id of those families where the config is silent; it is that of their configuration classes.
_PADDING_ID_THERE = 1
# Families that number positions after this id, whatever the config says (modeling_mpnet.py, MPNetEmbeddings).
_FIXED_POSITION_PADDING = {"mpnet": 1}
# Families whose configs have another key for the rows of the position table.
_POSITION_KEYS = {"gpt2": "n_positions", "gpt-sw3": "n_positions", "gpt_bigcode": "n_positions"}
# Labels of a config of transformers that says nothing of them.
_DEFAULT_LABELS = 2
# transformers writes 10**30 into tokenizer_config.json for "no limit".
_NO_LIMIT = 10**9
# Name of `model_max_length` before transformers 3.
_OLD_LENGTH = "max_len"


def read_config(folder: Path, origin: str | None = None) -> dict[str, Any]:
    """Return the decoded `config.json` of `folder`."""
    return read_object(folder / CONFIG, origin or str(folder))


def read_tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Return `tokenizer_config.json` over `special_tokens_map.json`; either may be missing."""
    return read_optional(folder, SPECIAL_TOKENS) | read_optional(folder, TOKENIZER_CONFIG)


def read_optional(folder: Path, name: str, origin: str | None = None) -> dict[str, Any]:
    """Return a decoded JSON file of `folder`; empty where there is none."""
    return read_object(folder / name, origin or str(folder)) if (folder / name).exists() else {}


def read_shards(index: Path, origin: str | None = None) -> set[str]:
    """Return the names of the files that an index of sharded weights lists, relative to it."""
    origin = origin or str(index.parent)
    by_tensor = read_object(index, origin).get("weight_map")
    listed = list(by_tensor.values()) if isinstance(by_tensor, dict) else [None]
    names = {name for name in listed if isinstance(name, str)}
    if not all(isinstance(name, str) for name in listed):
        raise CheckpointError(f"{index.name} of {origin} is not an index of weights; fetch it again")
    return names


def missing_file(name: str, origin: str) -> CheckpointError:
    """Return what to raise for a file that no checkpoint can do without."""
    return CheckpointError(
        f"{origin} has no {name}; check that it is a model folder or repository, and its revision"
    )


def check_config(config: Mapping[str, Any], origin: str) -> None:
    """Prove that the config is that of a token classifier with an `id2label` that can be used."""
    if heads := other_heads(config):
        raise CheckpointError(
            f"{origin} is not a token classifier: its {CONFIG} says {', '.join(heads)}; choose a checkpoint "
            f"whose architecture ends with {_HEAD}"
        )
    label_names(config, origin)


def other_heads(config: Mapping[str, Any]) -> list[str]:
    """Return the classes that the config names, where none of them is a token classifier; [] otherwise.

    A config that names no class says nothing against it, nor does one that has labels and names the base model
    (`BertModel`) or a class that transformers does not have (`BertForNER`): transformers goes by `model_type` and by
    the tensors, and so does `graph` once they are there. A CRF in the name says that labels depend on each other.
    """
    heads = class_names(config)
    if config.get("id2label"):
        heads = [name for name in heads if name.endswith(_OTHER_TASKS) or "crf" in name.lower()]
    return [] if any(name.endswith(_HEAD) for name in heads) else heads


def class_names(config: Mapping[str, Any]) -> list[str]:
    """Return what `architectures` names; where it is one word, that is the class."""
    stated = config.get("architectures") or []
    return [str(name) for name in (stated if isinstance(stated, list) else [stated])]


def label_names(config: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    """Return the names of `id2label`, by label id; where there is none, those that transformers makes.

    Where `num_labels` says another number, `id2label` counts, as in transformers 4, and the weights prove it right;
    `doubt_about_labels` says so. (transformers 5 makes up as many names as `num_labels` says.)
    Two ids may have one name, as in transformers: their tokens are of one kind. A name may be empty, as there.
    """
    labels = config.get("id2label")
    if labels is None:
        return _made_up_names(config.get("num_labels"), origin)
    if not isinstance(labels, dict) or not labels:
        raise CheckpointError(
            f"{CONFIG} of {origin} has no id2label that can be read; write it as in "
            '"id2label": {"0": "O", "1": "B-PER", "2": "I-PER"}'
        )
    by_id = _by_number(labels)
    if set(by_id) != set(range(len(labels))):
        raise CheckpointError(
            f"id2label in {CONFIG} of {origin} must number its labels 0 to {len(labels) - 1}; mend it"
        )
    names = tuple(by_id[index] for index in range(len(labels)))
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"id2label in {CONFIG} of {origin} has a label that is not a name; mend it")
    return names


def doubt_about_labels(config: Mapping[str, Any]) -> str | None:
    """Say what a log should about the names of labels that are used; None where nothing speaks against them."""
    if reason := why_made_up(config):
        return f"{reason}: labels are called LABEL_0 to {label_names(config, CONFIG)[-1]}; add id2label for names"
    stated, n_named = config.get("num_labels"), len(config["id2label"])
    if stated in (None, n_named):
        return None
    return f"{CONFIG} says num_labels {stated}, but names {n_named} labels in id2label, which count; mend the wrong one"


def why_made_up(config: Mapping[str, Any]) -> str | None:
    """Say why the labels have made-up names; None when `id2label` names them."""
    if config.get("id2label") is not None:
        return None
    if config.get("num_labels") is None:
        return f"{CONFIG} has neither id2label nor num_labels, for which transformers takes {_DEFAULT_LABELS} labels"
    return f"{CONFIG} has num_labels, but no id2label"


def _made_up_names(n_labels: object, origin: str) -> tuple[str, ...]:
    """Return LABEL_0, LABEL_1 ...: transformers leaves `id2label` out where it has not been set."""
    if n_labels is None:
        n_labels = _DEFAULT_LABELS
    if isinstance(n_labels, bool) or not isinstance(n_labels, int) or n_labels < 1:
        raise CheckpointError(
            f"{CONFIG} of {origin} has no id2label, and its num_labels is not a number of labels; add id2label"
        )
    return tuple(f"LABEL_{index}" for index in range(n_labels))


def _by_number(labels: Mapping[str, Any]) -> dict[int, Any]:
    """Return labels by number, which Python may write in more than one way (` 1`); one whose key is none, by -1."""
    return {int(key) if key.strip().isdecimal() else -1: name for key, name in labels.items()}


def padding_id(config: Mapping[str, Any]) -> int:
    """Return the id that fills rows; the default of the family where the config states none."""
    stated = config.get("pad_token_id")
    if stated is None:
        return _PADDING_ID_THERE if config.get("model_type") in _POSITIONS_AFTER_PADDING else 0
    if isinstance(stated, bool) or not isinstance(stated, int):
        raise CheckpointError(f"{CONFIG}: pad_token_id must be a whole number, not {stated!r}; mend it")
    return stated


def position_padding_id(config: Mapping[str, Any]) -> int | None:
    """Return the id whose tokens have no position of their own; None where token t has position t.

    All other tokens are counted, and their positions start at that id + 1.
    """
    model_type = config.get("model_type")
    if model_type not in _POSITIONS_AFTER_PADDING:
        return None
    return _FIXED_POSITION_PADDING.get(model_type, padding_id(config))


def unused_positions(config: Mapping[str, Any]) -> int:
    """Return how many rows of the position table no token of a text ever takes."""
    found = position_padding_id(config)
    return 0 if found is None else found + 1


def stated_positions(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that have positions by the config, special ones included; None where it says nothing."""
    rows = config.get(_POSITION_KEYS.get(str(config.get("model_type")), "max_position_embeddings"))
    return rows - unused_positions(config) if isinstance(rows, int) and rows > 0 else None


def stated_length(tokenizer_settings: Mapping[str, Any]) -> int | None:
    """Return the most tokens that `tokenizer_config.json` allows, special ones included; None for no limit."""
    stated = tokenizer_settings.get("model_max_length", tokenizer_settings.get(_OLD_LENGTH))
    return stated if isinstance(stated, int) and 0 < stated < _NO_LIMIT else None


def read_object(file: Path, origin: str) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing_file(file.name, origin) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}; check its permissions") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON, or nested without end
        raise CheckpointError(
            f"{file.name} of {origin} is not valid JSON ({error}); fetch or export it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file.name} of {origin} is not a JSON object; fetch or export it again")
    return value
