"""Tells what graph weights will become from the shapes of their tensors, before any of them is read: `nerve show`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.checkpoint.preview import NotOpened
from nerve.config import Precision
from nerve.errors import CheckpointError
from nerve.graph import ready, weights
from nerve.graph.architectures import NotBuildable, describe, find_family
from nerve.graph.torch_files import read_torch_shapes
from nerve.graph.torch_names import DamagedPickle, ForeignPickle, readable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nerve.checkpoint.preview import SeekableBytes

_ZERO = np.zeros((), np.float32)
_FLOAT_BYTES, _HALF_BYTES = 4, 2
# Tables of rows that ids look up; int8 leaves them in float32.
_TABLES = "embeddings"
# Keys of configs, by family: what the number of parameters is estimated from.
_LAYERS = ("num_hidden_groups", "num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers")
_HIDDEN = ("hidden_size", "dim", "d_model", "n_embd")
_INNER = ("intermediate_size", "hidden_dim", "n_inner", "d_ff", "encoder_ffn_dim")

Shapes = dict[str, tuple[int, ...]]


def stored_shapes(folder: Path) -> Shapes:
    """Return the shapes of all tensors in the weights of `folder`; {} where there are none that can be read.

    Raises `ModelError` for a damaged file.
    """
    try:
        stored = weights.open_weights(weights.find_weights(folder))
    except NotBuildable:
        return {}
    return {name: stored.shape_of(name) or () for name in stored}


def why_not_opened(folder: Path) -> str | None:
    """Say why the weights of `folder` are not opened: they are no state dicts; None where they are opened."""
    try:
        weights.open_weights(weights.find_weights(folder))
    except NotBuildable as reason:
        return str(reason)
    return None


def pickled_shapes(stream: SeekableBytes, name: str) -> Shapes:
    """Return the shapes of the tensors in a file that `torch.save` wrote. Raises as `PickleReader` does."""
    try:
        return read_torch_shapes(stream)
    except ForeignPickle as error:
        raise NotOpened(
            f"{name} is not opened: {error}; save its tensors alone, with transformers "
            "(`model.save_pretrained(FOLDER)`)"
        ) from error
    except DamagedPickle as error:
        raise CheckpointError(
            f"{name} cannot be read as weights of PyTorch ({readable(error)}); it is damaged: choose another revision"
        ) from error


def why_not_built(config: Mapping[str, Any], shapes: Shapes) -> str | None:
    """Say why no graph can be built from tensors of these shapes; None when one can.

    Raises `ModelError` where labels and weights disagree, which no other graph would repair.
    """
    try:
        tensors = {name: np.broadcast_to(_ZERO, shape) for name, shape in shapes.items()}
    except (ValueError, OverflowError):  # a header can say anything
        return "a tensor has a shape that none can have"
    try:
        describe(config, tensors)
    except NotBuildable as reason:
        return str(reason)
    return None


def shapes_read_back(config: Mapping[str, Any], folder: Path) -> Shapes | None:
    """Return the shapes of weights inside an ONNX file of `folder` from which a graph would be built; None for none.

    Unpacks the weights, as a start does. Raises `ModelError` as `why_not_built` does.
    """
    if why_no_family(config) is not None:
        return None
    for file in ready.find_onnx(folder, Precision.FLOAT32):
        unpacked = weights.read_onnx(file)
        if unpacked is None:
            continue
        shapes = {name: value.shape for name, value in unpacked.items()}
        if why_not_built(config, shapes) is None:
            return shapes
    return None


def why_no_family(config: Mapping[str, Any]) -> str | None:
    """Say why no graph can be built for a config, whatever its tensors; None when one may."""
    try:
        find_family(config)
    except NotBuildable as reason:
        return str(reason)
    return None


def rows_of_tables(config: Mapping[str, Any], shapes: Shapes) -> tuple[int | None, int | None]:
    """Return the rows of the tables of tokens and of positions, where the family and the weights have them."""
    try:
        family = find_family(config)
    except NotBuildable:
        return None, None
    found = [shapes.get(table or "", (None,))[0] for table in (family.word_table, family.position_table)]
    return found[0], found[1]


def count_parameters(shapes: Shapes) -> int:
    """Return the numbers in the tensors."""
    return sum(math.prod(shape) for shape in shapes.values())


def estimate_parameters(config: Mapping[str, Any]) -> int | None:
    """Estimate the parameters of an encoder from its config: tables, four projections and two of the inner layer.

    None where the config does not say enough.
    """
    layers, hidden = _read(config, _LAYERS), _read(config, _HIDDEN)
    vocabulary = _read(config, ("vocab_size",))
    if layers is None or hidden is None or vocabulary is None:
        return None
    inner = _read(config, _INNER) or 4 * hidden
    rows = vocabulary + (_read(config, ("max_position_embeddings",)) or 0)
    width = _read(config, ("embedding_size",)) or hidden
    return rows * width + layers * (4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner)


def estimate_bytes(n_parameters: int, precision: Precision, shapes: Shapes) -> int:
    """Estimate what a session holds of a graph in a precision."""
    if precision in (Precision.FLOAT16, Precision.BFLOAT16):
        return n_parameters * _HALF_BYTES
    if precision is not Precision.INT8:
        return n_parameters * _FLOAT_BYTES
    linear = sum(
        math.prod(shape) for name, shape in shapes.items() if len(shape) == 2 and _TABLES not in name
    )
    return (n_parameters - linear) * _FLOAT_BYTES + linear


def _read(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    found = (config.get(key) for key in keys)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
