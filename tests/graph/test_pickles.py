"""Pickled weights: what PyTorch writes is read to the bit, and whatever else a file holds does nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import runpy
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nerve.config import Precision
from nerve.errors import ModelError
from nerve.graph import is_buildable, load_graph
from nerve.graph.pickles import read_pickle
from nerve.graph.stored import NotBuildable
from nerve.graph.torch_files import read_torch_file
from nerve.graph.torch_names import DamagedPickle, ForeignPickle
from nerve.graph.weights import find_weights, open_weights

HERE = Path(__file__).parent
tiny = SimpleNamespace(**runpy.run_path(str(HERE.parent / "parity" / "tiny_checkpoints.py")))
torch = SimpleNamespace(**runpy.run_path(str(HERE / "torch_pickles.py")))
TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)


def read(content: bytes, folder: Path) -> dict[str, Any]:
    """Return the arrays of a file with this content."""
    (folder / "pytorch_model.bin").write_bytes(content)
    return dict(open_weights(find_weights(folder)))


def archive_of(table: bytes, content: bytes | None = None) -> bytes:
    """Return an archive with one tensor `a` over one storage `0`."""
    return torch.archive(
        torch.state_dict({"a": table}), {"0": TABLE.tobytes() if content is None else content}
    )


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_what_pytorch_wrote_is_read(form: str) -> None:
    """Every type, order of memory and shared storage gives PyTorch's numbers."""
    expected = json.loads((HERE / "data" / "torch_values.json").read_text())["values"]
    found = read_torch_file(HERE / "data" / f"torch_{form}.bin")
    assert {name for name in found if name != "float8"} == set(expected)
    for name, values in expected.items():
        tensor = found[name]
        array = np.array(values, np.float32)
        assert tensor.shape == array.shape if array.size else tensor.shape == (0, 3)
        np.testing.assert_array_equal(tensor.read().astype(np.float32), array.reshape(tensor.shape))
    kinds = ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool"]
    assert [found[kind].kind for kind in kinds] == kinds
    assert found["float8"].kind == "float8_e4m3fn"


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_pickled_checkpoint_gives_the_graph_of_safetensors(is_stream: bool, tmp_path: Path) -> None:
    """Byte for byte the same graph, alone or in shards."""
    tensors = tiny.make_tensors("bert")
    expected = load_graph(tiny.write_checkpoint(tmp_path / "plain"), Precision.AUTO, tmp_path)
    whole, shards = (tiny.write_checkpoint(tmp_path / one) for one in ("whole", "shards"))
    for folder in (whole, shards):
        (folder / "model.safetensors").unlink()
    (whole / "pytorch_model.bin").write_bytes(torch.checkpoint(tensors, is_stream))
    weight_map: dict[str, str] = {}
    for number in range(2):
        part = {name: tensors[name] for name in sorted(tensors)[number::2]}
        file = f"pytorch_model-{number}.bin"
        (shards / file).write_bytes(torch.checkpoint(part, is_stream))
        weight_map |= dict.fromkeys(part, file)
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for folder in (whole, shards):
        assert is_buildable(tiny.make_config("bert"), folder)
        found = load_graph(folder, Precision.AUTO, tmp_path)
        assert found.source == expected.source
        assert (found.n_words, found.n_positions) == (tiny.N_WORDS, tiny.N_POSITIONS)


def test_safetensors_come_first(tmp_path: Path) -> None:
    """Beside safetensors a pickle is not even opened."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert load_graph(folder, Precision.AUTO, tmp_path).n_words == tiny.N_WORDS


def test_big_endian_numbers_are_turned(tmp_path: Path) -> None:
    """The entry `byteorder` says how numbers are stored; any other word in it is an error."""
    pickled = torch.plain_state({"a": TABLE})
    content = {"0": TABLE.astype(">f4").tobytes()}
    found = read(torch.archive(pickled, content, {"model/byteorder": b"big"}), tmp_path)
    np.testing.assert_array_equal(found["a"], TABLE)
    with pytest.raises(ModelError, match="order of bytes"):
        read(torch.archive(pickled, content, {"model/byteorder": b"middle"}), tmp_path)


def test_a_storage_that_is_part_of_another(tmp_path: Path) -> None:
    """PyTorch before 0.4 wrote such parts: key, first element and size."""
    part = torch.tuple_of(
        torch.value("storage"),
        torch.name("torch.FloatStorage"),
        torch.value("0"),
        torch.value("cpu"),
        torch.value(12),
        torch.value(("1", 4, 8)),
    )
    pickled = torch.state_dict({"a": torch.tensor(part + b"Q", [2, 2], [4, 1], offset=1)})
    found = read(torch.stream(pickled, {"0": TABLE.tobytes()}), tmp_path)
    np.testing.assert_array_equal(found["a"], TABLE[1:, 1:3])


def test_numbers_stay_in_the_file(tmp_path: Path) -> None:
    """A float32 tensor is a view of the mapped file: nothing is copied."""
    found = read(torch.checkpoint({"a": TABLE}), tmp_path)
    assert not found["a"].flags.owndata
    assert not found["a"].flags.writeable


class Evil:
    """Makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["archive", "stream"])
@pytest.mark.parametrize("place", ["value", "attribute", "key"])
def test_no_code_is_run(place: str, form: str, protocol: int, tmp_path: Path) -> None:
    """A pickle that would run code is refused by the name that it asks for, wherever it stands."""
    evil: Any = Evil(tmp_path / "made")
    content = pickle.dumps(evil, protocol=protocol).removesuffix(b".")
    content = content[2:] if protocol >= 2 else content
    head = b"\x80\x02" + torch.call("collections.OrderedDict")
    pickled = {
        "value": head + torch.value("a") + content + b"s.",
        "attribute": head + b"}" + torch.value("_metadata") + content + b"sb.",
        "key": head + content + torch.value(1) + b"s.",
    }[place]
    made = torch.archive(pickled, {}) if form == "archive" else torch.stream(pickled, {})
    folder = tiny.write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(made)
    assert not is_buildable(tiny.make_config("bert"), folder)
    with pytest.raises(ModelError, match=r"asks for posix\.mkdir, which no state dict needs; save") as caught:
        load_graph(folder, Precision.AUTO, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


FOREIGN = {
    "a module of the machine": torch.name("os.system"),
    "a name inside a known module": torch.name("torch._utils.import_module"),
    "a name with dots": b"ccollections\nOrderedDict.__init__.__globals__\n",
    "a name of two lines": b"\x8c\x05torch\x8c\x0bload\nevil()\x93",
    "code from a URL": torch.name("torch.hub.load"),
    "an old class": b"(ios\nsystem\n",
    "an object": b"(" + torch.name("collections.OrderedDict") + b"o",
    "an object with keywords": torch.name("collections.OrderedDict") + b")}\x92",
    "a registered class": b"\x82\x01",
    "a registered class, 2": b"\x83\x01\x00",
    "a registered class, 4": b"\x84\x01\x00\x00\x00",
    "a name outside": b"Pname\n",
    "something outside": torch.value("x") + b"Q",
    "a module outside": torch.tuple_of(*[torch.value("module")] * 5) + b"Q",
    "attributes of a name": torch.name("torch.FloatStorage") + b"}b",
    "attributes of a list": b"]}b",
    "a set": b"\x8f",
    "a buffer": b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a",
    "a buffer outside": b"\x97",
    "keys of numbers": b"}" + torch.value(1) + torch.value(1) + b"s",
    "a tensor of a class of its own": torch.call(
        "torch._tensor._rebuild_from_type_v2",
        torch.name("torch._utils._rebuild_parameter"),
        torch.name("torch.Tensor"),
        b")",
        b"}",
    ),
    "a storage that is called": torch.call("torch.FloatStorage", torch.value(10**12)),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_no_state_dict_needs_is_refused(what: str, tmp_path: Path) -> None:
    """Every way of a pickle to a class, a module or the world outside is closed, in one line that says what it was."""
    with pytest.raises(NotBuildable, match="its pickle") as caught:
        read(archive_of(FOREIGN[what]), tmp_path)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whole", ["list", "tensor"])
def test_what_is_no_state_dict_is_refused(whole: str, tmp_path: Path) -> None:
    """A list of tensors, or one tensor, has no names."""
    one = torch.tensor(torch.storage("0", 12), [3, 4], [4, 1])
    pickled = b"\x80\x02" + (b"]" + one + b"a." if whole == "list" else one + b".")
    with pytest.raises(NotBuildable, match="no state dict"):
        read(torch.archive(pickled, {"0": TABLE.tobytes()}), tmp_path)


def test_tensors_one_deeper_are_refused(tmp_path: Path) -> None:
    """A checkpoint of a training: the line says where they are; without it each tensor would be missing."""
    one = torch.tensor(torch.storage("0", 12), [3, 4], [4, 1])
    inner = b"}" + torch.value("a") + one + b"s"
    pickled = torch.state_dict({"epoch": torch.value(3), "state_dict": inner})
    with pytest.raises(
        NotBuildable, match="its tensors are one deeper, in state_dict; save its tensors alone"
    ):
        read(torch.archive(pickled, {"0": TABLE.tobytes()}), tmp_path)


WHOLE = torch.storage("0", 12)
DAMAGED = {
    "beyond its storage": torch.tensor(WHOLE, [3, 5], [4, 1]),
    "far beyond its storage": torch.tensor(WHOLE, [2**40], [1]),
    "offset beyond its storage": torch.tensor(WHOLE, [1], [1], offset=12),
    "stride beyond its storage": torch.tensor(WHOLE, [2], [2**40]),
    "a bomb of one number": torch.tensor(WHOLE, [2**40], [0]),
    "a bomb of many axes": torch.tensor(WHOLE, [2**7] * 8, [0] * 8),
    "too many axes": torch.tensor(WHOLE, [1] * 100, [0] * 100),
    "a negative size": torch.tensor(WHOLE, [-1], [1]),
    "a negative stride": torch.tensor(WHOLE, [2], [-1], offset=4),
    "a negative offset": torch.tensor(WHOLE, [2], [1], offset=-1),
    "a size that is no number": torch.tensor(WHOLE, ["a"], [1]),  # type: ignore[list-item]
    "a size of many digits": torch.tensor(WHOLE, [2**70], [1]),
    "sizes without strides": torch.tensor(WHOLE, [2, 2], [1]),
    "a storage larger than its entry": torch.tensor(torch.storage("0", 13), [13], [1]),
    "a storage of another kind": torch.tensor(torch.storage("0", 12, "float64"), [12], [1]),
    "a storage that is not there": torch.tensor(torch.storage("1", 12), [12], [1]),
    "a storage outside": torch.tensor(torch.storage("../data.pkl", 12), [12], [1]),
    "two sizes of a storage": WHOLE + b"0" + torch.tensor(torch.storage("0", 6), [6], [1]),
    "no storage": torch.tensor(torch.value("0"), [1], [1]),
    "too few arguments": torch.call("torch._utils._rebuild_tensor_v2", WHOLE),
    "calls a number": torch.value(1) + b")R",
    "calls with a list": torch.name("collections.OrderedDict") + b"]R",
    "calls what was called": torch.call("collections.OrderedDict") + b")R",
    "an empty stack": b"000000",
    "a mark too many": b"ttt",
    "a memo that is not there": b"hh",
    "a memo of a huge index": b"Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff",
    "a memo of an endless index": b"Np" + b"9" * 4000 + b"\n",
    "a number of too many digits": b"L" + b"9" * 100_000 + b"L\n",
    "a string that is not there": b"X\xff\xff\xff\xff",
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 2**62),
    "a number that is not there": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "no UTF-8": b"X\x02\x00\x00\x00\xff\xff",
    "an opcode that there is not": b"\xff",
    "no end": b"N" * 5 + b"(" * 5,
    "a key without a value": b"}(" + torch.value("a") + b"u",
    "appends to a dict": b"}Na",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_nobody_writes_is_damage(what: str, tmp_path: Path) -> None:
    """Sizes, places and memo are believed only as far as the file bears them out."""
    content = archive_of(DAMAGED[what])
    if what == "no end":
        content = torch.archive(b"\x80\x02" + DAMAGED[what], {})
    with pytest.raises(
        ModelError, match=r"cannot be read as weights of PyTorch .*; fetch the checkpoint again"
    ):
        read(content, tmp_path)


LAUGHS = b"]q\x00" + b"".join(
    b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(200)
)
BOMBS = {
    "billion laughs": LAUGHS,
    "nested lists": b"]" * 300_000 + b"a" * 299_999,
    "nested tuples": b")" + b"\x85" * 300_000,
    "nested tuples as a key": b"})" + b"\x85" * 300_000 + b"Ns",
    "a list in itself": b"]q\x00h\x00a",
    "a dict in itself": b"}q\x00" + torch.value("a") + b"h\x00s",
    "many marks": b"(" * 400_000,
    "many steps": b"N0" * 2_000_000,
    "many copies": b"N" + b"2" * 3_000_000,
    "a long line": b"cos" + b"a" * 20_000_000,
}


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_cost_little(what: str, tmp_path: Path) -> None:
    """What grows when it is walked through is not walked through: seconds, and memory of the order of the file."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    content = b"\x80\x02" + torch.call("collections.OrderedDict") + torch.value("a") + BOMBS[what] + b"s."
    with contextlib.suppress(ModelError, NotBuildable):
        read(torch.archive(content, {}), tmp_path)
    assert time.monotonic() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # KiB


def zip_with(**changes: Any) -> bytes:
    """Return an archive whose entries are written otherwise than PyTorch does."""
    pickled = torch.plain_state({"a": TABLE})
    return torch.archive(pickled, {"0": TABLE.tobytes()}, **changes)


def patched(old: bytes, new: bytes) -> bytes:
    """Return an archive in which bytes are replaced."""
    content = zip_with()
    assert old in content
    return content.replace(old, new)


def compressed(size: int) -> bytes:
    """Return an archive with a compressed storage of zeros."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        zeros = np.zeros(size, np.float32)
        target.writestr("model/data.pkl", torch.plain_state({"a": zeros}))
        target.writestr("model/data/0", zeros.tobytes())
    return made.getvalue()


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"P",
    "a web page": lambda: b"<!DOCTYPE html>",
    "no directory": lambda: zip_with()[:-30],
    "cut": lambda: zip_with()[:200],
    "no pickle": lambda: zip_with().replace(b"data.pkl", b"data.pkx"),
    "two pickles": lambda: zip_with(more={"other/data.pkl": b"N."}),
    "two entries of one name": lambda: zip_with(more={"model/data/1": b"a", "model/data/2": b"b"}).replace(
        b"data/2", b"data/1"
    ),
    "entries elsewhere": lambda: patched(b"PK\x03\x04", b"PK\x03\x05"),
    "a directory of nonsense": lambda: patched(b"PK\x01\x02", b"PK\x01\x03"),
    "a bomb": lambda: compressed(50_000_000),
    "a pickle far below": lambda: zip_with().replace(b"model/data.pkl", b"model/d/ta.pkl"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_that_nobody_writes_are_damage(what: str, tmp_path: Path) -> None:
    """An archive is believed only where it says one thing, and what is at its place is inside it."""
    with pytest.raises(ModelError, match="fetch the checkpoint again"):
        read(ARCHIVES[what](), tmp_path)


def test_a_program_is_refused(tmp_path: Path) -> None:
    """TorchScript is code."""
    with pytest.raises(NotBuildable, match="TorchScript"):
        read(zip_with(more={"model/constants.pkl": b"N."}), tmp_path)


def test_entries_that_nobody_asks_for_are_left_alone(tmp_path: Path) -> None:
    """Names with paths are no paths here: nothing is unpacked."""
    found = read(zip_with(more={"../../outside": b"a", "/etc/x": b"b", "model/.data/id": b"1"}), tmp_path)
    np.testing.assert_array_equal(found["a"], TABLE)
    assert [file.name for file in tmp_path.iterdir()] == ["pytorch_model.bin"]


@pytest.mark.parametrize("is_stream", [False, True])
def test_no_cut_of_a_file_gets_through(is_stream: bool, tmp_path: Path) -> None:
    """A half-fetched file is an error at every length, never other numbers."""
    whole = torch.checkpoint({"a": TABLE, "b": TABLE[:1]}, is_stream)
    for keep in range(len(whole)):
        with pytest.raises(ModelError, match="fetch the checkpoint again"):
            read(whole[:keep], tmp_path)


@pytest.mark.parametrize("is_stream", [False, True])
def test_random_damage_is_an_error_or_numbers(is_stream: bool, tmp_path: Path) -> None:
    """Whatever bytes change, the reader gives arrays or one of its errors, and never asks for much memory."""
    whole = bytearray(torch.checkpoint({"a": TABLE, "b": TABLE[:1]}, is_stream))
    random = np.random.default_rng(0)
    for _ in range(1500):
        content = bytearray(whole)
        for at in random.integers(0, len(content), random.integers(1, 4)):
            content[at] = random.integers(0, 256)
        try:
            found = read(bytes(content), tmp_path)
        except (ModelError, NotBuildable):
            continue
        assert all(value.dtype == np.float32 for value in found.values())


@pytest.mark.parametrize("is_stream", [False, True])
def test_random_pickles_import_nothing(is_stream: bool) -> None:
    """Random opcodes leave no module behind that was not there."""
    random = np.random.default_rng(1)
    opcodes = np.frombuffer(b"(.0N12]}),RQabcdehijlotsuq\x80\x81\x85\x86\x87\x88\x89\x8c\x93\x94", np.uint8)
    names = [b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"csys\nexit\n"]
    before = set(sys.modules)
    for _ in range(3000):
        parts = [opcodes[random.integers(0, len(opcodes), 12)].tobytes() for _ in range(4)]
        content = names[random.integers(0, 3)].join(parts) + b"."
        try:
            read_pickle(content)
        except (DamagedPickle, ForeignPickle):
            continue
    assert set(sys.modules) == before


def test_memory_is_that_of_the_file(tmp_path: Path) -> None:
    """Opening 200 MB of tensors takes none of it; reading them one by one takes the largest, not all."""
    file = tmp_path / "pytorch_model.bin"
    tables = {f"t{index}": np.full((1250, 1000), index, np.float16) for index in range(80)}
    pickled = torch.plain_state(tables)
    file.write_bytes(
        torch.archive(pickled, {str(i): table.tobytes() for i, table in enumerate(tables.values())})
    )
    program = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from nerve.graph.weights import find_weights, open_weights

        def private():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

        before = private()
        weights = open_weights(find_weights(Path(sys.argv[1])))
        opened = private()
        most = 0
        for index, name in enumerate(weights):
            assert weights[name][7, 7] == index
            most = max(most, private())
        print(opened - before, most - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True
    )
    opened, most = map(int, done.stdout.split())
    assert opened < 20_000  # KiB; the file has 200,000
    assert most < 40_000  # one tensor has 5,000 as float32


@pytest.mark.parametrize("kind", ["int8", "int64"])
def test_whole_numbers_are_no_weights(kind: str, tmp_path: Path) -> None:
    """A quantised tensor is refused by name, whatever file it is in."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors = tiny.make_tensors("bert")
    tensors[name] = tensors[name].astype(kind)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{name} is {kind}, as quantised weights are"):
        load_graph(folder, Precision.AUTO, tmp_path)
