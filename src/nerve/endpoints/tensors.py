"""Reads the tensors of the Open Inference Protocol: from JSON, and from the binary form that Triton's clients send.

Binary: the body begins with the JSON document, whose length the header `Inference-Header-Content-Length` states. After
it come the data of those inputs that have a `binary_data_size`, in order. A BYTES tensor is a length of 4 bytes, little
endian, before each element; numbers are little endian in row-major order.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from nerve.endpoints.json_bodies import AT_LEAST_ONE
from nerve.errors import InvalidRequest, MalformedRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nerve.types import IntArray

_BINARY_SIZE = "binary_data_size"
_INTEGERS = {"INT64": "<i8", "INT32": "<i4"}
# Nested lists that a tensor may have at most; none that is read here has more than two.
_MOST_DEPTH = 8
_LENGTH = struct.Struct("<I")


class InputTensor(msgspec.Struct, frozen=True):
    """A tensor as it stands in the document. data: flat or nested; absent where it is binary."""

    name: str
    datatype: str
    shape: list[int] = []
    data: Any = None
    parameters: dict[str, Any] | None = None


class OutputName(msgspec.Struct, frozen=True):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """The document. Parameters that are not known mean something to other servers only."""

    inputs: Annotated[list[InputTensor], AT_LEAST_ONE]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputName] | None = None


def split_body(body: bytes | bytearray, header_length: int | None) -> tuple[bytes | bytearray, memoryview]:
    """Return the document of a body, and the binary data after it. Raises `MalformedRequest`."""
    if header_length is None:
        return body, memoryview(b"")
    if header_length > len(body):
        raise MalformedRequest("inference-header-content-length is above the length of the body")
    whole = memoryview(body)
    return bytes(whole[:header_length]), whole[header_length:]


def with_binary(
    inputs: list[InputTensor], rest: memoryview
) -> Iterator[tuple[InputTensor, memoryview | None]]:
    """Yield each tensor with its binary data, None for one that has none. Raises `InvalidRequest`."""
    position = 0
    for index, tensor in enumerate(inputs):
        size = (tensor.parameters or {}).get(_BINARY_SIZE)
        if size is None:
            yield tensor, None
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - position:
            raise InvalidRequest(
                f"inputs[{index}].parameters.{_BINARY_SIZE}: must be bytes that follow the document"
            )
        yield tensor, rest[position : position + size]
        position += size
    if position != len(rest):
        raise InvalidRequest(f"inputs: more bytes follow the document than {_BINARY_SIZE} of the inputs say")


def texts_of(tensor: InputTensor, binary: memoryview | None, index: int, most: int) -> list[str]:
    """Return the elements of a BYTES tensor, in order; its shape does not matter.

    most: elements beyond which it is not read on. Raises `InvalidRequest`, `MalformedRequest`.
    """
    if binary is not None:
        return list(_binary_texts(binary, index, most))
    texts: list[str] = []
    for element in _flat(tensor.data, index):
        if not isinstance(element, str):
            raise InvalidRequest(f"inputs[{index}].data: a BYTES tensor holds strings")
        texts.append(element)
        if len(texts) > most:
            break
    return texts


def integers_of(tensor: InputTensor, binary: memoryview | None, index: int) -> IntArray:
    """Return an integer tensor, int64 of the shape that it states, which must be (B, T). Raises `InvalidRequest`."""
    if tensor.datatype not in _INTEGERS:
        raise InvalidRequest(f"inputs[{index}].datatype: must be INT64 or INT32")
    if len(tensor.shape) != 2 or min(tensor.shape) < 1:
        raise InvalidRequest(f"inputs[{index}].shape: must be two numbers, sequences and tokens, above 0")
    if binary is not None:
        kind = np.dtype(_INTEGERS[tensor.datatype])
        if len(binary) != prod(tensor.shape) * kind.itemsize:
            raise InvalidRequest(f"inputs[{index}]: the binary data has not as many bytes as its shape says")
        values = np.frombuffer(binary, dtype=kind)
    else:
        values = _as_integers(tensor.data, index)
        if values.size != prod(tensor.shape):
            raise InvalidRequest(f"inputs[{index}].data: has not as many elements as its shape says")
    return values.reshape(tensor.shape).astype(np.int64)


def _as_integers(data: object, index: int) -> IntArray:
    try:
        values = np.array(data)
    except (ValueError, OverflowError, RecursionError):  # ragged, or nested too deeply
        values = np.array(None)
    if values.dtype.kind != "i":  # else a number that is none, or beyond 64 bits
        raise InvalidRequest(
            f"inputs[{index}].data: must be whole numbers of 64 bits, flat or nested as its shape"
        )
    return values


def _flat(data: object, index: int) -> Iterator[object]:
    """Yield what nested lists hold, in order."""
    if not isinstance(data, list):
        raise InvalidRequest(f"inputs[{index}].data: required, as a list")
    stack = [iter(data)]
    while stack:
        for element in stack[-1]:
            if isinstance(element, list):
                if len(stack) == _MOST_DEPTH:
                    raise InvalidRequest(f"inputs[{index}].data: lists are nested too deeply")
                stack.append(iter(element))
                break
            yield element
        else:
            stack.pop()


def _binary_texts(binary: memoryview, index: int, most: int) -> Iterator[str]:
    position = count = 0
    while position < len(binary) and count <= most:
        end = position + _LENGTH.size
        length = _LENGTH.unpack(binary[position:end])[0] if end <= len(binary) else len(binary)
        if end + length > len(binary):
            raise InvalidRequest(f"inputs[{index}]: an element is longer than the binary data")
        try:
            yield str(binary[end : end + length], "utf-8")
        except UnicodeDecodeError:
            raise MalformedRequest(f"inputs[{index}]: an element is not text in UTF-8") from None
        position, count = end + length, count + 1
