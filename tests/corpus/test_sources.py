"""Which inputs there are, and the names that they have in the output."""

from __future__ import annotations

from pathlib import Path

import pytest

from nerve.corpus.records import BadRow, InputError
from nerve.corpus.sources import Kind, find_sources, read_lines


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a folder with files of all kinds, hidden ones, and what an earlier run left."""
    for name in (
        "a.txt",
        "b.jsonl",
        "sub/c.csv",
        "sub/deep/d.txt",
        ".hidden",
        "_manifest.jsonl",
        "_errors/a.jsonl",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
    return tmp_path / "in"


def test_arguments_come_before_files(tmp_path: Path) -> None:
    """Order is that of the command line; stdin has its place in it."""
    file = tmp_path / "f.csv"
    file.write_text("text\nb\n")
    sources = find_sources(["a", "-", "c"], [str(file), "-"])
    assert [source.title for source in sources] == ["arguments", "stdin", "arguments", str(file), "stdin"]
    with sources[2].open("text") as reader:
        assert [row.origin for row in reader] == ["argument 3"]


def test_an_argument_that_is_not_utf8_is_bad() -> None:
    """Bytes that are not UTF-8 reach Python as lone surrogates."""
    (source,) = find_sources(["a", "b\udcff"], [])
    with source.open("text") as reader:
        _, bad = reader
    assert isinstance(bad, BadRow)
    assert (bad.origin, bad.reason) == ("argument 2", "not valid UTF-8")


def test_folders_are_mirrored(tree: Path) -> None:
    """All files below, by their names within; never hidden ones, nor what a run keeps for itself."""
    found = {source.name: source.kind for source in find_sources([], [str(tree)])}
    assert found == {
        "a.txt": Kind.TEXT,
        "b.jsonl": Kind.JSONL,
        "sub/c.csv": Kind.CSV,
        "sub/deep/d.txt": Kind.TEXT,
    }
    assert [source.name for source in find_sources([], [str(tree)], Kind.CSV)] == ["sub/c.csv"]
    without = find_sources([], [str(tree)], without=tree / "sub")
    assert [source.name for source in without] == ["a.txt", "b.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "sub/deep/d.txt"]),
        ("s*", ["sub/c.csv", "sub/deep/d.txt"]),
    ],
)
def test_globs(tree: Path, pattern: str, names: list[str]) -> None:
    """Their names are those below the folders that have no sign."""
    assert [source.name for source in find_sources([], [f"{tree}/{pattern}"])] == names


def test_what_is_not_there_is_named(tree: Path) -> None:
    """One clear line each."""
    for file, kind, reason in (
        ("nope", None, r"cannot read .*nope: No such file"),
        ("*.nope", None, r"no file matches .*\*\.nope"),
        (".", Kind.PARQUET, r"has no file that ends in \.parquet"),
    ):
        with pytest.raises(InputError, match=reason):
            find_sources([], [str(tree / file)], kind)


def test_lines_of_a_small_file(tmp_path: Path) -> None:
    """They are strict: `nerve verify` and `nerve tune` have no use for half a file."""
    path = tmp_path / "f"
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(InputError, match="line 2: not valid UTF-8"):
        read_lines(str(path))
