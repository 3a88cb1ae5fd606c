"""`nerve redact` as a real process, over the lookup model."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from builders import write_config

TEXT = "Anna Maria lives in Paris."


@pytest.fixture
def config(lookup_model: Path, tmp_path: Path) -> Path:
    """Write a config file that serves the lookup model with a rule."""
    return write_config(tmp_path / "config.yaml", lookup_model, runtime={"patterns": ["email"]})


def redact(config: Path, *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end with pipes for all streams."""
    kept = {name: value for name, value in os.environ.items() if name != "NERVE_REDACTION_KEY"}
    command = [sys.executable, "-m", "nerve", "redact", "--config", str(config), *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, check=False, env={**kept, "COLUMNS": "120"}
    )


def test_lines_come_back_as_lines(config: Path) -> None:
    """With what was found counted by label on stderr."""
    done = redact(config, stdin=f"{TEXT}\n\nBob <bob@x.org>\n".encode())
    assert done.stdout.decode().splitlines() == ["<PER> lives in <LOC>.", "", "<PER> <<EMAIL>>"]
    assert done.stderr == b"nerve redact: texts 3, entities 4: EMAIL 1, LOC 1, PER 2\n"
    assert done.returncode == 0


def test_objects_come_back_as_objects(config: Path) -> None:
    """All fields stay, the text is replaced; --json adds what was found where."""
    line = {"id": 1, "body": TEXT}
    done = redact(config, "--jsonl", "--field", "body", stdin=json.dumps(line).encode())
    assert json.loads(done.stdout) == {"id": 1, "body": "<PER> lives in <LOC>."}
    done = redact(config, "--jsonl", "--field", "body", "--json", stdin=json.dumps(line).encode())
    assert [item["label"] for item in json.loads(done.stdout)["items"]] == ["PER", "LOC"]
    clash = redact(config, "--jsonl", "--json", stdin=b'{"text": "Anna", "items": 5}')
    assert (clash.returncode, b"there is a field `items` already" in clash.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--operators", "mask"], "**** ******* in *****"),
        (["--operators", "EMAIL=keep,PER=redact"], " a@x.org in <LOC>"),
        (["--operators", "number", "--operators", '{"LOC": {"type": "keep"}}'], "<PER_1> <EMAIL_1> in Paris"),
        (["--patterns", "none"], "<PER> a@x.org in <LOC>"),
        (["--labels", "EMAIL"], "Anna <EMAIL> in Paris"),
        (["--min-score", "1"], "Anna <EMAIL> in Paris"),
        (["--strategy", "viterbi"], "<PER> <EMAIL> in <LOC>"),
        (["--rename-labels", "PER=PERSON, EMAIL=MAIL"], "<PERSON> <MAIL> in <LOC>"),
        (
            ["--rename-labels", "PER=X", "--rename-labels", "LOC=X", "--labels", "X", "--operators", "X=number"],
            "<X_1> a@x.org in <X_2>",
        ),
    ],
)  # fmt: skip
def test_what_goes_and_what_comes(config: Path, arguments: list[str], text: str) -> None:
    """The choices of a request."""
    assert redact(config, *arguments, "Anna a@x.org in Paris").stdout.decode().rstrip("\n") == text


def test_files_go_to_a_folder(config: Path, tmp_path: Path) -> None:
    """Each by its name, byte for byte as it was outside the entities; numbers begin anew with each."""
    for name, content in (("a.txt", "Anna\r\n Bob\r\n"), ("b.txt", "\ufeffBob\n")):
        (tmp_path / name).write_bytes(content.encode())
    files = ["--file", tmp_path / "a.txt", "--file", tmp_path / "b.txt"]
    out = tmp_path / "out"
    done = redact(config, *files, "--whole", "--operators", "number", "--output", out)
    assert (done.stdout, done.returncode) == (b"", 0)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "_manifest.jsonl"} == {
        "a.txt": b"<PER_1>\r\n <PER_2>\r\n",
        "b.txt": "\ufeff<PER_1>\n".encode(),
    }


def test_an_input_is_never_replaced(config: Path, tmp_path: Path) -> None:
    """Nor is a file written by two inputs, nor a part of one left behind."""
    file = tmp_path / "a.txt"
    file.write_text("Anna\n")
    assert b"is an input" in redact(config, "--file", file, "--output", file).stderr
    assert (
        b"more than once" in redact(config, "--file", file, "--file", file, "--output", tmp_path / "o").stderr
    )
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"Anna\n\xff\n")
    done = redact(config, "--file", bad, "--output", tmp_path / "result.txt")
    assert (done.returncode, b"line 2: not valid UTF-8" in done.stderr) == (1, True)
    assert not [path for path in tmp_path.iterdir() if "result" in path.name]


def test_a_dry_run_shows_what_would_go(config: Path) -> None:
    """The text stands there with its labels."""
    done = redact(config, "--dry-run", "Anna a@x.org")
    assert "Anna PER" in done.stdout.decode()
    assert "a@x.org EMAIL 100%" in done.stdout.decode()
    assert redact(config, "--dry-run", "--json", "x").returncode == 2


def test_pseudonyms_of_a_run(config: Path) -> None:
    """A random key is said to be one; errors are one line without the text."""
    done = redact(config, "--operators", "hash", "Anna")
    assert b"WARNING: hash has a random key" in done.stderr
    assert len(done.stdout.strip()) == 64
    assert b"random key" not in redact(config, "Anna").stderr
    unknown = redact(config, "--patterns", "mail", "Anna")
    assert (unknown.returncode, unknown.stderr.count(b"\n"), b"Anna" in unknown.stderr) == (1, 1, False)
    assert redact(config, "--operators", "Anna=encrypt", "x").returncode == 2


def test_a_document_of_any_length(config: Path, tmp_path: Path) -> None:
    """A file of 1 MB and more, as one text: what lies across any border goes, all else stays, in one line of memory."""
    parts = [f"{'x ' * (n % 29)}Anna Maria wrote to anna{n}@example.org .\r\n" for n in range(20_000)]
    source = tmp_path / "long.txt"
    source.write_bytes("".join(parts).encode())
    assert source.stat().st_size > 1_300_000
    out = tmp_path / "out"
    done = redact(config, "--file", source, "--whole", "--patterns", "email", "--output", out)
    assert done.returncode == 0, done.stderr
    (written,) = out.rglob("*.txt")
    expected = "".join(f"{'x ' * (n % 29)}<PER> wrote to <EMAIL> .\r\n" for n in range(20_000))
    assert written.read_bytes().decode() == expected


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--rename-labels", "PER"], 2, "must be OLD=NEW"),
        (["--rename-labels", "=X"], 2, "must be OLD=NEW"),
        (["--rename-labels", "PERSON=X"], 1, "runtime.rename_labels.PERSON: unknown label; known: PER, LOC"),
        (["--rename-labels", "PER=X", "--labels", "PER"], 1, "unknown label"),
        (["--url", "http://127.0.0.1:1", "--rename-labels", "PER=X"], 2, "--url and --rename-labels exclude"),
    ],
)
def test_names_that_cannot_be(config: Path, arguments: list[str], status: int, message: str) -> None:
    """Are told before any text is answered."""
    done = redact(config, *arguments, TEXT) if "--url" not in arguments else redact_plain(*arguments, TEXT)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()


def redact_plain(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command without a config file."""
    return subprocess.run(
        [sys.executable, "-m", "nerve", "redact", *arguments], capture_output=True, check=False
    )


def on_a_terminal(config: Path, *arguments: str, **variables: str) -> str:
    """Run the command with its output on a pseudo-terminal, and return what a terminal gets."""
    main, terminal = pty.openpty()
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "NERVE_REDACTION_KEY")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "nerve", "redact", "--config", str(config), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**kept, "TERM": "xterm-256color", "COLUMNS": "120", "PAGER": "cat", **variables},
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux: the other end is closed
        while part := os.read(main, 65_536):
            shown += part
    os.close(main)
    assert process.wait() == 0
    return shown.decode()


def test_a_dry_run_on_a_terminal_is_in_colour(config: Path) -> None:
    """What would go stands on a background of its label's colour, with the label; everything else is as it is."""
    shown = on_a_terminal(config, "--dry-run", "Anna wrote to a@x.org in Paris")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert " Anna PER" in plain.splitlines()[0]
    assert re.sub(r"  +", " ", plain.splitlines()[0]).startswith(
        " Anna PER 99% wrote to a@x.org EMAIL 100% in Paris LOC"
    )
    styles = {}
    for word in ("Anna", "a@x.org", "Paris"):
        found = re.search(rf"\x1b\[([0-9;]+)m[^\x1b]*{re.escape(word)}", shown)
        assert found, (word, shown)
        styles[word] = found[1]
    assert len(set(styles.values())) == 3  # a colour for each label
    wrote = re.search(r"(\x1b\[[0-9;]*m)?( *wrote to)", shown)
    assert wrote
    assert wrote[1] in (None, "\x1b[0m")


def test_a_dry_run_without_colours(config: Path) -> None:
    """NO_COLOR turns them off on a terminal, too."""
    shown = on_a_terminal(config, "--dry-run", "Anna in Paris", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9];?[0-9;]*m", shown), shown
    assert "Anna" in shown
