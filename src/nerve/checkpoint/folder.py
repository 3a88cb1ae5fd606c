"""Proves that a folder is a token classifier with a fast tokenizer and everything its model needs.

The last step of every source, and cheap: it reads `config.json`, the index of sharded weights, and the
names of external data files inside an ONNX graph, never the weights. Whether the graph's own inputs and
outputs agree with the config is for `model` to prove.
"""

from __future__ import annotations

import json
import mmap
import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve.checkpoint.choice import BuildCheck, choose_main_file, data_files
from nerve.config import ModelConfig
from nerve.errors import CheckpointError

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"

_LFS_POINTER = b"version https://git-lfs"
# In a serialised TensorProto: the entry {key: "location", value: <length of one or two bytes, then a path>}.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checkpoint that is here.

    path: holds config.json, tokenizer.json, and weights (safetensors) and/or an ONNX graph.
    model_id: what /info prints: hub repository, package name, or folder name.
    revision: resolved commit, version of the package, or "" for LOCAL.
    """

    path: Path
    model_id: str
    revision: str


def check_folder(folder: Path, model: ModelConfig, is_buildable: BuildCheck) -> None:
    """Prove that `folder` can be served as `model` asks; raise `CheckpointError`, saying what to change."""
    config = read_config(folder / CONFIG, str(folder))
    check_config(config, str(folder))
    files = list_files(folder)
    check_names(files, str(folder))
    main = choose_main_file(files, config, model, is_buildable, str(folder))
    for name in (TOKENIZER, main, *companions(folder, main, files, str(folder))):
        _refuse_lfs_pointer(folder / name)


def read_config(file: Path, origin: str) -> dict[str, Any]:
    """Return the decoded `config.json`; raise `CheckpointError` when it is missing or not a JSON object."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _no_config(origin) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}; check its permissions") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise CheckpointError(
            f"{CONFIG} of {origin} is not valid JSON ({error}); fetch or export it again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{CONFIG} of {origin} is not a JSON object; fetch or export it again")
    return config


def check_config(config: dict[str, Any], origin: str) -> None:
    """Prove that the config is that of a token classifier with an `id2label` that can be used."""
    architectures = config.get("architectures") or []
    if architectures and not any(str(name).endswith("ForTokenClassification") for name in architectures):
        raise CheckpointError(
            f"{origin} is not a token classifier: its {CONFIG} says {', '.join(map(str, architectures))}; "
            "choose a checkpoint whose architecture ends with ForTokenClassification"
        )
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not labels:
        raise CheckpointError(
            f"{CONFIG} of {origin} has no id2label, so its labels have no names; add it, as in "
            '"id2label": {"0": "O", "1": "B-PER", "2": "I-PER"}'
        )
    if set(labels) != {str(index) for index in range(len(labels))}:
        raise CheckpointError(
            f"id2label in {CONFIG} of {origin} must number its labels 0 to {len(labels) - 1}; mend it"
        )
    if not all(isinstance(label, str) and label for label in labels.values()):
        raise CheckpointError(f"id2label in {CONFIG} of {origin} has a label that is not a name; mend it")
    if config.get("num_labels", len(labels)) != len(labels):
        raise CheckpointError(
            f"{CONFIG} of {origin} contradicts itself: num_labels is {config['num_labels']}, but id2label "
            f"has {len(labels)} labels; mend the wrong one"
        )


def check_names(files: Collection[str], origin: str) -> None:
    """Prove that the files every checkpoint must have are among `files`."""
    if CONFIG not in files:
        raise _no_config(origin)
    if TOKENIZER not in files:
        raise CheckpointError(
            f"{origin} has no fast tokenizer ({TOKENIZER}); write one with transformers: "
            "AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(FOLDER), or with `nerve export`"
        )


def list_files(folder: Path) -> set[str]:
    """Return the files under `folder` as POSIX paths relative to it, hidden ones left out."""
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {name for name in names if not any(part.startswith(".") for part in name.split("/"))}


def companions(folder: Path, main: str, files: Collection[str], origin: str) -> list[str]:
    """Return the files that the main file needs: shards of an index, external data of a graph.

    `main` must be in `folder`, its companions need not be. Raises `CheckpointError` when one of them is
    not among `files`.
    """
    named = _shards(folder / main, origin) if main.endswith(".json") else _locations(folder / main)
    needed = {posixpath.normpath(posixpath.join(posixpath.dirname(main), name)) for name in named}
    missing = sorted(needed.difference(files))
    if missing:
        raise CheckpointError(
            f"{main} of {origin} needs {', '.join(missing)}, which is not there; fetch it again whole"
        )
    return sorted(needed.union(data_files(files, main)))


def _shards(index: Path, origin: str) -> set[str]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a shard is named by what is no text")
        return names
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index.name} of {origin} is not a safetensors index; fetch it again"
        ) from error


def _locations(graph: Path) -> set[str]:
    """Return the external data locations in a graph, found by bytes: `onnx` is for `graph` alone."""
    if graph.suffix != ".onnx" or graph.stat().st_size == 0:
        return set()
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = set()
        for match in _LOCATION.finditer(data):
            low, *high = match.group(1)
            length = (low & 0x7F) + (high[0] << 7 if high else 0)
            found.add(data[match.end() : match.end() + length].decode("utf-8", "replace"))
        return found


def _refuse_lfs_pointer(file: Path) -> None:
    with file.open("rb") as handle:
        if handle.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(
                f"{file} is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
            )


def _no_config(origin: str) -> CheckpointError:
    return CheckpointError(
        f"{origin} has no {CONFIG}; check that it is a model folder or repository, and its revision"
    )
