"""docs/guide/clients: every block of code runs as it stands, against a server of the default model.

`python` and `js` are programs, which print what a block without a language after them says; `console` has commands
after `$` and their output; other languages are not run. Where port 8000 is taken, another stands in its place.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = REPOSITORY / "docs/guide/clients"
NERVE = os.environ.get("NERVE_PYTHON", str(REPOSITORY / ".venv/bin/python"))
NODE_MODULES = Path(os.environ.get("NERVE_NODE_MODULES", "node_modules"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = "8000"
# Variables of the platform that a page is about.
PLATFORMS = {
    "vertex": {"AIP_HTTP_PORT": "{port}", "AIP_HEALTH_ROUTE": "/healthz", "AIP_PREDICT_ROUTE": "/predict"}
}
# Pages about programs that run in environments of their own.
ELSEWHERE = {"litellm": "test_litellm_proxy.py"}


def is_free(port: int) -> bool:
    """Tell whether a port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Start servers of the default model, and return their ports; they end with the tests."""
    running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}

    def start(name: str = "", **variables: str) -> str:
        if name in running:
            return running[name][1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = PORT if is_free(int(PORT)) else str(probe.getsockname()[1])
        paths = [str(REPOSITORY / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment |= {key: value.format(port=port) for key, value in variables.items()}
        command = [NERVE, "-m", "nerve", "serve", "--config", str(REPOSITORY / "config.yaml")]
        log_path = tmp_path_factory.mktemp("serve") / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen([*command, "--port", port], env=environment, stdout=log, stderr=log)
        running[name] = (process, port)
        deadline = time.monotonic() + 120  # the default model may be fetched first
        while time.monotonic() < deadline:
            assert process.poll() is None, log_path.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                    return port
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(log_path.read_text())

    yield start
    for process, _ in running.values():
        process.terminate()
        assert process.wait(30) == 0


def programs_of(page: Path) -> list[tuple[str, str, str | None]]:
    """Return the language, the text and the expected output of each block that is run, in order."""
    blocks = BLOCK.findall(page.read_text())
    followers = [*blocks[1:], ("end", "")]
    return [
        (language, text, output if follower == "" else None)
        for (language, text), (follower, output) in zip(blocks, followers, strict=True)
        if language in ("python", "js", "console")
    ]


def run_console(text: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of a block one after the other, and compare what each prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        n_lines = next(index for index, line in enumerate(lines, 1) if not line.endswith("\\"))
        command, expected = "\n".join(lines[:n_lines]), "\n".join(lines[n_lines:])
        assert run(["bash", "-ec", command], folder, environment).strip() == expected.strip(), command


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command, which must succeed, and return what it prints."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pages_are_whole() -> None:
    """The list names each page, and each has a program or a test of its own."""
    index = (PAGES / "index.md").read_text()
    for page in set(PAGES.glob("*.md")) - {PAGES / "index.md"}:
        assert f"]({page.name})" in index
        if page.stem in ELSEWHERE:
            assert (Path(__file__).parent / ELSEWHERE[page.stem]).exists()
        else:
            assert programs_of(page), page.name


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", sorted({page.stem for page in PAGES.glob("*.md")} - {"index"} - set(ELSEWHERE))
)
def test_page(name: str, serve: Callable[..., str], tmp_path: Path) -> None:
    """Each block of a page, in order."""
    platform = PLATFORMS.get(name)
    port = serve(name, **platform) if platform else serve()
    shutil.copy(REPOSITORY / "config.yaml", tmp_path / "config.yaml")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    environment.pop("NERVE_CONFIG", None)
    for language, block, output in programs_of(PAGES / f"{name}.md"):
        text = block if port == PORT else block.replace(f"localhost:{PORT}", f"localhost:{port}")
        if language == "console":
            run_console(text, tmp_path, environment)
            continue
        if language == "js" and (shutil.which("node") is None or not NODE_MODULES.is_dir()):
            continue  # as test_huggingface.py says
        file = tmp_path / ("program.py" if language == "python" else "program.mjs")
        file.write_text(text)
        printed = run([sys.executable if language == "python" else "node", file.name], tmp_path, environment)
        if output is not None:
            assert printed == output
