"""A shell that goes through a page as its reader does, in a folder that looks like a checkout.

Commands that serve run in the background until the next one on the same port, or the end of the page. Ports are free
ones, whatever the page says; hub names are those of the stand-in of the hub.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from doc_blocks import REPOSITORY, Block, Command, is_the_output

# Where a port stands in a command.
_PORT = re.compile(r"(?P<before>localhost:|127\.0\.0\.1:|--port[ =]|SERVER__PORT=)(?P<port>\d{4,5})\b")
_SERVES = re.compile(r"^(?:\w+=\S+ )*(?:\S*/)?(?:nerve serve|make serve)\b", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\x04|\^D\x08*")
DEFAULT_PORT = "8000"
# Of a machine that others use, too.
START_SECONDS = 300
# Names in a checkout that a page never needs, or writes itself.
_HIDDEN = {".git", "site", ".cache"}


class Wrong(AssertionError):
    """What a page says and what comes are two things."""


class Shell:
    """The session of one reader, in a folder of its own.

    hub_url: the stand-in of the hub. home: its caches; the one of `nerve` is this user's, so that the default model is
    fetched once.
    """

    def __init__(self, folder: Path, hub_url: str) -> None:
        self._folder = folder
        self._ports: dict[str, str] = {}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._cursor = 0
        home = folder.parent / "home"
        home.mkdir()
        folder.mkdir()
        for entry in REPOSITORY.iterdir():
            if entry.name not in _HIDDEN and not entry.name.startswith(".venv"):
                (folder / entry.name).symlink_to(entry)
        self._add_environment(folder / ".venv")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "NERVE_", "OTEL_", "AIP_"))
        }
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self._environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '')}",
            "HOME": str(home),
            "XDG_CACHE_HOME": cache,
            "PYTHONPATH": str(REPOSITORY / "src"),  # the code beside these pages, whatever is installed
            "HF_HOME": str(home / "huggingface"),
            "HF_ENDPOINT": hub_url,
            "NERVE_SERVER__PORT": self._mapped(DEFAULT_PORT),
            "COLUMNS": "120",
            "TERM": "xterm",
        }
        # A session keeps its variables: one bash for the whole page, which says after each script how it went.
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=self._environment,
            start_new_session=True,
        )

    def _add_environment(self, venv: Path) -> None:
        """Put this environment there, as made by `make install` a moment ago: make must not install into it."""
        venv.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if not entry.name.startswith(".ready"):
                (venv / entry.name).symlink_to(entry)
        for extra in ("cpu", "cpu-dev"):
            (venv / f".ready-{extra}").touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self._servers):
            self._stop(port)
        assert self._bash.stdin
        self._bash.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._bash.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        assert self._bash.stdout
        self._bash.stdout.close()

    def run(self, block: Block, command: Command) -> None:
        """Run a command of a page. Raises `Wrong` where it fails, or prints something else than the page."""
        text = self._here(command.text)
        if _SERVES.match(text):
            self._serve(text)
            return
        shown = re.fullmatch(r"cat ([\w./-]+)", text)
        if shown and command.output and not (self._folder / shown[1]).exists():
            self._write(shown[1], command.output + "\n")  # the page shows a file that its reader has
        status, out, both = self._ask(text, block.is_on_a_terminal)
        for port, own in self._ports.items():
            out, both = out.replace(f":{own}", f":{port}"), both.replace(f":{own}", f":{port}")
        is_right = not command.output.strip() or any(
            is_the_output(command.output, got) for got in (out, both)
        )
        # A page may show how a command fails: then it prints what the command says.
        may_fail = is_right and "nerve: " in command.output
        if not is_right or (status != 0 and not may_fail):
            raise Wrong(
                f"{block.where}: status {status}\n$ {command.text}\n--- the page\n{command.output}\n--- here\n{both}"
            )

    def python(self, block: Block) -> None:
        """Run a program of a page. Raises `Wrong`."""
        program = self._write(f".program-{block.line}.py", self._here(block.text))
        self.run(block, Command(f"{sys.executable} {program.name}", block.output))

    def _here(self, text: str) -> str:
        """Return a script with the ports of this session; what it asks for at the default one is there."""
        text = _PORT.sub(lambda match: match["before"] + self._mapped(match["port"]), text)
        port = self._ports[DEFAULT_PORT]
        if f"localhost:{port}" in text and port not in self._servers:
            self._serve("nerve serve --config config.yaml")
        return text

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def _mapped(self, port: str) -> str:
        """Return the port that stands for one of the page."""
        if port not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[port] = str(probe.getsockname()[1])
        return self._ports[port]

    def _ask(self, text: str, on_a_terminal: bool) -> tuple[int, str, str]:
        """Run a script in the session; returns its status, its output, and that with its errors."""
        script = self._write(f".script-{self._cursor}", text)
        out, both = self._folder / ".stdout", self._folder / ".both"
        self._cursor += 1
        if on_a_terminal:
            line = f"script -qec 'bash {script.name}' /dev/null >.stdout </dev/null 2>&1; "
            line += "said=$?; cp .stdout .both"
        else:
            # Both streams in the order in which they come, and stdout alone.
            line = f". ./{script.name} </dev/null > >(tee .stdout >>.both) 2>>.both; said=$?; sleep 0.1"
        both.write_text("")
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f'{line}; echo "done $said"\n'.encode())
        self._bash.stdin.flush()
        for answer in self._bash.stdout:
            if answer.startswith(b"done "):
                return int(answer.split()[1]), *(_COLOURS.sub("", file.read_text()) for file in (out, both))
        raise Wrong(f"the shell ended at\n{text}")

    def _serve(self, text: str) -> None:
        """Start a server, and wait until it is ready."""
        asked = re.search(r"(?:--port[ =]|SERVER__PORT=)(\d+)", text)
        port = asked[1] if asked else self._ports[DEFAULT_PORT]
        self._stop(port)
        log = self._folder / f".log-{self._cursor}"
        self._cursor += 1
        script = self._write(f"{log.name}.sh", text)
        with log.open("wb") as stream:
            self._servers[port] = server = subprocess.Popen(
                ["bash", script.name],  # noqa: S607
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if server.poll() is not None:
                del self._servers[port]
                raise Wrong(f"$ {text}\nended with {server.returncode}:\n{log.read_text()}")
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
                return
            time.sleep(0.2)
        self._stop(port)
        raise Wrong(f"$ {text}\nis not ready after {START_SECONDS} s:\n{log.read_text()}")

    def _stop(self, port: str) -> None:
        server = self._servers.pop(port, None)
        if server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def provide(folder: Path, models: Path) -> None:
    """Put what readers have of their own into a folder: a model, at the path that pages name."""
    shutil.copytree(models / "dslim--bert-base-NER", folder / "models/my-ner")
