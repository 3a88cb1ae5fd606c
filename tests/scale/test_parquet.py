"""Parquet through `nerve predict` and `nerve redact`, as real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def nerve(command: str, model: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a folder to its end."""
    line = [sys.executable, "-m", "nerve", command, "--config", str(model), *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, check=False)


def table_of(n_rows: int) -> pa.Table:
    """Return a table with columns of many types."""
    return pa.table(
        {
            "id": pa.array(range(n_rows), pa.int32()),
            "text": pa.array(
                [f"Anna {index} in Paris" if index % 10 else None for index in range(n_rows)], pa.string()
            ),
            "deep": pa.array(
                [{"x": [index, None]} for index in range(n_rows)],
                pa.struct({"x": pa.list_(pa.int64())}.items()),
            ),
            "when": pa.array([index * 1_000 for index in range(n_rows)], pa.timestamp("ms", "UTC")),
        }
    )


def read(folder: Path, pattern: str = "*.parquet") -> pa.Table:
    """Read the parts of an output in order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(pattern))])


def test_columns_and_their_types_stay(model: Path, tmp_path: Path) -> None:
    """Redact replaces the text; predict adds rows; null texts are bad rows; row groups may be of any size."""
    table = table_of(5_000)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    good = table.filter(table["text"].is_valid())
    arguments = ["--file", "a.parquet", "--skip-bad", "--part-bytes", "24000", "--output"]
    assert nerve("redact", model, tmp_path, *arguments, "clean").returncode == 0
    clean = read(tmp_path / "clean")
    assert clean.schema == table.schema
    assert clean.drop_columns("text") == good.drop_columns("text")
    assert set(clean["text"].to_pylist()) == {f"<PER> {i} in <LOC>" for i in range(5_000) if i % 10}
    assert len(list((tmp_path / "clean").glob("*.parquet"))) == 34
    errors = [
        json.loads(line)
        for path in sorted((tmp_path / "clean/_errors").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [error["row"] for error in errors] == list(range(1, 5_001, 10))
    assert json.loads(errors[1]["content"]) == {
        "id": 10, "text": None, "deep": {"x": [10, None]}, "when": "1970-01-01T00:00:10Z",
    }  # fmt: skip

    assert nerve("predict", model, tmp_path, *arguments, "found").returncode == 0
    found = read(tmp_path / "found")
    assert found.select(table.column_names) == good
    row: dict[str, Any] = found.slice(3, 1).to_pylist()[0]
    assert (row["file"], row["rows"][0]["token"], row["rows"][0]["results"][0][0]) == (
        "a.parquet",
        "Anna",
        "PER",
    )


def test_a_run_goes_on_between_any_rows(model: Path, tmp_path: Path) -> None:
    """Whatever of the manifest is left."""
    pq.write_table(table_of(3_000), tmp_path / "a.parquet", row_group_size=999)
    arguments = ["--file", "a.parquet", "--skip-bad", "--part-bytes", "16000", "--output"]
    assert nerve("redact", model, tmp_path, *arguments, "whole").returncode == 0
    assert nerve("redact", model, tmp_path, *arguments, "out").returncode == 0
    manifest = tmp_path / "out/_manifest.jsonl"
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:4]))
    assert nerve("redact", model, tmp_path, *arguments, "out", "--resume").returncode == 0
    assert read(tmp_path / "out") == read(tmp_path / "whole")


def test_files_that_are_none(model: Path, tmp_path: Path) -> None:
    """Cut short, no Parquet, a column of another type, no rows: one line, or an error part."""
    pq.write_table(table_of(100), tmp_path / "good.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "short.parquet").write_bytes(whole[:-100])
    (tmp_path / "text.parquet").write_bytes(b"Anna\n")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    pq.write_table(table_of(0), tmp_path / "empty.parquet")
    strict = nerve("redact", model, tmp_path, "--file", "short.parquet", "--output", "strict")
    assert (strict.returncode, strict.stderr.count(b"\n")) == (1, 1)
    names = [f"{name}.parquet" for name in ("short", "text", "numbers", "empty", "good")]
    done = nerve("redact", model, tmp_path, "--file", *names, "--skip-bad", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "empty.parquet",
        "good.parquet",
    ]
    assert pq.read_table(tmp_path / "out/empty.parquet").schema == table_of(0).schema
    reasons = {
        path.name.partition(".")[0]: json.loads(path.read_text())["reason"]
        for path in (tmp_path / "out/_errors").iterdir()
        if not path.name.startswith("good")
    }
    assert "not a Parquet file" in reasons["short"]
    assert "not a Parquet file" in reasons["text"]
    assert "the column `text` holds int64, not text" in reasons["numbers"]
    to_stdout = nerve("redact", model, tmp_path, "--file", "good.parquet")
    assert b"Parquet goes to a file or a folder" in to_stdout.stderr
