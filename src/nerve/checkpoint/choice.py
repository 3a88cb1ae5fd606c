"""Decides which files of a checkpoint are used: pure functions over a list of file names.

Names are POSIX paths relative to the checkpoint. One decision serves all: the hub asks before it downloads,
folders and wheels are checked with it, and `graph` loads by it. The order of choice is written for users in
docs/guide/checkpoints.md; keep the two in step.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from nerve.config import ModelConfig, Precision
from nerve.errors import CheckpointError

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

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


class BuildCheck(Protocol):
    """Tells whether a graph can be built straight from the weights of a checkpoint."""

    def __call__(self, config: Mapping[str, Any], folder: Path | None = None, /) -> bool:
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


def choose_weights(files: Collection[str]) -> str | None:
    """Return the safetensors file, or the index of a sharded one, or None; other names are not weights."""
    return next((name for name in (WEIGHTS, WEIGHTS_INDEX) if name in files), None)


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
    if weights is not None and is_buildable(config):
        return weights
    if graph is not None:
        return graph
    raise CheckpointError(_nothing_usable(files, config, origin))


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


def _nothing_usable(files: Collection[str], config: Mapping[str, Any], origin: str) -> str:
    if choose_weights(files) is not None:
        return (
            f"{origin} has no ONNX graph, and none can be built from the weights of this "
            f"{str(config.get('model_type'))!r} model (docs/explanation/graphs.md says of which it can); make one with "
            "`nerve export` and serve the folder it writes with source LOCAL"
        )
    if any(name.endswith(PICKLED) for name in files):
        return (
            f"{origin} has its weights in a pickle file only (such as pytorch_model.bin); loading one can "
            "run any code, so nerve never does; use a revision with model.safetensors, convert it with "
            "transformers (`model.save_pretrained(FOLDER)`), or run `nerve export`"
        )
    return (
        f"{origin} has neither an ONNX graph (*.onnx) nor weights ({WEIGHTS} or {WEIGHTS_INDEX}); check that "
        "the path or repository is the right one, or make a graph with `nerve export`"
    )
