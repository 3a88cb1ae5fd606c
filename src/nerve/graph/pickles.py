"""Reads the pickle of a state dict as data: no name in it is imported, and nothing in it is called.

`pickle.Unpickler` calls whatever a pickle asks for. This reader does not use it: `pickletools.genops` of the standard
library splits the bytes into opcodes, and the class below moves values on a stack as the opcodes say. A name is kept as
a name; `torch_names` has the few that a state dict needs, and every other one is `ForeignPickle`, whose text names it.

A hostile file costs little: opcodes are counted, a memo index or a length reserves no memory, keys are strings, and
values are never compared, printed or walked through, so nesting and repetition (`billion laughs`) do no harm.
"""

from __future__ import annotations

import pickletools
import warnings
from typing import TYPE_CHECKING, cast

from nerve.graph.torch_names import (
    DamagedPickle,
    ForeignPickle,
    PickledStorage,
    PickledTensor,
    call,
    describe_storage,
    fill,
    find_name,
    make_dict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

# A tensor takes about 45.
_MOST_OPCODES = 1_000_000


def read_pickle(data: bytes | IO[bytes]) -> tuple[object, dict[str, PickledStorage]]:
    """Return the value of one pickle (numbers, strings, lists, tuples, dicts, `PickledTensor`) and all its storages.

    data: the bytes, or a file whose position is left behind the pickle. Raises `DamagedPickle` and `ForeignPickle`.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of escapes in strings that no state dict has
            return machine.run(pickletools.genops(data)), machine.storages
    except DamagedPickle:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, EOFError) as error:
        raise DamagedPickle(f"its pickle is damaged: {type(error).__name__}") from error


class _Machine:
    """The stack, the marks on it and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # the stacks under each mark
        self._memo: dict[int, object] = {}
        self.storages: dict[str, PickledStorage] = {}

    def run(self, opcodes: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> object:
        """Follow the opcodes and return the value that they leave."""
        for count, (opcode, argument, _) in enumerate(opcodes):
            if count > _MOST_OPCODES:
                raise DamagedPickle(f"its pickle has more than {_MOST_OPCODES} steps")
            if opcode.name == "STOP":
                return self.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise ForeignPickle(f"its pickle uses the opcode {opcode.name}, which no state dict needs")
            step(self, argument)
        raise DamagedPickle("its pickle has no end")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> object:
        return self._stack.pop()

    def top(self) -> object:
        return self._stack[-1]

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[object]:
        found, self._stack = self._stack, self._below.pop()
        return found

    def pop_last(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.pop_mark()

    def pop_tuple(self, length: int) -> tuple[object, ...]:
        if len(self._stack) < length:
            raise DamagedPickle("its pickle takes more from the stack than is there")
        found = tuple(self._stack[-length:])
        del self._stack[-length:]
        return found

    def remember(self, index: int | None) -> None:
        at = len(self._memo) if index is None else index
        if not 0 <= at < 2**32:
            raise DamagedPickle("its pickle has a memo index out of range")
        self._memo[at] = self.top()

    def recall(self, index: int) -> None:
        self.push(self._memo[index])

    def append(self, values: list[object]) -> None:
        into = self.top()
        if type(into) is not list:
            raise DamagedPickle("its pickle appends to what is no list")
        into.extend(values)

    def set_items(self, values: list[object]) -> None:
        fill(self.top(), _pairs(values))

    def name_of_stack(self) -> None:
        module, name = self.pop_tuple(2)
        if type(name) is not str or type(module) is not str:
            raise DamagedPickle("its pickle has a name that is no string")
        self.push(find_name(module, name))

    def call(self) -> None:
        function, arguments = self.pop_tuple(2)
        self.push(call(function, arguments))

    def drop_state(self) -> None:
        """Leave out the attributes of an object, such as `_metadata` of a state dict."""
        self.pop()
        if type(self.top()) not in (dict, PickledTensor):
            raise ForeignPickle("its pickle sets attributes of something that is no state dict")

    def refer_to_storage(self) -> None:
        new, start = describe_storage(self.pop())
        known = self.storages.setdefault(new.key, new)
        if (known.kind, known.size) != (new.kind, new.size):
            raise DamagedPickle("its pickle says two things of one storage")
        self.push(PickledStorage(known.key, known.kind, known.size, start) if start else known)


def _pairs(values: list[object]) -> Iterator[tuple[object, object]]:
    return zip(values[::2], values[1::2], strict=True)


_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),  # how the pickle was written
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ),
        lambda machine, value: machine.push(value),
    ),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), lambda machine, index: machine.remember(index)
    ),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.recall(index)),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop_last(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_tuple(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_tuple(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_tuple(3)),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push(make_dict(_pairs(machine.pop_mark()))),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.pop_tuple(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": lambda machine, text: machine.push(find_name(*cast("str", text).split(" ", 1))),
    "STACK_GLOBAL": lambda machine, _: machine.name_of_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.drop_state(),
    "BINPERSID": lambda machine, _: machine.refer_to_storage(),
}
