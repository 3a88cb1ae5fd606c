"""Decides which files of a checkpoint are used: pure functions over a list of file names.

Names are POSIX paths relative to the checkpoint. One decision serves all: the hub asks before it downloads,
folders and wheels are checked with it, and `graph` loads by it. The order of choice is written for users in
docs/guide/checkpoints.md; keep the two in step.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nerve.checkpoint.settings import ADDED_TOKENS
from nerve.checkpoint.strangers import what_it_is
from nerve.config import ModelConfig, Precision
from nerve.errors import CheckpointError
from nerve.text.vocabularies import FILES as VOCABULARIES

TOKENIZERS = ("tokenizer.json", "onnx/tokenizer.json")
SAFETENSORS = ".safetensors"
# Weights, or the index of sharded weights, the one to prefer first: the order of transformers. Other names are never
# taken: not variants (model.fp16.safetensors), nor what training leaves (optimizer.pt, training_args.bin).
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# What may lie in a repository in place of weights, by how its name ends.
_OTHER_FILES = (SAFETENSORS, ".bin", ".pt", ".pth", ".ckpt")
_NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"})

_LISTED = 20  # names in a message
# What a file name says of a graph's arithmetic; the first marker found decides, so the longer come first.
_MARKERS = (
    ("4bit", ("q4", "bnb4", "int4", "4bit")),
    ("bfloat16", ("bf16", "bfloat16")),
    ("float16", ("fp16", "float16", "_o4")),
    ("int8", ("int8", "uint8", "quint8", "qint8", "quantized", "q8")),
)
# Best first. After what was asked for comes the full graph, from which all others are made.
_PREFERENCE = {
    Precision.AUTO: ("float32", "float16", "bfloat16", "int8", "4bit"),
    Precision.FLOAT32: ("float32", "float16", "bfloat16", "int8", "4bit"),
    Precision.FLOAT16: ("float16", "float32", "bfloat16", "int8", "4bit"),
    Precision.BFLOAT16: ("bfloat16", "float32", "float16", "int8", "4bit"),
    Precision.INT8: ("int8", "float32", "float16", "bfloat16", "4bit"),
}


@dataclass(frozen=True, slots=True)
class Unbuildable:
    """That no graph can be built from weights; false, so that it can stand where a truth value does.

    reason: what speaks against it. remedy: what can be done; "" for `nerve export`.
    """

    reason: str
    remedy: str = ""

    def __bool__(self) -> bool:
        return False


class BuildCheck(Protocol):
    """Tells whether a graph can be built straight from the weights of a checkpoint."""

    def __call__(self, config: Mapping[str, Any], folder: Path | None = None, /) -> bool | Unbuildable:
        """Look at the decoded `config.json`, and at the tensors in `folder` once they are there."""


def choose_graph(files: Collection[str], precision: Precision, explicit: str | None) -> str | None:
    """Return the ONNX graph to use, or None when there is none.

    An explicit one (`model.graph`) is taken or nothing is; otherwise the first of `sort_graphs`.
    """
    if explicit is not None:
        wanted = posixpath.normpath(explicit)
        return wanted if wanted in files else None
    return next(iter(sort_graphs(files, precision)), None)


def sort_graphs(files: Collection[str], precision: Precision) -> list[str]:
    """Return the ONNX graphs among `files`, the one to prefer first.

    The smallest wins of: arithmetic in the order of preference; folder (top, `onnx/`, any other); named
    `model*` or not; length of the name; the name itself.
    """
    preference = _PREFERENCE[precision]

    def rank(name: str) -> tuple[int, int, bool, int, str]:
        folder, base = posixpath.split(name)
        place = {"": 0, "onnx": 1}.get(folder, 2)
        return preference.index(_arithmetic(base)), place, not base.startswith("model"), len(name), name

    return sorted((name for name in files if name.endswith(".onnx")), key=rank)


def choose_tokenizer(files: Collection[str]) -> tuple[str, ...]:
    """Return the files that the tokenizer comes from, settings aside; () where there is none.

    One file is a whole tokenizer; it wins. Otherwise they are all vocabularies, of which the tokenizer class, which
    only the settings tell, uses its own; and the tokens that were added to them.
    """
    whole = next((name for name in TOKENIZERS if name in files), None)
    if whole is not None:
        return (whole,)
    vocabularies = [name for name in VOCABULARIES if name in files]
    return (*vocabularies, *([ADDED_TOKENS] if ADDED_TOKENS in files else [])) if vocabularies else ()


def choose_weights(files: Collection[str]) -> str | None:
    """Return the file of the weights, or the index of sharded ones, or None; other names are not weights."""
    return next((name for name in WEIGHTS if name in files), None)


def choose_main_file(
    files: Collection[str],
    config: Mapping[str, Any],
    model: ModelConfig,
    is_buildable: BuildCheck,
    origin: str,
) -> str:
    """Return the one file the model comes from: weights, the index of sharded weights, or an ONNX graph.

    Weights win where `is_buildable` says of the checkpoint's `config` that a graph can be built from them,
    unless `model.graph` names one. Raises `CheckpointError` when nothing can be used; `origin` says in its
    message whose files these are.
    """
    graph = choose_graph(files, model.precision, model.graph)
    if model.graph is not None:
        if graph is None:
            raise CheckpointError(
                f"model.graph: {origin} has no file {model.graph}; {_list_graphs(files)}; name one of them, "
                "or remove model.graph"
            )
        return graph
    weights = choose_weights(files)
    if weights is None and graph is None:
        raise CheckpointError(_nothing_usable(files, origin))
    verdict = weights is not None and is_buildable(config)
    if weights is not None and verdict:
        return weights
    if graph is not None:
        return graph
    raise CheckpointError(_not_built(config, verdict, origin))


def arithmetic_of(graph: str) -> str:
    """Return what the name of a graph says of its arithmetic: a precision, or "4bit"."""
    return _arithmetic(posixpath.basename(graph))


def data_files(files: Collection[str], graph: str) -> list[str]:
    """Return the files named like external data of `graph`: `x.onnx_data`, `x.onnx_data_1`, `x.onnx.data`."""
    return sorted(name for name in files if name.startswith((f"{graph}_data", f"{graph}.data")))


def _arithmetic(base: str) -> str:
    lowered = base.lower()
    for arithmetic, markers in _MARKERS:
        if any(marker in lowered for marker in markers):
            return arithmetic
    return "float32"


def _list_graphs(files: Collection[str]) -> str:
    found = sorted(name for name in files if name.endswith(".onnx"))
    rest = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"its ONNX files are {', '.join(found[:_LISTED])}{rest}" if found else "it has no ONNX file at all"


def _not_built(config: Mapping[str, Any], verdict: bool | Unbuildable, origin: str) -> str:
    reason, remedy = "", ""
    if isinstance(verdict, Unbuildable):
        reason, remedy = f" ({verdict.reason})", verdict.remedy
    if not remedy and config.get("auto_map"):
        remedy = (
            "its class may be code of the repository (auto_map), which neither nerve nor `nerve export` runs: have "
            "that code write an ONNX graph, or choose another checkpoint"
        )
    return (
        f"{origin} has no ONNX graph, and none can be built from the weights of this "
        f"{str(config.get('model_type'))!r} model{reason}; "
        + (remedy or "make one with `nerve export` and serve the folder it writes with source LOCAL")
    )


def _nothing_usable(files: Collection[str], origin: str) -> str:
    if known := what_it_is(files, origin, WEIGHTS):
        return known
    others = [name for name in sorted(files) if name.endswith(_OTHER_FILES) and _is_weights_of_a_kind(name)]
    also = f" ({others[0]} is under no name that weights have)" if others else ""
    return (
        f"{origin} has neither an ONNX graph (*.onnx) nor weights ({', '.join(WEIGHTS)}){also}; check that "
        "the path or repository is the right one, or make a graph with `nerve export`"
    )


def _is_weights_of_a_kind(name: str) -> bool:
    return posixpath.basename(name) not in _NO_WEIGHTS
