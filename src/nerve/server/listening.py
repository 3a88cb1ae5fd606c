"""Where the server listens: an address and a TCP port that is free, or a Unix socket.

A server that was killed leaves its Unix socket behind, and the next one removes it. Nothing but a socket is ever
removed: what else stands at `server.uds` is somebody's file.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nerve.errors import StartupError

if TYPE_CHECKING:
    from nerve.config import ServerConfig

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - what the function below is about

_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFLNK: "a link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class SocketFile(NamedTuple):
    """A socket in the file system, and what tells it from another one at the same path."""

    path: Path
    device: int
    inode: int


def listening_host(server: ServerConfig, *, has_key: bool) -> str:
    """Return the address to listen on: without a key nobody else is let in, unless the configuration says so."""
    return server.host or (EVERY_ADDRESS if has_key else "127.0.0.1")


def is_local(server: ServerConfig, host: str) -> bool:
    """Tell whether only this machine can connect."""
    try:
        return server.uds is not None or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def check_port(host: str, port: int) -> None:
    """Raise `OSError` when another server listens there; Granian would share the port with it."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)


def check_address(server: ServerConfig, host: str) -> None:
    """Raise the `StartupError` of a start where the address is taken, or cannot be had."""
    where = server.uds or f"{host}:{server.port}"
    try:
        if server.uds is None:
            check_port(host, server.port)
        else:
            _check_socket(resolve_socket_path(server.uds))
    except OSError as error:
        raise StartupError(
            f"cannot listen on {where}: {error}; free it, or change server.host, server.port or server.uds"
        ) from error


def _check_socket(path: Path) -> None:
    """Raise `OSError` where a Unix socket cannot be made: no folder that can be written, or something stands there."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(f"{path.parent} cannot be written, or is not there")
    if path.exists() and not path.is_socket():
        raise OSError("something stands there that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if path.is_socket() and probe.connect_ex(str(path)) == 0:
            raise OSError("another server listens there")


def find_port(host: str) -> int:
    """Return a port of `host` that is free now: workers, and who reads the log, must all know one number.

    Raises `StartupError`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            port: int = probe.getsockname()[1]
            return port
    except OSError as error:
        raise StartupError(f"cannot listen on {host}: {error}; change server.host") from error


def resolve_socket_path(path: str) -> Path:
    """Return where a Unix socket will stand, links followed. Raises `StartupError`."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:  # links that go round in a circle
        raise StartupError(f"server.uds: {path} leads nowhere ({error}); name another path") from error


def remove_stale_socket(path: Path) -> None:
    """Remove a Unix socket that nobody listens on: a server that was killed left it behind.

    Raises `OSError` when something stands there that is no socket, or that may not be looked at.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something")
        raise OSError(f"{kind} stands there, and only a socket is ever replaced")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # it would wait for one whose backlog is full
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # it is listened on, or not ours: listening will tell


def identify_socket(path: Path) -> SocketFile:
    """Note which socket stands at a path."""
    found = path.lstat()
    return SocketFile(path, found.st_dev, found.st_ino)


def remove_socket(own: SocketFile) -> None:
    """Remove a socket of ours, unless something else has come to stand there."""
    try:
        found = own.path.lstat()
        if stat.S_ISSOCK(found.st_mode) and (found.st_dev, found.st_ino) == (own.device, own.inode):
            os.unlink(own.path)
    except OSError:
        return  # it is gone, or its folder is
