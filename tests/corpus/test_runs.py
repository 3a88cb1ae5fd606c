"""`nerve predict` and `nerve redact` over corpora, as real processes with the lookup model."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from builders import ServerProcess, write_config
from nerve.api import load
from nerve.corpus.answers import Task, answer_here
from nerve.corpus.manifest import MANIFEST, Entry, Header, Manifest
from nerve.corpus.output import FolderOutput
from nerve.corpus.records import Position
from nerve.corpus.run import Run
from nerve.corpus.sources import find_sources
from nerve.corpus.writers import Layout

Call = Callable[..., subprocess.CompletedProcess[bytes]]
WORDS = ("Anna Maria lives in New York", "Bob sees Paris", "a . x and y", "bob@example.org in Newville")


@pytest.fixture
def config(lookup_model: Path, tmp_path: Path) -> Path:
    """Write a config file that serves the lookup model with a rule."""
    return write_config(
        tmp_path / "config.yaml",
        lookup_model,
        runtime={"patterns": ["email"]},
        limits={"max_input_tokens": 1_000, "max_request_tokens": 2_000},
    )


@pytest.fixture
def nerve(config: Path, tmp_path: Path) -> Call:
    """Return what runs a command to its end, in the folder of the test, with pipes for all streams."""
    # A key that an endpoint of another test made in this process would be every command's.
    environment = {name: value for name, value in os.environ.items() if name != "NERVE_REDACTION_KEY"}

    def call(command: str, *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            line_of(command, config, *arguments),
            input=stdin,
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )

    return call


def line_of(command: str, config: Path, *arguments: str | Path) -> list[str]:
    """Return a command line."""
    return [sys.executable, "-m", "nerve", command, "--config", str(config), *map(str, arguments)]


def write_rows(path: Path, n_rows: int) -> list[dict[str, Any]]:
    """Write JSON lines of texts with other fields; returns them."""
    rows = [
        {"id": index, "text": f"{WORDS[index % 4]} {index}", "tags": ["é", 1.5]} for index in range(n_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files of an output but its manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "_manifest.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def entries(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the manifest behind the first."""
    return [json.loads(line) for line in (folder / "_manifest.jsonl").read_text().splitlines()[1:]]


def lines(content: bytes) -> list[dict[str, Any]]:
    """Decode JSON lines."""
    return [json.loads(line) for line in content.splitlines()]


def test_a_folder_is_mirrored(nerve: Call, tmp_path: Path) -> None:
    """Each input has its output, in its own format; columns stay, in order; lines name their file."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl").write_text('{"id": 1.50, "text": "Anna", "z": null}\n')
    (folder / "sub/b.csv").write_text('id,text,z\r\n1,"Bob, ""x""\r\ny",\r\n')
    (folder / "sub/c.txt").write_text("Paris\r\nx\n")
    (folder / "empty.csv").write_text("text\n")
    done = nerve("predict", "--file", "in", "--output", "out")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"nerve predict: texts 4, entities 3: LOC 1, PER 2\n"
    files = tree(tmp_path / "out")
    assert sorted(files) == ["a.jsonl", "empty.csv", "sub/b.csv", "sub/c.txt.jsonl"]
    assert files["a.jsonl"].startswith(
        b'{"file":"in/a.jsonl","id":1.50,"text":"Anna","z":null,"rows":[{"token":"Anna"'
    )
    names, row = csv.reader(files["sub/b.csv"].decode().splitlines(keepends=True))
    assert (names, row[:4]) == (
        ["file", "id", "text", "z", "rows"],
        ["in/sub/b.csv", "1", 'Bob, "x"\r\ny', ""],
    )
    assert json.loads(row[4])[0]["token"] == "Bob"
    assert files["empty.csv"] == b"file,text,rows\n"
    assert [line["text"] for line in lines(files["sub/c.txt.jsonl"])] == ["Paris", "x"]

    done = nerve("redact", "--file", "in", "--output", "clean")
    assert tree(tmp_path / "clean") == {
        "a.jsonl": b'{"id":1.50,"text":"<PER>","z":null}\n',
        "empty.csv": b"text\n",
        "sub/b.csv": b'id,text,z\r\n1,"<PER>, ""x""\r\ny",\r\n',
        "sub/c.txt": b"<LOC>\r\nx\n",
    }


@pytest.mark.parametrize("command", ["predict", "redact"])
def test_a_killed_run_goes_on_where_it_stopped(
    command: str, nerve: Call, config: Path, tmp_path: Path
) -> None:
    """SIGKILL anywhere, then --resume: every row once, byte for byte what a run in one go writes."""
    (tmp_path / "in").mkdir()
    rows = write_rows(tmp_path / "in/a.jsonl", 6_000)
    write_rows(tmp_path / "in/b.jsonl", 300)
    common = ["--file", "in", "--part-bytes", "20000"]
    assert nerve(command, *common, "--output", "whole").returncode == 0
    out, times_killed = tmp_path / "out", 0
    for least in (3, 10):
        process = subprocess.Popen(
            line_of(command, config, *common, "--output", "out", "--resume"),
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and (
            not (out / "_manifest.jsonl").exists() or len(entries(out)) < least
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        times_killed += process.wait() == -signal.SIGKILL
    assert times_killed > 0, "the runs ended before they could be killed"
    n_before = len(entries(out))
    done = nerve(command, *common, "--output", "out", "--resume")
    assert done.returncode == 0
    assert tree(out) == tree(tmp_path / "whole")
    written = [
        row for name, content in sorted(tree(out).items()) if name.startswith("a-") for row in lines(content)
    ]
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    assert len(entries(out)) == len(entries(tmp_path / "whole")) > n_before
    assert done.stderr.splitlines()[-1].startswith(f"nerve {command}: texts 6300, ".encode())
    again = nerve(command, *common, "--output", "out", "--resume")
    assert (again.returncode, again.stderr) == (0, done.stderr.splitlines()[-1] + b"\n")


def test_a_torn_manifest_and_a_part_without_its_line(nerve: Call, tmp_path: Path) -> None:
    """What a crash can leave behind between two steps is done again under the same names."""
    write_rows(tmp_path / "a.jsonl", 600)
    common = ["--file", "a.jsonl", "--part-bytes", "5000", "--output", "out"]
    assert nerve("predict", *common).returncode == 0
    whole = tree(tmp_path / "out")
    manifest = tmp_path / "out/_manifest.jsonl"
    kept = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(kept[:3]) + kept[3][:20])
    (tmp_path / "out/.a-00002.jsonl.part").write_bytes(b"half")
    assert nerve("predict", *common, "--resume").returncode == 0
    assert tree(tmp_path / "out") == whole
    assert manifest.read_bytes() == b"".join(kept)


def test_the_folder_of_another_run_is_left_alone(nerve: Call, tmp_path: Path) -> None:
    """One line says why: there is a run already, of another command or with other settings, or the input changed."""
    write_rows(tmp_path / "a.jsonl", 8)
    common = ["--file", "a.jsonl", "--output", "out"]
    assert nerve("redact", *common).returncode == 0
    before = tree(tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes").write_text("mine")
    for command, arguments, reason in (
        ("redact", common, b"out holds a run already; go on with it with --resume"),
        ("predict", [*common, "--resume"], b"out holds a run of nerve redact"),
        ("redact", [*common, "--resume", "--labels", "PER"], b"with other settings (labels)"),
        ("redact", [*common, "--resume", "--operators", "mask"], b"with other settings (operators)"),
        ("redact", ["--file", "a.jsonl", "--output", "other"], b"other holds other files"),
        ("redact", ["--file", "a.jsonl", "--resume"], b"--resume goes on with a run in a folder"),
        (
            "redact",
            ["--file", "a.jsonl", "--resume", "--output", "b.jsonl"],
            b"there is no folder b.jsonl; name that of the run",
        ),
        (
            "redact",
            ["--file", "a.jsonl", "--resume", "--output", "a.jsonl"],
            b"a.jsonl is a file; name a folder",
        ),
        (
            "redact",
            ["--file", "a.jsonl", "a.jsonl", "--output", "new"],
            b"a.jsonl would be written more than once",
        ),
    ):
        done = nerve(command, *arguments)
        assert done.returncode in {1, 2}
        assert (reason in done.stderr, done.stderr.count(b"\n")) == (True, 1), done.stderr
    assert tree(tmp_path / "out") == before
    assert tree(tmp_path / "other") == {"notes": b"mine"}
    write_rows(tmp_path / "a.jsonl", 9)
    assert b"a.jsonl has changed since" in nerve("redact", *common, "--resume").stderr
    assert not (tmp_path / "b.jsonl").exists()
    assert nerve("redact", "Anna", "\udcff", "--skip-bad", "--output", "texts").returncode == 0
    other = nerve("redact", "Bob", "\udcff", "--skip-bad", "--output", "texts", "--resume")
    assert b"arguments has changed since" in other.stderr
    written = tmp_path / "texts/_manifest.jsonl"
    header, entry = lines(written.read_bytes())
    del entry["digest"]  # as an earlier version wrote it
    written.write_text(f"{json.dumps(header)}\n{json.dumps(entry)}\n")
    again = nerve("redact", "Anna", "\udcff", "--skip-bad", "--output", "texts", "--resume")
    assert again.returncode == 0, again.stderr


def test_a_line_of_the_manifest_is_written_whole(tmp_path: Path) -> None:
    """A disk that fills up takes the beginning of a line, and refuses only what comes next: a torn line comes last."""

    class NearlyFull(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:7])

    manifest = Manifest(tmp_path / "out", Header("1", "redact", {}), resume=False)
    with NearlyFull(tmp_path / "out" / MANIFEST, "ab") as file:
        manifest._file.close()
        manifest._file = file
        for number in range(2):
            manifest.add(Entry("a", "a", number, 1, 0, Position(), last=False))
    again = Manifest(tmp_path / "out", Header("1", "redact", {}), resume=True)
    assert [entry.number for entry in again.entries] == [0, 1]
    again.close()


def test_two_runs_never_write_to_one_folder(nerve: Call, config: Path, tmp_path: Path) -> None:
    """The second one says so and ends."""
    command = line_of("predict", config, "-", "--jsonl", "--output", "out")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as first:
        while not (tmp_path / "out/_manifest.jsonl").exists():
            time.sleep(0.01)
        second = nerve("predict", "-", "--jsonl", "--output", "out", "--resume")
        first.communicate(b'{"text": "Anna"}\n')
    assert (second.returncode, b"another run is writing to out" in second.stderr) == (1, True)
    assert first.returncode == 0
    assert len(lines(tree(tmp_path / "out")["stdin-00000.jsonl"])) == 1


def test_bad_rows_go_to_an_error_part(nerve: Call, tmp_path: Path) -> None:
    """With their reason and as they stand; nothing of them is lost, and nothing of them ends the run."""
    huge = json.dumps({"text": "Anna " * 20_000})
    bad = [b"{", b'{"id": 1}', b'{"text": null}', b'{"text": ["a"]}', b'{"text": "\xff"}', huge.encode(), b""]
    good = [json.dumps({"text": f"Anna {index}"}).encode() for index in range(40)]
    mixed = [line for index in range(7) for line in (*good[index * 5 : index * 5 + 5], bad[index])] + good[
        35:
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(mixed) + b"\n")
    (tmp_path / "b.csv").write_text('id,text\n1,Anna\n2,"Bob\n3\n4,Paris\n')
    (tmp_path / "c.csv").write_text("id,body\n1,Anna\n")
    (tmp_path / "d.jsonl").write_text("{\n")
    files = ["--file", "a.jsonl", "b.csv", "c.csv", "d.jsonl"]
    strict = nerve("predict", *files, "--output", "strict")
    assert (strict.returncode, strict.stderr) == (
        1,
        b"nerve: a.jsonl, line 6: not valid JSON; mend it, or leave such rows out with --skip-bad\n",
    )
    done = nerve("predict", *files, "--output", "out", "--skip-bad")
    assert done.returncode == 0
    assert done.stderr.startswith(b"nerve predict: texts 42, bad rows 11, ")
    files_out = tree(tmp_path / "out")
    assert [line["text"] for line in lines(files_out["a.jsonl"])] == [f"Anna {index}" for index in range(40)]
    errors = lines(files_out["_errors/a.jsonl.jsonl"])
    assert all("content" in error or "content_base64" in error for error in errors)
    assert {error["row"]: error["reason"].split(";")[0] for error in errors} == {
        6: "not valid JSON",
        12: "the field `text` is missing",
        18: "the field `text` is not a string",
        24: "the field `text` is not a string",
        30: "not valid UTF-8 at byte 11",
        36: "more than 1000 tokens, above limits.max_input_tokens = 1000",
        42: "not valid JSON",
    }
    assert [row[:3] for row in csv.reader(files_out["b.csv"].decode().splitlines())] == [
        ["file", "id", "text"],
        ["b.csv", "1", "Anna"],
        ["b.csv", "4", "Paris"],
    ]
    assert [error["content"] for error in lines(files_out["_errors/b.csv.jsonl"])] == ['2,"Bob\n', "3\n"]
    assert "c.csv" not in files_out
    assert "d.jsonl" not in files_out
    (error,) = lines(files_out["_errors/c.csv.jsonl"])
    assert "no column `text`" in error["reason"]
    assert (tmp_path / "out/_errors/a.jsonl.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_compressed_corpus_is_read_over_and_goes_on(nerve: Call, tmp_path: Path) -> None:
    """Its parts are those of the file that is in it, also after a cut; what is damaged costs what is behind it."""
    write_rows(tmp_path / "a.jsonl", 900)
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "in").mkdir()
    packed = gzip.compress(content, 1)
    (tmp_path / "in/a.jsonl.gz").write_bytes(packed)
    common = ["--part-bytes", "5000", "--no-text"]
    assert nerve("predict", *common, "--file", "in", "--output", "packed").returncode == 0
    assert nerve("predict", *common, "--file", "a.jsonl", "--output", "plain").returncode == 0

    def answers(folder: str) -> dict[str, list[dict[str, Any]]]:
        files = tree(tmp_path / folder).items()
        return {name: [{**line, "file": ""} for line in lines(part)] for name, part in files}

    assert answers("packed") == answers("plain")
    manifest = tmp_path / "packed/_manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    assert nerve("predict", *common, "--file", "in", "--output", "packed", "--resume").returncode == 0
    assert (manifest.read_bytes(), answers("packed")) == (whole, answers("plain"))

    (tmp_path / "in/a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "in/b.txt").write_text("Anna\n")
    done = nerve("predict", *common, "--file", "in", "--output", "cut")
    assert (done.returncode, done.stderr) == (
        1,
        b"nerve: cannot read in/a.jsonl.gz: cut short; check the file, or name another\n",
    )
    done = nerve("predict", *common, "--file", "in", "--output", "cut", "--resume", "--skip-bad")
    assert done.returncode == 0
    found = answers("cut")
    (bad,) = (line for name, part in found.items() if name.startswith("_errors") for line in part)
    assert (bad["row"], bad["reason"]) == (
        0,
        "cannot read in/a.jsonl.gz: cut short; check the file, or name another",
    )
    ids = [line["id"] for name, part in sorted(found.items()) if name.startswith("a-") for line in part]
    assert ids == list(range(len(ids)))
    assert len(ids) > 300
    assert len(found["b.txt.jsonl"]) == 1


def test_bad_rows_on_a_stream_are_said(nerve: Call) -> None:
    """Where there is no folder: one line on stderr each, without the row."""
    done = nerve("redact", "--jsonl", "--skip-bad", stdin=b'{"text": "Anna"}\nsecret\n{"text": "Bob"}\n')
    assert done.stdout == b'{"text":"<PER>"}\n{"text":"<PER>"}\n'
    assert done.stderr.splitlines() == [
        b"nerve redact: stdin, line 2: not valid JSON; left out",
        b"nerve redact: texts 2, bad rows 1, entities 2: PER 2",
    ]


def test_stdin_goes_to_parts_and_goes_on(nerve: Call, tmp_path: Path) -> None:
    """A stream that is given once more is read over up to where the run stopped; another one is refused."""
    rows = write_rows(tmp_path / "a.jsonl", 400)
    data = (tmp_path / "a.jsonl").read_bytes()
    common = ["--jsonl", "--output", "out", "--part-bytes", "5000"]
    cut = data[:12_000] + b"{\n"
    assert nerve("redact", *common, stdin=cut).returncode == 1
    assert len(entries(tmp_path / "out")) == 2
    other = nerve("redact", *common, "--resume", stdin=data.replace(b"Anna", b"Ann "))
    assert b"stdin is not what the run began with" in other.stderr
    for _ in range(2):  # all is done the second time
        assert nerve("redact", *common, "--resume", stdin=data).returncode == 0
    other = nerve("redact", *common, "--resume", stdin=data + b'{"text": "Bob"}\n')
    assert b"stdin is not what the run began with" in other.stderr
    written = [row for _, content in sorted(tree(tmp_path / "out").items()) for row in lines(content)]
    assert [row["id"] for row in written] == [row["id"] for row in rows]


def test_a_stream_that_cannot_be_read_is_not_the_one_that_could(nerve: Call, tmp_path: Path) -> None:
    """Nor is it a bad row of a run whose rows are all there."""
    common = ["--csv", "--skip-bad", "--output", "out", "--resume"]
    assert nerve("redact", *common, stdin=b"text\nAnna\n").returncode == 0
    before = tree(tmp_path / "out")
    other = nerve("redact", *common, stdin=b"no\nAnna\n")
    assert (other.returncode, b"stdin is not what the run began with" in other.stderr) == (1, True)
    assert tree(tmp_path / "out") == before


def test_a_stream_that_breaks_off_behind_a_whole_part_may_come_again(
    lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is one bad row, and a run that goes on finds nothing more to do."""

    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            if line := super().readline(size):
                return line
            raise OSError(errno.EIO, "Input/output error")

    header, layout = Header("1", "redact", {}), Layout("text", replaces=True, column=None)
    with load(lookup_model) as classifier:
        for _ in range(2):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Broken(b"Anna\n" * 3)))
            output = FolderOutput(
                tmp_path / "out", header, layout, lambda source: source.kind, resume=True, part_bytes=5
            )
            with closing(output):
                answers = partial(answer_here, classifier, Task(redacts=True, choices={}))
                Run(output, "text", skip_bad=True).over(find_sources(["-"], []), answers)
    assert [entry["bad"] for entry in entries(tmp_path / "out")] == [0, 0, 1]


def test_numbers_count_through_a_file(nerve: Call, tmp_path: Path) -> None:
    """Whatever its size, so that it stays in one part; the next file begins anew."""
    (tmp_path / "a.txt").write_text("Anna\nBob\n" * 200 + "Anna Maria\n")
    (tmp_path / "b.txt").write_text("Bob\n")
    arguments = ["--operators", "PER=number", "--file", "a.txt", "b.txt", "--part-bytes", "100"]
    assert nerve("redact", *arguments, "--json", "--output", "out").returncode == 0
    files = tree(tmp_path / "out")
    texts = [line["text"] for line in lines(files["a.txt.jsonl"])]
    assert texts == ["<PER_1>", "<PER_2>"] * 200 + ["<PER_3>"]
    (item,) = lines(files["a.txt.jsonl"])[-1]["items"]
    assert (item["redacted_start"], item["redacted_end"], item["operator"]) == (0, 7, "number")
    assert lines(files["b.txt.jsonl"])[0]["text"] == "<PER_1>"


def test_pseudonyms_of_a_run_have_one_key(nerve: Call, tmp_path: Path) -> None:
    """A run whose key was random cannot go on: its second half would have other pseudonyms."""
    (tmp_path / "a.txt").write_text("Anna\n" * 100)
    common = ["--operators", "hash", "--file", "a.txt", "--output", "out", "--resume"]
    assert nerve("redact", *common).returncode == 0
    done = nerve("redact", *common)
    assert (done.returncode, b"with other settings (key of pseudonyms)" in done.stderr) == (1, True)


def test_a_full_disk_ends_a_run_that_can_go_on(nerve: Call, small_disk: Path, tmp_path: Path) -> None:
    """One line names the file; parts that are whole stay; on another try it goes on."""
    write_rows(tmp_path / "a.jsonl", 4_000)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    common = ["--file", "a.jsonl", "--part-bytes", "20000", "--no-text", "--output", small_disk / "out"]
    done = nerve("predict", *common)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device; mend that, then go on with --resume" in done.stderr
    assert len(entries(small_disk / "out")) > 0
    assert not [name for name in tree(small_disk / "out") if name.endswith(".part")]
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)  # noqa: S607
    assert nerve("predict", *common, "--resume").returncode == 0
    written = [row for _, content in sorted(tree(small_disk / "out").items()) for row in lines(content)]
    assert [row["id"] for row in written] == list(range(4_000))


def test_a_server_answers_the_same(
    nerve: Call, serve: Callable[..., ServerProcess], config: Path, tmp_path: Path
) -> None:
    """--url: the same bytes as in this process, bad rows among them; options of no text's fault end the run."""
    server = serve(
        {"NERVE_API_KEY": "s3cret-key"},
        runtime={"patterns": ["email"]},
        limits={
            "max_input_tokens": 1_000,
            "max_request_tokens": 2_000,
            "max_body_bytes": 200_000,
            "max_inputs": 8,
        },
    )
    write_rows(tmp_path / "a.jsonl", 300)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(
            json.dumps({"text": "Anna " * 2_000}) + "\n" + json.dumps({"text": "Anna " * 60_000}) + "\n"
        )
        file.write('{"text": "Bob"}\n')
    url = ["--url", server.url, "--file", "a.jsonl", "--skip-bad"]
    environment = {**os.environ, "NERVE_API_KEY": "s3cret-key"}
    for command, arguments in (("predict", []), ("redact", ["--operators", "PER=number"])):
        assert (
            nerve(
                command, "--file", "a.jsonl", "--skip-bad", *arguments, "--output", f"{command}-here"
            ).returncode
            == 0
        )
        line = [sys.executable, "-m", "nerve", command, *url, *arguments, "--output", f"{command}-there"]
        done = subprocess.run(line, check=False, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        here, there = tree(tmp_path / f"{command}-here"), tree(tmp_path / f"{command}-there")
        assert (
            here.pop("_errors/a.jsonl.jsonl").count(b"\n")
            == there.pop("_errors/a.jsonl.jsonl").count(b"\n")
            == 2
        )
        assert there == here
    line = [sys.executable, "-m", "nerve", "predict", *url, "--labels", "NOPE"]
    done = subprocess.run(line, check=False, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, b"unknown label" in done.stderr) == (1, True)
    done = subprocess.run(line, check=False, cwd=tmp_path, capture_output=True)
    assert (done.returncode, b"answered 401" in done.stderr) == (1, True)


def test_memory_does_not_grow_with_the_corpus(nerve: Call, config: Path, tmp_path: Path) -> None:
    """Eight times the rows, bad ones among them, take about the same memory."""
    peaks = []
    for n_rows in (5_000, 40_000):
        write_rows(tmp_path / "a.jsonl", n_rows)
        with (tmp_path / "a.jsonl").open("a") as file:
            file.writelines("{\n" for _ in range(10 * n_rows))
        arguments = ["--file", "a.jsonl", "--skip-bad", "--output", f"out{n_rows}", "--part-bytes", "200000"]
        script = (
            "import resource, sys; from nerve.cli import main; status = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
        )
        line = [sys.executable, "-c", script, *line_of("predict", config, *arguments)[3:]]
        done = subprocess.run(line, check=True, cwd=tmp_path, capture_output=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 40, peaks


def test_csv_on_the_standard_input_has_no_name(nerve: Call) -> None:
    """The column `file` is there, as for files, and empty."""
    done = nerve("predict", "--csv", stdin=b"text\nAnna\n")
    first, second = done.stdout.decode().splitlines()[:2]
    assert (done.returncode, first, second.startswith(",Anna,")) == (0, "file,text,rows", True)


def test_inputs_that_do_not_fit_leave_the_totals_of_others(nerve: Call, tmp_path: Path) -> None:
    """With --skip-bad a file of other columns is left out, and what comes after it is counted."""
    for name, head in (("a", "text"), ("b", "text,other"), ("c", "text")):
        row = "Anna" if head == "text" else "Anna,1"
        (tmp_path / f"{name}.csv").write_text(f"{head}\n{row}\n")
    files = [word for name in "abc" for word in ("--file", f"{name}.csv")]
    done = nerve("predict", "--csv", "--skip-bad", *files)
    assert len(done.stdout.decode().splitlines()) == 3
    assert b"b.csv" in done.stderr


@pytest.mark.parametrize(
    ("output", "begun", "said"),
    [
        ("out", "out/_manifest.jsonl", b"with --resume it goes on behind what is whole in out\n"),
        ("f.jsonl", ".f.jsonl.part", b"interrupted; f.jsonl is not written. "),
    ],
)
def test_an_interrupted_run_says_how_it_goes_on(
    output: str, begun: str, said: bytes, config: Path, tmp_path: Path
) -> None:
    """Ctrl-C is status 130, and a line that names --resume; a run to a file leaves none, and says so."""
    process = subprocess.Popen(
        line_of("predict", config, "-", "--output", output),
        cwd=tmp_path,
        stdin=subprocess.PIPE,  # open, so that the run cannot end
        stderr=subprocess.PIPE,
        # Shells let what they start in the background ignore it, these tests among others.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while process.poll() is None and not (tmp_path / begun).exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert said in stderr
    assert not (tmp_path / "f.jsonl").exists()
