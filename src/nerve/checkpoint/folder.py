"""Proves that a folder is a token classifier with a tokenizer and everything its model needs.

The last step of every source, and cheap: it reads `config.json`, the index of sharded weights, and the
names of external data files inside an ONNX graph, never the weights. Whether the graph's own inputs and
outputs agree with the config is for `nerve.models.loader` to prove.
"""

from __future__ import annotations

import mmap
import os
import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from nerve.checkpoint.calibration import CALIBRATION
from nerve.checkpoint.choice import WEIGHTS, BuildCheck, choose_main_file, choose_tokenizer, data_files
from nerve.checkpoint.settings import (
    CONFIG,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    check_config,
    missing_file,
    read_config,
    read_shards,
)
from nerve.checkpoint.strangers import what_it_is
from nerve.checkpoint.tokenizer import check_tokenizer
from nerve.config import ModelConfig
from nerve.errors import CheckpointError
from nerve.text.vocabularies import FILES as VOCABULARIES

_LONGEST_NAME = 255  # bytes, of the usual file systems
_LFS_POINTER = b"version https://git-lfs"
# In a serialised TensorProto: the entry {key: "location", value: <length of one or two bytes, then a path>}.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checkpoint that is here.

    path: holds config.json, a tokenizer or its vocabulary, and weights (safetensors) and/or an ONNX graph.
    model_id: what /info prints: hub repository, package name, or folder name.
    revision: resolved commit, version of the package, or "" for LOCAL.
    files: those of the folder that the server reads, once `fetch_checkpoint` has proven it.
    """

    path: Path
    model_id: str
    revision: str
    files: tuple[str, ...] = field(default=(), compare=False)


def check_folder(folder: Path, model: ModelConfig, is_buildable: BuildCheck) -> tuple[str, ...]:
    """Prove that `folder` can be served as `model` asks; raise `CheckpointError`, saying what to change.

    Returns the names of the files that the server reads.
    Raises `OSError` for a file that cannot be read; see `explain_unreadable`.
    """
    files = list_files(folder)
    check_config_is_there(files, str(folder))
    config = read_config(folder)
    check_config(config, str(folder))
    check_names(files, str(folder))
    main = choose_main_file(files, config, model, is_buildable, str(folder))
    needed = (*choose_tokenizer(files), main, *companions(folder, main, files, str(folder)))
    for name in needed:
        _refuse_lfs_pointer(folder / name)
    check_tokenizer(folder, files, str(folder))
    settings = (CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS, CALIBRATION)
    return (*(name for name in settings if name in files), *needed)


def explain_unreadable(error: OSError) -> CheckpointError:
    """Return what to raise for a file or folder of a checkpoint that this user may not read."""
    user = f"the user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"
    return CheckpointError(
        f"cannot read {error.filename}: {error.strerror}; let {user} read it (`chmod -R a+rX` on its folder), or start "
        "nerve as its owner"
    )


def check_config_is_there(files: Collection[str], origin: str) -> None:
    """Prove that config.json is among `files`; else say what they are, where that can be told."""
    if CONFIG in files:
        return
    known = what_it_is(files, origin, WEIGHTS)
    raise CheckpointError(known) if known else missing_file(CONFIG, origin)


def check_names(files: Collection[str], origin: str) -> None:
    """Prove that the files every checkpoint must have are among `files`."""
    check_config_is_there(files, origin)
    if not choose_tokenizer(files):
        raise CheckpointError(
            f"{origin} has no tokenizer ({TOKENIZER}) and no vocabulary to make one from ({', '.join(VOCABULARIES)}); "
            "write one with transformers: AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(FOLDER), or with "
            "`nerve export`"
        )


def list_files(folder: Path) -> set[str]:
    """Return the files under `folder` as POSIX paths relative to it, hidden ones left out.

    Raises `OSError` for a folder that cannot be read; what is in it would be missing without a word.
    """

    def fail(error: OSError) -> None:
        raise error

    found = set()
    for path, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(path)
        found |= {
            (here / name).relative_to(folder).as_posix()
            for name in names
            if not name.startswith(".") and (here / name).is_file()
        }
    return found


def companions(folder: Path, main: str, files: Collection[str], origin: str) -> list[str]:
    """Return the files that the main file needs: shards of an index, external data of a graph.

    `main` should be in `folder`, its companions need not be: of a graph that is elsewhere, data files are known by
    their names alone. Raises `CheckpointError` when one of them is not among `files`, or leaves the folder.
    """
    named = read_shards(folder / main, origin) if main.endswith(".json") else _locations(folder / main)
    needed = {posixpath.normpath(posixpath.join(posixpath.dirname(main), name)) for name in named}
    if outside := sorted(name for name in needed if not is_inside(name)):
        raise CheckpointError(
            f"{main} of {origin} names {outside[0]!a}, which is not in its folder; do not use this checkpoint"
        )
    missing = sorted(needed.difference(files))
    if missing:
        raise CheckpointError(
            f"{main} of {origin} needs {', '.join(missing)}, which is not there; fetch it again whole"
        )
    return sorted(needed.union(data_files(files, main)))


def is_inside(name: str) -> bool:
    """Tell whether a name from a checkpoint is that of a file in its folder, on any system, and can be printed."""
    parts = name.split("/")
    return (
        name.isprintable()
        and "\\" not in name
        and not {"", ".", ".."} & set(parts)
        and all(len(part.encode()) <= _LONGEST_NAME for part in parts)
    )


def _locations(graph: Path) -> set[str]:
    """Return the external data locations in a graph, found by bytes: `onnx` is for `graph` alone."""
    if graph.suffix != ".onnx" or not graph.is_file() or graph.stat().st_size == 0:
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
