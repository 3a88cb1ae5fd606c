"""How texts are read from arguments and files."""

from pathlib import Path

import pytest

from nerve.cli.inputs import Format, InputError, count_records, read_records


def read(path: Path, data: bytes, form: Format = Format()) -> list[str]:  # noqa: B008 - immutable
    """Write `data` and return the texts of it."""
    path.write_bytes(data)
    return [record.text for record in read_records([], [str(path)], form)]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\n\na\n", ["", "", "a"]),
        ("a\u2028b\x0b\x85c\n".encode(), ["a\u2028b\x0b\x85c"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"  a \n", ["  a "]),
    ],
)
def test_a_line_is_a_text(tmp_path: Path, data: bytes, texts: list[str]) -> None:
    """Only line feeds end a line; blank lines are texts; a byte order mark is not part of one."""
    assert read(tmp_path / "f", data) == texts
    assert count_records([], [str(tmp_path / "f")], Format()) == len(texts)


def test_a_whole_file_is_one_text(tmp_path: Path) -> None:
    """With whole, line feeds belong to the text."""
    assert read(tmp_path / "f", b"a\nb\n", Format(whole=True)) == ["a\nb\n"]
    assert count_records([], [str(tmp_path / "f")], Format(whole=True)) == 1


def test_json_lines_keep_their_fields(tmp_path: Path) -> None:
    """The text is the named field; the object comes along."""
    path = tmp_path / "f"
    path.write_bytes(b'{"id": 7, "body": "a"}\n')
    (record,) = read_records([], [str(path)], Format(jsonl=True, field="body"))
    assert (record.text, record.fields) == ("a", {"id": 7, "body": "a"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"id": 1}', "the field `text` is missing"),
        (b'{"text": null}', "the field `text` is not a string"),
        (b'{"text": "\\ud800"}', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 11"),
    ],
)
def test_bad_line_is_named_after_the_good_ones(tmp_path: Path, line: bytes, reason: str) -> None:
    """The message names file and line and never quotes the text; lines before it were read."""
    path = tmp_path / "f"
    path.write_bytes(b'{"text": "secret"}\n' + line + b"\n")
    records = read_records([], [str(path)], Format(jsonl=True))
    assert next(records).text == "secret"
    with pytest.raises(InputError) as failure:
        next(records)
    assert str(failure.value).startswith(f"{path}, line 2: {reason}")
    assert "secret" not in str(failure.value)


def test_arguments_come_before_files(tmp_path: Path) -> None:
    """Order is that of the command line."""
    (tmp_path / "f").write_text("b\n")
    assert [r.text for r in read_records(["a"], [str(tmp_path / "f")], Format())] == ["a", "b"]
    assert count_records(["a"], [str(tmp_path / "f")], Format()) == 2


def test_argument_that_is_not_utf8_is_refused() -> None:
    """Bytes that are not UTF-8 reach Python as lone surrogates."""
    with pytest.raises(InputError, match="argument 2: not valid UTF-8"):
        list(read_records(["a", "b\udcff"], [], Format()))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that cannot be opened is one clear line."""
    with pytest.raises(InputError, match=r"cannot read .*nope: No such file"):
        list(read_records([], [str(tmp_path / "nope")], Format()))


def test_count_of_a_pipe_is_unknown() -> None:
    """Stdin cannot be counted before it is read."""
    assert count_records(["-"], [], Format()) is None
    assert count_records([], ["-"], Format()) is None
