"""`nerve completion`: the script that it prints, in real shells at a real terminal, where somebody presses Tab."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 60
# How each shell is started without anybody's settings, and how it takes the script.
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
TAKE = {
    "bash": "source nerve.bash",
    "zsh": "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D",
}


class Terminal:
    """A shell on a terminal of its own, to which one types."""

    def __init__(self, main: int) -> None:
        self._main = main
        self._shown = b""

    def type(self, keys: str) -> None:
        """Send keys."""
        os.write(self._main, keys.encode())

    def wait_for(self, text: str) -> None:
        """Wait until a text stands on the screen, and forget what came before; fails after a minute."""
        ends = time.monotonic() + SECONDS
        while True:
            plain = re.sub(rb"\x1b\[[0-9;?=>]*[A-Za-z]|\x1b[()=>][0B]?|\x08|\r", b"", self._shown).decode(
                errors="replace"
            )
            if text in plain:
                self._shown = b""
                return
            assert time.monotonic() < ends, (text, plain[-500:])
            if select.select([self._main], [], [], 0.2)[0]:
                self._shown += os.read(self._main, 65536)


@contextmanager
def shell(name: str, folder: Path) -> Iterator[Terminal]:
    """Run a shell in a folder while the block runs."""
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TERM": "xterm",
        "PS1": "$ ",
        "LC_ALL": "C.UTF-8",
    }
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        START[name],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        yield Terminal(main)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(main)


def completion(name: str) -> str:
    """Return what `nerve completion SHELL` prints."""
    command = [sys.executable, "-m", "nerve", "completion", name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", sorted(START))
def test_tab_completes(name: str, tmp_path: Path) -> None:
    """Commands, options, choices and names of files: each has one way to go on, which one Tab takes."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "nerve"  # completion must not need to run it
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    (tmp_path / {"bash": "nerve.bash", "zsh": "_nerve"}[name]).write_text(completion(name))
    (tmp_path / "my-models.yaml").write_text("")
    with shell(name, tmp_path) as terminal:
        terminal.type(f"{TAKE[name]}; echo ta''ken\n")
        terminal.wait_for("taken\n")
        for typed, expected in (
            ("nerve ser\t", "nerve serve "),
            ("nerve predict --strat\t", "nerve predict --strategy "),
            ("nerve predict --strategy vit\t", "nerve predict --strategy viterbi "),
            ("nerve show my-mo\t", "nerve show my-models.yaml "),
        ):
            terminal.type(typed)
            if name == "zsh" and "--" in typed:
                terminal.type("\t")  # the first one shows what the option means
            terminal.wait_for(expected)
            terminal.type("\x15")  # Ctrl-U: away with the line


def test_fish_completes(tmp_path: Path) -> None:
    """The same by fish's own engine, which it offers to scripts."""
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (tmp_path / "nerve.fish").write_text(completion("fish"))
    (tmp_path / "my-models.yaml").write_text("")
    for typed, expected in (
        ("nerve ser", "serve"),
        ("nerve predict --strat", "--strategy"),
        ("nerve predict --strategy vit", "viterbi"),
        ("nerve show my-mo", "my-models.yaml"),
    ):
        asked = ["fish", "--no-config", "-c", f'source nerve.fish; complete -C "{typed}"']
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        found = subprocess.run(
            asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert [line.partition("\t")[0] for line in found.stdout.splitlines()] == [expected]


def test_every_command_and_option_is_known() -> None:
    """A command that is added is completed, too."""
    script = completion("bash")
    for word in ("serve", "doctor", "completion", "--target-p99-ms", "--strategy", "viterbi"):
        assert word in script
