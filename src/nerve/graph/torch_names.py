"""The few names that the pickle of a state dict may use, and what each means here: nothing is imported or called.

A function of PyTorch (`torch._utils._rebuild_tensor_v2`) stands for one of this module that takes the same arguments
and notes them down. Arguments come from a file that may be hostile: each is looked at before it is believed. PyTorch's
own list (torch/_weights_only_unpickler.py) has these names and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nerve.graph.stored import NotBuildable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class DamagedPickle(ValueError):
    """The bytes are no pickle, or one that nobody writes; the text says why."""


class ForeignPickle(NotBuildable):
    """The pickle asks for something that a state dict has no need of; the text names it."""


_MOST_AXES = 8
_LARGEST = 2**48  # numbers of elements

# Storage classes by the type of their elements (torch/storage.py, _dtype_to_storage_type_map).
_STORAGE_KINDS = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_STORAGE_MODULES = frozenset({"torch", "torch.cuda", "torch.storage"})
# Types of elements (`torch.NAME`) and the bytes of one.
WIDTHS = {
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
}
_TENSOR_TYPES = frozenset({"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"})


@dataclass(frozen=True, slots=True, eq=False)
class PickledStorage:
    """A run of elements of one kind that lies elsewhere in the file, under `key`.

    size: elements of all of it. start: element at which this part of it begins; PyTorch before 0.4 wrote such parts.
    """

    key: str
    kind: str
    size: int
    start: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PickledTensor:
    """A tensor as a view of a storage; offset, shape and strides count elements."""

    storage: PickledStorage
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A name of a module, not looked up."""

    text: str


def readable(text: object) -> str:
    """Return what a file says in a form that may stand in a message: one short line of plain characters."""
    return ascii(str(text)[:100])[1:-1]


def find_name(module: str, name: str) -> Name:
    """Return a name that a state dict may use. Raises `ForeignPickle` for any other."""
    dotted = f"{module}.{name}"
    is_storage = module in _STORAGE_MODULES and name in _STORAGE_KINDS
    is_type = module == "torch" and name in WIDTHS
    if not (is_storage or is_type or dotted in _CALLS or dotted in _TENSOR_TYPES):
        raise ForeignPickle(f"its pickle asks for {readable(dotted)}, which no state dict needs")
    return Name(dotted)


def call(function: object, arguments: object) -> object:
    """Return what calling a name means here."""
    if type(function) is not Name or type(arguments) is not tuple:
        raise DamagedPickle("its pickle calls what is no name")
    meaning = _CALLS.get(function.text)
    if meaning is None:
        raise ForeignPickle(f"its pickle calls {readable(function.text)}, which no state dict needs")
    return meaning(*arguments)


def describe_storage(found: object) -> tuple[PickledStorage, int]:
    """Return a storage and the element at which the part that is meant begins.

    found: ("storage", class, key, device, size) and, in the stream format, None or (key, start, size) of a part.
    """
    if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage":
        raise ForeignPickle("its pickle refers to something outside it that is no storage")
    _, kind, key, _, size, *part = found
    if type(kind) is not Name or type(key) is not str:
        raise DamagedPickle("its pickle has a storage without a kind or a key")
    class_name = kind.text.rpartition(".")[2]
    if class_name not in _STORAGE_KINDS:
        raise DamagedPickle("its pickle has a storage without a kind")
    start = 0
    if part and part[0] is not None:
        _, start, _ = part[0]
    return PickledStorage(key, _STORAGE_KINDS[class_name], _count(size)), _count(start)


def fill(into: object, pairs: Iterable[tuple[object, object]]) -> None:
    """Put pairs into a dict; keys are names, so that none of them can take long to hash."""
    if type(into) is not dict:
        raise DamagedPickle("its pickle puts a key into what is no dict")
    for key, value in pairs:
        if type(key) is not str:
            raise ForeignPickle("its pickle has a dict whose keys are no names")
        into[key] = value


def make_dict(pairs: Iterable[tuple[object, object]] = ()) -> dict[str, object]:
    """Return a dict of pairs; of `OrderedDict`, which says the same."""
    found: dict[str, object] = {}
    fill(found, pairs)
    return found


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise DamagedPickle("its pickle has a size that is no number of elements")
    return value


def _counts(values: object) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > _MOST_AXES:
        raise DamagedPickle(f"its pickle has a shape that is no tuple of at most {_MOST_AXES} numbers")
    return tuple(_count(value) for value in values)


def _make_tensor(
    storage: object, offset: object, shape: object, strides: object, *_: object
) -> PickledTensor:
    """Of `_rebuild_tensor` and `_rebuild_tensor_v2`; what follows (gradient, hooks) is for training."""
    if type(storage) is not PickledStorage:
        raise DamagedPickle("its pickle has a tensor without a storage")
    sizes, steps = _counts(shape), _counts(strides)
    if len(sizes) != len(steps):
        raise DamagedPickle("its pickle has a tensor with more sizes than strides")
    return PickledTensor(storage, storage.kind, storage.start + _count(offset), sizes, steps)


def _make_typed_tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    gradient: object,
    hooks: object,
    dtype: object,
    *_: object,
) -> PickledTensor:
    """Of `_rebuild_tensor_v3`: the storage is one of bytes, so the type is stated."""
    found = _make_tensor(storage, offset, shape, strides)
    kind = dtype.text.removeprefix("torch.") if type(dtype) is Name else ""
    if kind not in WIDTHS:
        raise DamagedPickle("its pickle has a tensor without a type")
    return PickledTensor(found.storage, kind, found.offset, found.shape, found.strides)


def _make_parameter(tensor: object, *_: object) -> PickledTensor:
    if type(tensor) is not PickledTensor:
        raise DamagedPickle("its pickle has a parameter without a tensor")
    return tensor


def _make_from_type(function: object, kind: object, arguments: object, *_: object) -> PickledTensor:
    """Of `_rebuild_from_type_v2`: a tensor with attributes of its own, which are thrown away."""
    rebuild = _REBUILDS.get(function.text) if type(function) is Name else None
    if rebuild is None or type(kind) is not Name or kind.text not in _TENSOR_TYPES:
        raise ForeignPickle("its pickle makes a tensor of a class of its own")
    return rebuild(*cast("tuple[object, ...]", arguments))


_REBUILDS: dict[str, Callable[..., PickledTensor]] = {
    "torch._utils._rebuild_tensor": _make_tensor,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_tensor_v3": _make_typed_tensor,
}
_CALLS: dict[str, Callable[..., object]] = {
    **_REBUILDS,
    "collections.OrderedDict": make_dict,
    "torch._utils._rebuild_parameter": _make_parameter,
    "torch._utils._rebuild_parameter_with_state": _make_parameter,
    "torch.nn.parameter.Parameter": _make_parameter,
    "torch._tensor._rebuild_from_type_v2": _make_from_type,
    "torch.Size": _counts,
    "torch.device": lambda *_: None,  # where something was when it was saved
    "_codecs.encode": lambda *_: None,  # bytes, as protocol 2 writes them
}
