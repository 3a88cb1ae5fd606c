"""Tensors of a checkpoint that are read one by one, when they are asked for.

What a file holds is listed first (names, shapes, types), which costs little; numbers are read and widened to float32
when a family takes them. The readers of each format (`weights`, `torch_files`) make these values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from nerve.types import FloatArray

    Array = npt.NDArray[Any]

FLOAT_KINDS = frozenset({"float64", "float32", "float16", "bfloat16"})

_ZERO = np.zeros((), np.float32)


class NotBuildable(Exception):
    """The graph cannot be built from this checkpoint; the text says why."""


class UnknownType(NotBuildable):
    """That of a model type that no family reads; the text lists those that one does."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file.

    kind: type of its elements, as numpy calls it. read: returns its numbers, an array of `shape`.
    """

    file: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Array]


class StoredWeights(Mapping[str, "FloatArray"]):
    """The tensors of a checkpoint by name; looking one up reads it, as float32.

    Raises `NotBuildable` for a tensor that is not of floating point numbers, `ModelError` where the file is damaged.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> FloatArray:
        tensor = self._tensors[name]
        if tensor.kind not in FLOAT_KINDS:
            raise NotBuildable(
                f"{tensor.file}: {name} is {tensor.kind}, as quantised weights are; float32, float16, bfloat16 or "
                "float64 is needed"
            )
        return tensor.read().astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def outline(self) -> StoredWeights:
        """Return the same tensors with every number 0, none of which is read or takes memory."""
        return StoredWeights({name: _blank(tensor) for name, tensor in self._tensors.items()})

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor without reading it; None where there is none of that name."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tensor.shape


def _blank(tensor: StoredTensor) -> StoredTensor:
    return StoredTensor(tensor.file, tensor.shape, tensor.kind, lambda: np.broadcast_to(_ZERO, tensor.shape))
