"""What is written is seen whole or not at all, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nerve.checkpoint.storage import draft_beside, place, staging, storage_errors, write_json, write_whole
from nerve.errors import CheckpointError


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """A reader that has the old file open goes on reading the old text; nothing else is left beside the new one."""
    file = tmp_path / "figures.json"
    write_whole(file, "old")
    with file.open(encoding="utf-8") as reader:
        write_whole(file, "é")
        assert reader.read() == "old"
    assert file.read_bytes() == "é".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_file_can_be_read_by_those_whom_the_umask_lets(tmp_path: Path) -> None:
    """Caches are shared: a draft of one's own must not make the file one's own."""
    usual, ours = tmp_path / "usual", tmp_path / "ours"
    usual.write_text("")
    write_whole(ours, "")
    assert ours.stat().st_mode == usual.stat().st_mode


def test_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    """A failure half-way leaves the old content and no draft."""
    file = tmp_path / "file"
    write_whole(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new \ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "nowhere" / "file", "new")


def test_json_that_says_the_same_is_left_alone(tmp_path: Path) -> None:
    """So that a cache which is complete can be read-only."""
    file = tmp_path / "deep" / "listing.json"
    write_json(file, {"b": 1, "a": 2})
    before = file.stat().st_ino
    write_json(file, {"a": 2, "b": 1})
    assert file.stat().st_ino == before
    write_json(file, {"a": 3})
    assert file.stat().st_ino != before


def test_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """Nothing has the name before; others may enter it afterwards."""
    entry = tmp_path / "graphs" / "key"
    with draft_beside(entry) as draft:
        (draft / "model.onnx").write_bytes(b"graph")
        assert draft.parent == entry.parent
        assert not entry.exists()
        place(draft, entry)
    assert (entry / "model.onnx").read_bytes() == b"graph"
    assert os.listdir(entry.parent) == ["key"]
    assert entry.stat().st_mode & 0o777 == 0o755


def test_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What was begun is removed, and drafts of the same entry do not meet."""

    def fail() -> None:
        with draft_beside(tmp_path / "key") as one, draft_beside(tmp_path / "key") as other:
            assert one != other
            (one / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_only_drafts_of_the_same_entry_are_removed(tmp_path: Path) -> None:
    """What a killed process left of `a` goes; a draft of `a.partial-b`, or of `ab` for an entry `a*`, is in use."""
    with draft_beside(tmp_path / "a") as left, draft_beside(tmp_path / "a.partial-b") as used:
        with staging(tmp_path / "a"):
            assert (left.exists(), used.exists()) == (False, True)
        with staging(tmp_path / "a*"), staging(tmp_path / "?.partial-b"):
            assert used.exists()


def test_full_disk_and_unwritable_cache_are_named(tmp_path: Path) -> None:
    """Errors of the cache's disk say which folder and what to do; /dev/full is a full disk for one write."""
    with (
        pytest.raises(CheckpointError, match=r"the disk of .* is full; free space"),
        storage_errors(tmp_path),
    ):
        Path("/dev/full").write_text("x")
    (tmp_path / "file").touch()
    with (
        pytest.raises(CheckpointError, match=r"cannot write to .*file/cache.*model\.cache_dir"),
        storage_errors(tmp_path),
    ):
        (tmp_path / "file" / "cache").mkdir(parents=True)
