"""Bytes of inputs: compressed files, and what goes wrong while they are read."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from nerve.corpus.records import BadRow, InputError, Position, Record
from nerve.corpus.sources import Kind, Source, find_sources

LINES = "".join(f'{{"id": {n}, "text": "Anna {n} é"}}\n' for n in range(5_000)).encode()
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def texts_of(source: Source, start: Position = Position()) -> tuple[list[str], Position]:  # noqa: B008
    """Return the texts from a place on, and the place behind them."""
    with source.open("text", start) as reader:
        rows = list(reader)
        assert not any(isinstance(row, BadRow) for row in rows)
        return [row.text for row in rows if isinstance(row, Record)], reader.position


@pytest.mark.parametrize("ending", PACK)
def test_a_compressed_file_is_read_as_what_is_in_it(tmp_path: Path, ending: str) -> None:
    """By the ending before its own; from any place on; its size says nothing of how much there is to read."""
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / f"b.jsonl{ending}").write_bytes(PACK[ending](LINES))
    plain, packed = find_sources([], [str(tmp_path)], Kind.JSONL)
    assert (packed.kind, packed.n_bytes, plain.n_bytes) == (Kind.JSONL, None, len(LINES))
    expected, end = texts_of(plain)
    assert texts_of(packed) == (expected, end)
    with packed.open("text") as reader:
        rows = iter(reader)
        for _ in range(1_234):
            next(rows)
        place = reader.position
    assert texts_of(packed, place)[0] == expected[1_234:]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.WHOLE, Kind.JSONL, Kind.CSV])
def test_a_damaged_file_is_named(tmp_path: Path, ending: str, kind: Kind) -> None:
    """Cut short, broken in the middle, or not compressed at all: an error that says so, behind the rows before it."""
    packed = bytearray(PACK[ending](b"text\n" + LINES))
    broken = packed.copy()
    broken[len(broken) // 2 : len(broken) // 2 + 40] = bytes(40)
    for name, content in (
        ("short", bytes(packed[: len(packed) // 2])),
        ("broken", bytes(broken)),
        ("plain", LINES),
    ):
        path = tmp_path / f"{name}{ending}"
        path.write_bytes(content)
        (source,) = find_sources([], [str(path)], kind)
        with (
            pytest.raises(InputError, match=rf"cannot read .*{name}.*: (cut short|damaged, or not what)"),
            source.open("text") as reader,
        ):
            list(reader)


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.WHOLE, Kind.JSONL, Kind.CSV])
def test_a_device_that_fails_is_named(kind: Kind) -> None:
    """A disk, or a network file system, that answers with an error is an input that cannot be read, no defect."""
    path = Path("/proc/self/mem")  # its first page is never there
    if not path.exists():
        pytest.skip("no /proc")
    source = Source(kind, "x", "x", path, size=10)
    with pytest.raises(InputError, match="cannot read x: Input/output error"), source.open("text") as reader:
        list(reader)
