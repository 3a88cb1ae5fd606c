"""`server.uds`: what stands there is replaced if it is a socket that nobody listens on, and kept if it is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import ServerProcess, write_config


def refused(config: Path) -> str:
    """Start a server that must not start; returns the line that says why."""
    done = subprocess.run(
        [sys.executable, "-m", "nerve", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("nerve: ")]
    assert "Traceback" not in done.stderr
    return line


def make_file(path: Path) -> None:
    """Make a file with content."""
    path.write_text("do not delete")


def make_link(path: Path) -> None:
    """Make a link to a file with content."""
    make_file(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


def make_circle(path: Path) -> None:
    """Make two links that lead to each other."""
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def listen(path: Path) -> None:
    """Leave a socket with a listener; the test process holds it until it ends."""
    holder = socket.socket(socket.AF_UNIX)
    holder.bind(str(path))
    holder.listen(0)
    _held.append(holder)


_held: list[socket.socket] = []


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (make_file, "a regular file"),
        (make_link, "a regular file"),
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a pipe"),
        (listen, "in use"),
        (make_circle, "server.uds"),
    ],
)
@pytest.mark.parametrize("is_relative", [False, True])
def test_what_is_no_stale_socket_is_refused_and_kept(
    lookup_model: Path, tmp_path: Path, make: Callable[[Path], None], named: str, is_relative: bool
) -> None:
    """One line, status 1, and all of it stands as it stood."""
    path = tmp_path / "place"
    make(path)
    before = {found.name: found.lstat() for found in tmp_path.iterdir()}
    uds = path.name if is_relative else str(path)
    config = write_config(tmp_path / "config.yaml", lookup_model, server={"uds": uds})
    try:
        line = refused(config)
    finally:
        while _held:
            _held.pop().close()
    assert named in line
    assert "place" in line or "target" in line
    after = {name: (tmp_path / name).lstat() for name in before}
    assert [(s.st_ino, s.st_mode, s.st_size) for s in after.values()] == [
        (s.st_ino, s.st_mode, s.st_size) for s in before.values()
    ]


@pytest.mark.parametrize("leads", ["here", "by a link", "nowhere yet"])
def test_stale_socket_is_replaced(serve: Callable[..., ServerProcess], tmp_path: Path, leads: str) -> None:
    """So is one behind a link, and a link that leads nowhere yet leads to the socket; at the end the link is left."""
    path = tmp_path / "real.sock"
    if leads != "nowhere yet":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    named = path
    if leads != "here":
        named = tmp_path / "link.sock"
        named.symlink_to(path)
    server = serve(server={"uds": str(named)})
    assert server.predict("Anna").status_code == 200
    server.client.close()
    assert server.stop() == 0
    assert not path.exists()
    assert named.is_symlink() == (leads != "here")


def test_file_that_took_the_sockets_place_is_kept(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """The server removes its own socket at the end, nothing else that has come to stand there."""
    path = tmp_path / "nerve.sock"
    server = serve(server={"uds": str(path)})
    path.unlink()
    path.write_text("do not delete")
    server.client.close()
    assert server.stop() == 0
    assert path.read_text() == "do not delete"
