"""`nerve` alone, `nerve init`, and what is said where no model is named."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nerve.cli import _COMMANDS, _parser

ROOT = Path(__file__).parents[2]


def nerve(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `nerve` in a folder, with nothing about it in the environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NERVE_", "AIP_"))}
    return subprocess.run(
        [sys.executable, "-m", "nerve", *arguments],
        cwd=folder,
        env={**kept, "COLUMNS": "80", **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nerve_alone_says_what_to_do_first(tmp_path: Path) -> None:
    """Short, on stdout, with status 0; each step is a command that exists; a config file makes `init` needless."""
    done = nerve(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout.splitlines()
    assert len(shown) < 15
    assert max(map(len, shown)) <= 80
    commands = [line.split()[1] for line in shown if line.startswith("  nerve ")]
    assert commands[:2] == ["init", "serve"]
    for command in set(commands):
        assert nerve(tmp_path, command, "--help").returncode == 0
    (tmp_path / "config.yaml").write_text("model: {}\n")
    assert "nerve init" not in nerve(tmp_path).stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_may_be_closed(tmp_path: Path, closed: str) -> None:
    """As services are sometimes started; nor does a file of ours take the number of one, or one of a worker's."""
    (tmp_path / "worker.py").write_text(
        "import os\n"
        "names = [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]\n"
        "open('files', 'w').write(' '.join(names))\n"
    )
    (tmp_path / "server.py").write_text(
        "import subprocess, sys\n"
        "from nerve.__main__ import _open_standard_files\n"
        "_open_standard_files()\n"
        "print('x')\n"
        "print('y', file=sys.stderr)\n"
        "subprocess.run([sys.executable, 'worker.py'], check=True)\n"
    )
    command = f"{shlex.quote(sys.executable)} server.py {closed}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, check=False)  # noqa: S602 - it closes them
    assert done.returncode == 0
    assert (tmp_path / "files").read_text().split().count("/dev/null") >= closed.count("&-")


@pytest.mark.parametrize("columns", ["40", "200"])
def test_narrow_terminals_get_two_lines_for_a_step(tmp_path: Path, columns: str) -> None:
    """What is said of a command stands beside it where there is room, else below it."""
    shown = nerve(tmp_path, COLUMNS=columns).stdout
    assert ("nerve init\n    write config.yaml" in shown) is (columns == "40")


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        (["serve"], "  nerve serve dslim/bert-base-NER"),
        (["verify"], "  nerve verify dslim/bert-base-NER"),
        (["tune", "--target-p99-ms", "5"], "  nerve tune dslim/bert-base-NER --target-p99-ms 100"),
        (["predict", "Call Maria."], "  nerve predict --model dslim/bert-base-NER"),
    ],
)
def test_without_a_model_it_says_what_to_type(tmp_path: Path, arguments: list[str], example: str) -> None:
    """Status 1; the first line says why, those after it are commands to type."""
    done = nerve(tmp_path, *arguments)
    why, remedy, *lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, remedy) == (1, "", "type one of")
    assert why.startswith("nerve: no model is named, and there is no config file at config.yaml or ")
    assert lines[0].startswith(example)
    typed = lines[0].strip().partition("   ")[0]  # what is said of it may stand beside it
    _parser().parse_args(shlex.split(typed)[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "serv",
            "nerve: error: argument COMMAND: invalid choice: 'serv' .choose from .*; did you mean serve\\?",
        ),
        ("serve --prot=9", "nerve serve: error: unrecognized arguments: --prot=9; did you mean --port\\?"),
        (
            "redact --lables X a",
            "nerve redact: error: unrecognized arguments: --lables; did you mean --labels\\?",
        ),
        ("predict --part-bytes many x", "nerve predict: error: argument --part-bytes: 'many' is no number"),
        ("serve a b", "nerve serve: error: unrecognized arguments: b"),
        ("serve --mode x", "nerve serve: error: unrecognized arguments: --mode; did you mean --model\\?"),
        ("show a --model b", "nerve: error: MODEL and --model say the same; leave one of them out"),
    ],
)
def test_a_typing_error_is_told_with_the_nearest_word(tmp_path: Path, arguments: str, said: str) -> None:
    """Wrong usage is status 2 and one line; what was meant stands beside it, or where to read on."""
    done = nerve(tmp_path, *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    hint = "" if said.endswith("?") else f"; see {said.partition(':')[0]} --help"
    assert re.fullmatch(said + hint, line), done.stderr


@pytest.mark.parametrize("command", sorted({*_COMMANDS} - {"completion"}))  # whose description has them
def test_the_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a whole command that can be typed."""
    with pytest.raises(SystemExit):
        _parser().parse_args([command, "--help"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  nerve ")]
    assert lines
    for line in lines:
        typed = shlex.split(line.partition(" < ")[0])
        assert _parser().parse_args(typed[1:]).command == command


def test_init_writes_the_documented_config(tmp_path: Path) -> None:
    """It is the file at the top of the repository, which other tests keep true; nothing is ever overwritten."""
    done = nerve(tmp_path, "init")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "config.yaml is written; next: nerve serve --open\n"
    expected = (ROOT / "config.yaml").read_text()
    assert (tmp_path / "config.yaml").read_text() == expected
    again = nerve(tmp_path, "init")
    assert again.returncode == 1
    assert again.stderr == "nerve: config.yaml exists and is left as it is; name another file\n"
    assert nerve(tmp_path, "init", "-").stdout == expected
    missing = nerve(tmp_path, "init", "no/such/folder.yaml")
    assert missing.returncode == 1
    assert (
        missing.stderr
        == "nerve: cannot use no/such/folder.yaml: No such file or directory; check its name, permissions and disk\n"
    )
