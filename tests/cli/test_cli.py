"""The commands as real processes, over the lookup model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from builders import write_config
from nerve import cli
from terminal import command, environment, on_terminal, without_styles

TEXT = "Anna Maria lives in New York."
ROWS = [("Anna Maria", 0, 10, ["PER"]), ("New York", 20, 28, ["LOC"])]


@pytest.fixture
def config(lookup_model: Path, tmp_path: Path) -> Path:
    """Write a config file that serves the lookup model."""
    return write_config(tmp_path / "config.yaml", lookup_model)


def nerve(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end with pipes for all streams."""
    return subprocess.run(
        command(*arguments), input=stdin, capture_output=True, check=False, env=environment(COLUMNS="120")
    )


def lines(output: bytes) -> list[dict[str, Any]]:
    """Decode JSON lines."""
    return [json.loads(line) for line in output.splitlines()]


def simplify(rows: list[dict[str, Any]]) -> list[tuple[str, int, int, list[str]]]:
    """Return what can be worked out by hand."""
    return [(row["token"], row["start"], row["end"], list(row["results"])) for row in rows]


def test_arguments_give_json_lines_in_a_pipe(config: Path) -> None:
    """One line per text, in order, with the entities worked out by hand; nothing on stderr."""
    done = nerve("predict", "--config", config, TEXT, "x")
    assert done.returncode == 0
    assert done.stderr == b""
    first, second = lines(done.stdout)
    assert (first["text"], simplify(first["rows"])) == (TEXT, ROWS)
    assert second == {"text": "x", "rows": []}


def test_filters_of_entities(config: Path) -> None:
    """--labels and --min-score leave entities out; unknown labels and numbers are errors of one line."""
    for given, kept in (
        (["--labels", "LOC"], ROWS[1:]),
        (["--min-score", "LOC=1"], ROWS[:1]),
        (["--min-score", "1"], []),
        (["--min-score", "1", "--min-score", "PER=0"], ROWS[:1]),
        (["--strategy", "viterbi"], ROWS),
    ):
        (line,) = lines(nerve("predict", "--config", config, *given, TEXT).stdout)
        assert simplify(line["rows"]) == kept
    unknown = nerve("predict", "--config", config, "--labels", "ORG", TEXT)
    assert (unknown.returncode, unknown.stderr) == (
        1,
        b"nerve: labels: unknown label; known labels: PER, LOC\n",
    )
    assert nerve("predict", "--config", config, "--min-score", "2", TEXT).returncode == 2


def test_piped_stdin_is_read_without_being_asked_for(config: Path) -> None:
    """`... | nerve predict` reads lines; blank ones keep their place."""
    done = nerve("predict", "--config", config, stdin=b"Anna\r\n\nBob")
    assert [(line["text"], len(line["rows"])) for line in lines(done.stdout)] == [
        ("Anna", 1),
        ("", 0),
        ("Bob", 1),
    ]


def test_files_and_whole_files(config: Path, tmp_path: Path) -> None:
    """--file may be repeated; --whole makes each file one text."""
    (tmp_path / "a").write_text("Anna\nx\n")
    (tmp_path / "b").write_text("Bob\n")
    files = ("--file", tmp_path / "a", "--file", tmp_path / "b")
    done = nerve("predict", "--config", config, *files)
    assert [line["text"] for line in lines(done.stdout)] == ["Anna", "x", "Bob"]
    done = nerve("predict", "--config", config, "--whole", *files)
    assert [line["text"] for line in lines(done.stdout)] == ["Anna\nx\n", "Bob\n"]


def test_a_text_that_is_the_name_of_a_file_is_told(config: Path) -> None:
    """It is answered as a text, and the other way is named."""
    result = nerve("predict", "--config", config, config, "a" * 5000)
    assert result.returncode == 0
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()][:1] == [str(config)]
    assert result.stderr.decode().count("is taken as a text; to read the file of that name: --file") == 1


def test_json_lines_in_come_back_with_rows(config: Path) -> None:
    """All fields stay; --field names the text; --no-text leaves it out."""
    data = b'{"id": 1, "body": "Anna"}\n{"id": 2, "body": "x"}\n'
    done = nerve("predict", "--config", config, "--jsonl", "--field", "body", stdin=data)
    assert [list(line) for line in lines(done.stdout)] == [["id", "body", "rows"]] * 2
    done = nerve("predict", "--config", config, "--jsonl", "--field", "body", "--no-text", stdin=data)
    assert [list(line) for line in lines(done.stdout)] == [["id", "rows"]] * 2


def test_options_reach_the_model(config: Path) -> None:
    """Strategy, raw scores, offset unit and truncation mean what they mean over HTTP."""
    (line,) = lines(nerve("predict", "--config", config, "--strategy", "none", "Anna").stdout)
    assert [row["token"] for row in line["rows"]] == ["[CLS]", "Anna", "[SEP]"]
    (line,) = lines(
        nerve("predict", "--config", config, "--raw-scores", "--offset-unit", "byte", "😀 Anna").stdout
    )
    assert simplify(line["rows"]) == [("Anna", 5, 9, ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])]
    long = "x " * 20 + "Anna"
    (line,) = lines(nerve("predict", "--config", config, "--truncate", long).stdout)
    assert line["rows"] == []
    left = ("--truncate", "--truncation-direction", "left")
    (line,) = lines(nerve("predict", "--config", config, *left, long).stdout)
    assert simplify(line["rows"]) == [("Anna", 40, 44, ["PER"])]


def test_bad_line_ends_after_the_good_ones(config: Path) -> None:
    """Lines before a bad one are answered; the message names its number and does not quote it; status 1."""
    good = b'{"text": "Anna"}\n' * 70
    done = nerve("predict", "--config", config, "--jsonl", stdin=good + b'{"text": secret}\n' + good)
    assert len(lines(done.stdout)) == 70
    assert (
        done.stderr
        == b"nerve: stdin, line 71: not valid JSON; mend it, or leave such rows out with --skip-bad\n"
    )
    assert done.returncode == 1


def test_refused_text_is_named_by_its_line(lookup_model: Path, tmp_path: Path) -> None:
    """A text that the model refuses is named like a bad line, and nothing before it is lost."""
    config = write_config(tmp_path / "c.yaml", lookup_model, limits={"max_input_tokens": 20})
    done = nerve("predict", "--config", config, stdin=b"Anna\nBob\n" + b"x " * 40 + b"\nAnna\n")
    assert [line["text"] for line in lines(done.stdout)] == ["Anna", "Bob"]
    assert done.stderr.startswith(b"nerve: stdin, line 3: 42 tokens, above limits.max_input_tokens = 20")
    assert done.returncode == 1


def test_field_named_rows_is_not_overwritten(config: Path) -> None:
    """What the input holds is never lost silently."""
    done = nerve("predict", "--config", config, "--jsonl", stdin=b'{"text": "Anna", "rows": 1}\n')
    assert (done.stdout, done.returncode) == (b"", 1)
    assert b"stdin, line 1: there is a field `rows` already" in done.stderr


def test_reader_that_leaves_ends_the_command_quietly(config: Path, tmp_path: Path) -> None:
    """`nerve predict | head -1` prints no stack and ends with the status of SIGPIPE."""
    (tmp_path / "many").write_text("Anna\n" * 20_000)
    process = subprocess.Popen(
        command("predict", "--config", config, "--file", tmp_path / "many"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["text"] == "Anna"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_reader_of_a_report_that_leaves_is_no_failure(config: Path) -> None:
    """`nerve verify | true` does not end with 1, which would say that the model is below what was asked for."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            command("verify", "--config", config), stdout=stdout, stderr=subprocess.PIPE, check=False
        )
    assert (done.stderr, done.returncode) == (b"", 141)


def test_live_answers_each_line_at_once(config: Path) -> None:
    """With --live the answer to a line is there before the next line is sent."""
    process = subprocess.Popen(
        command("predict", "--config", config, "--live"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for text in ("Anna", "Bob"):
        process.stdin.write(f"{text}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == text
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == 0


def test_terminal_shows_entities_in_colour(config: Path) -> None:
    """On a terminal entities carry a colour and their label; the text reads as before, with a legend below it."""
    shown, _, status = on_terminal("predict", "--config", config, TEXT, streams="out")
    assert status == 0
    assert re.search(r"\x1b\[[0-9;]*48;5;\d+m Anna Maria \x1b", shown)
    text, empty, *_ = without_styles(shown).split("\n")
    assert (text, empty) == (" Anna Maria PER 99%  lives in  New York LOC 99% .", "")


def test_terminal_shows_tokens_as_a_table(config: Path) -> None:
    """With strategy none a terminal gets a line per token."""
    shown, _, _ = on_terminal("predict", "--config", config, "--strategy", "none", "Anna", streams="out")
    cells = [line.split() for line in without_styles(shown).splitlines()]
    assert cells[0] == ["token", "id", "start", "end", "label", "score"]
    assert cells[2] == ["Anna", "4", "0", "4", "B-PER", "0.9902"]


def test_terminal_gets_json_when_asked(config: Path) -> None:
    """--json is the same on a terminal as in a pipe."""
    shown, _, _ = on_terminal("predict", "--config", config, "--json", TEXT, streams="out")
    assert simplify(json.loads(shown)["rows"]) == ROWS


def test_typed_lines_are_answered(config: Path) -> None:
    """`nerve predict -` on a terminal answers what a person types, until Ctrl-D."""
    shown, _, status = on_terminal(
        "predict", "--config", config, "-", streams="in out", typed=b"Anna\nx\n\x04"
    )
    assert " Anna PER 99% \nx\n" in without_styles(shown)
    assert status == 0


def test_terminal_without_text_is_wrong_usage(config: Path) -> None:
    """Nothing to read: say how to use it instead of waiting."""
    shown, _, status = on_terminal("predict", "--config", config, streams="in err")
    assert "no text; give one, or --file F" in shown
    assert status == 2


def test_progress_of_what_takes_long(config: Path, tmp_path: Path) -> None:
    """A bar on a terminal's stderr once a second has passed, when stdout is piped; never in the output."""
    slow = tmp_path / "slow"
    os.mkfifo(slow)

    def write() -> None:
        with slow.open("wb") as pipe:
            pipe.write(b"Anna\n" * 30)
            pipe.flush()
            time.sleep(2)
            pipe.write(b"Bob\n")

    writer = threading.Thread(target=write)
    writer.start()
    shown, piped, _ = on_terminal("predict", "--config", config, "--live", "--file", slow, streams="err")
    writer.join()
    assert re.search(r"texts.* 30 0:00:0\d", without_styles(shown))
    assert len(lines(piped.encode())) == 31


def test_folder_instead_of_a_config_file(lookup_model: Path, tmp_path: Path) -> None:
    """--model takes a folder, without any setting; its refusals are one line each."""
    done = nerve("predict", "--model", lookup_model, TEXT)
    assert done.returncode == 0, done.stderr
    done = nerve("predict", "--model", tmp_path / "nope", TEXT)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"does not exist; name a config file, a folder" in done.stderr


def test_a_model_instead_of_a_config_file_for_every_command(lookup_model: Path, tmp_path: Path) -> None:
    """A folder as MODEL; with a config file beside it the settings of that file hold, but for its model."""
    other = write_config(tmp_path / "other.yaml", tmp_path / "nowhere", limits={"max_input_tokens": 4})
    done = nerve("pull", lookup_model)
    assert (done.returncode, done.stdout.decode()) == (0, f"{lookup_model}\n")
    done = nerve("verify", lookup_model, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model_id"] == lookup_model.name
    done = nerve("predict", "--model", lookup_model, "--config", other, TEXT)
    assert done.returncode == 1
    assert b"limits.max_input_tokens" in done.stderr
    done = nerve("predict", "--model", other, "--config", other, TEXT)
    assert b"is a config file, and so is --config" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--whole", "--jsonl", "x"),
        ("predict", "--strategy", "smple", "x"),
        ("verify", "--min-agreement", "1.5"),
        ("verify", "--worst", "-1"),
        ("tune",),
        ("tune", "--target-p99-ms", "0"),
        ("tune", "--target-p99-ms", "10", "--precision", "float31"),
        ("fly",),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    """What contradicts itself or does not exist is told apart from a failure."""
    done = nerve(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


def test_missing_config_is_one_line(tmp_path: Path) -> None:
    """A command that cannot start says why in one line, with status 1."""
    done = nerve("predict", "--config", tmp_path / "nope.yaml", "x")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"nerve: no config file at")


def test_pull_says_what_is_where(config: Path, lookup_model: Path) -> None:
    """Stdout has the folder alone, for scripts; stderr says what it holds."""
    done = nerve("pull", "--config", config)
    assert done.returncode == 0
    assert done.stdout.decode() == f"{lookup_model}\n"
    assert b"model is here and complete: 4 files" in done.stderr


def test_help_is_light(capsys: pytest.CaptureFixture[str]) -> None:
    """`nerve --help` names every command and imports no model library."""
    code = (
        "import sys; from nerve.cli import _parser; _parser().format_help(); "
        "assert not {'numpy', 'onnxruntime', 'granian', 'rich', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("serve", "pull", "predict", "verify", "tune"))
