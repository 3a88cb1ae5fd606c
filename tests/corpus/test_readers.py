"""How rows are read: lines, JSON lines, CSV, whole files; and what is wrong with bad ones."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve.corpus import readers
from nerve.corpus.records import BadRow, InputError, Position, Record
from nerve.corpus.sources import Kind, Source, find_sources


def source_of(path: Path, data: bytes, kind: Kind) -> Source:
    """Write `data` and return it as an input."""
    path.write_bytes(data)
    (source,) = find_sources([], [str(path)], kind)
    return source


def read(path: Path, data: bytes, kind: Kind = Kind.TEXT, column: str = "text") -> list[Record | BadRow]:
    """Write `data` and return its rows."""
    with source_of(path, data, kind).open(column) as reader:
        return list(reader)


def texts(rows: list[Record | BadRow]) -> list[str]:
    """Return the texts, and the reasons of what is bad in angle brackets."""
    return [row.text if isinstance(row, Record) else f"<{row.reason}>" for row in rows]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\n\na\n", ["", "", "a"]),
        ("a\u2028b\x0b\x85c\n".encode(), ["a\u2028b\x0b\x85c"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"  a \n", ["  a "]),
        (b"a\n\xff\nb", ["a", "<not valid UTF-8 at byte 1>", "b"]),
        (b"a\0b\n", ["a\0b"]),
    ],
)
def test_a_line_is_a_text(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    """Only line feeds end a line; blank lines are texts; a byte order mark is not part of one."""
    assert texts(read(tmp_path / "f", data)) == expected


def test_a_whole_file_is_one_text(tmp_path: Path) -> None:
    """With whole, line feeds belong to the text."""
    assert texts(read(tmp_path / "f", b"a\nb\n", Kind.WHOLE)) == ["a\nb\n"]
    assert texts(read(tmp_path / "f", b"\xff", Kind.WHOLE)) == ["<not valid UTF-8 at byte 1>"]


def test_json_lines_keep_their_fields(tmp_path: Path) -> None:
    """The text is the named field; the others are copied byte for byte, numbers that no float holds among them."""
    data = b'{"id": 12345678901234567890123, "x": 1.50, "body": "a", "deep": {"y": [1e400]}}\n'
    (row,) = read(tmp_path / "f", data, Kind.JSONL, "body")
    assert isinstance(row, Record)
    copied = {name: bytes(value) for name, value in row.columns().items() if name != "body"}
    assert (row.text, copied) == (
        "a",
        {"id": b"12345678901234567890123", "x": b"1.50", "deep": b'{"y": [1e400]}'},
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"id": 1}', "the field `text` is missing"),
        (b'{"text": null}', "the field `text` is not a string"),
        (b'{"text": {"text": "a"}}', "the field `text` is not a string"),
        (b'{"text": "\\ud800"}', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 11"),
        (b'{"text": "a", "x": tru}', "not valid JSON"),
        (b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    ],
    ids=range(10),
)
def test_bad_rows_are_named_between_the_good_ones(tmp_path: Path, line: bytes, reason: str) -> None:
    """The reason names file and line, and never quotes the text; the row itself is at hand; reading goes on."""
    path = tmp_path / "f"
    data = b'{"text": "secret"}\n' + line + b'\n{"text": "b"}\n'
    first, bad, last = read(path, data, Kind.JSONL)
    assert (first.text, last.text) == ("secret", "b")  # type: ignore[union-attr]
    assert isinstance(bad, BadRow)
    assert (bad.origin, bad.content, bad.number) == (f"{path}, line 2", line, 2)
    assert bad.reason.startswith(reason)
    assert "secret" not in bad.reason


def test_csv_below_a_line_of_names(tmp_path: Path) -> None:
    """Quotes hold commas, quotes and line ends; the line of names tells the separator; blank lines are no rows."""
    data = b'\xef\xbb\xbfid,text\r\n1,"a, ""b""\r\nc"\r\n\r\n2,d\r\n'
    rows = read(tmp_path / "f", data, Kind.CSV)
    assert texts(rows) == ['a, "b"\r\nc', "d"]
    assert [row.number for row in rows] == [2, 5]
    for sign in ";\t|":
        assert texts(read(tmp_path / "f", f"id{sign}text\n1{sign}a, b\n".encode(), Kind.CSV)) == ["a, b"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'id,text\n1,"a\n2,b\n', ["<not valid CSV: a quote is not closed, or stands within a cell>", "b"]),
        (b"id,text\n1\n2,b\n", ["<1 cells; the first line names 2>", "b"]),
        (b"id,text\n1,a,c\n2,b\n", ["<3 cells; the first line names 2>", "b"]),
        (b"id,text\n1,\xff\n2,b\n", ["<not valid UTF-8 at byte 3>", "b"]),
        (b"text\n\0\nb\n", ["\0", "b"]),
    ],
)
def test_a_bad_record_costs_one_row(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    """Also a quote that nobody closes."""
    assert texts(read(tmp_path / "f", data, Kind.CSV)) == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "no line of names"), (b"id,body\n1,a\n", "no column `text`"), (b"text,text\n", "two columns")],
)
def test_csv_without_a_column_of_texts(tmp_path: Path, data: bytes, reason: str) -> None:
    """Is wrong as a whole."""
    with pytest.raises(InputError, match=reason):
        read(tmp_path / "f", data, Kind.CSV)


def test_rows_of_any_length_take_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is above the bound is read over, wherever it stands, and what follows is read; a document has no bound."""
    monkeypatch.setattr(readers, "MOST_ROW_BYTES", 100)
    long = b"x" * 5_000
    for kind, head in ((Kind.TEXT, b""), (Kind.CSV, b"text\n")):
        rows = read(tmp_path / "f", head + b"a\n" + long + b"\nb\n", kind)
        assert texts(rows) == ["a", "<longer than 16 MiB>", "b"]
        assert [row.content for row in rows if isinstance(row, BadRow)] == [None]
    quoted = b'text\n"' + b"y\n" * 200 + b'"\nb\n'
    rows = read(tmp_path / "f", quoted, Kind.CSV)
    assert isinstance(rows[0], BadRow)
    assert texts(rows)[-1] == "b"
    assert texts(read(tmp_path / "f", long, Kind.WHOLE)) == [long.decode()]  # it is what was asked for


@given(
    rows=st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=2), max_size=8),
    ending=st.sampled_from(["\n", "\r\n"]),
    kind=st.sampled_from([Kind.TEXT, Kind.JSONL, Kind.CSV]),
)
def test_a_reader_goes_on_anywhere(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], ending: str, kind: Kind
) -> None:
    """From the position after any row another reader reads what the first one would have."""
    stream = io.StringIO(newline="")
    if kind is Kind.CSV:
        csv.writer(stream, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows([["id", "text"], *rows])
    elif kind is Kind.JSONL:
        stream.writelines(json.dumps({"id": first, "text": text}) + ending for first, text in rows)
    else:
        stream.writelines(text.replace("\n", " ").replace("\r", " ") + ending for _, text in rows)
    source = source_of(tmp_path_factory.mktemp("any") / "f", stream.getvalue().encode(), kind)
    with source.open("text") as reader:
        passed: list[tuple[Position, str]] = []
        for row in reader:
            assert isinstance(row, Record)
            passed.append((reader.position, row.text))
    if kind is not Kind.TEXT:
        assert [text for _, text in passed] == [text for _, text in rows]
    for index, (position, _) in enumerate(passed):
        with source.open("text", position) as reader:
            assert texts(list(reader)) == [text for _, text in passed[index + 1 :]]
            assert reader.position == passed[-1][0]
