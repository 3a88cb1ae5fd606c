"""Speaks HTTP/1.1 over a bare socket, for the clients that an HTTP library is too polite to be."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from builders import ServerProcess

GOOD_BODY = b'{"inputs": "Anna lives in Paris."}'


@dataclass(frozen=True)
class RawAnswer:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.body)


def connect(server: ServerProcess) -> socket.socket:
    """Open a connection; every wait on it ends after 60 seconds."""
    connection = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":")[-1])), timeout=60)
    server.connections.append(connection)
    return connection


def request_bytes(
    body: bytes, *headers: str, path: str = "/predict_tokens", version: str = "1.1", length: int | None = None
) -> bytes:
    """Return a POST with a content length: that of the body, unless another one is claimed."""
    length = len(body) if length is None else length
    lines = [f"POST {path} HTTP/{version}", "host: test", f"content-length: {length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked_request(chunks: Iterable[bytes], *, finish: bool = True) -> bytes:
    """Return a POST without a content length, its body in chunks."""
    head = b"POST /predict_tokens HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + (b"0\r\n\r\n" if finish else b"")


def read_answer(connection: socket.socket, rest: bytes = b"") -> tuple[RawAnswer, bytes]:
    """Read one answer with a content length; returns it and what came after it."""
    data = rest
    while b"\r\n\r\n" not in data:
        data += _receive(connection)
    head, _, data = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    length = int(headers["content-length"])
    while len(data) < length:
        data += _receive(connection)
    return RawAnswer(int(first.split()[1]), headers, data[:length]), data[length:]


def exchange(server: ServerProcess, data: bytes, *, half_close: bool = False) -> RawAnswer:
    """Send bytes on a connection of their own and read one answer."""
    with connect(server) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)  # the server may answer before it has read everything
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_answer(connection)[0]


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the other end has closed a connection, and not only sent something; reads what it has sent."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def metric(server: ServerProcess, name: str) -> float:
    """Return the sum of the samples of /metrics with a name and at least the labels after it, 0 where there is none."""
    name, _, labels = name.rstrip("}").partition("{")
    wanted = set(labels.split(",")) if labels else set()
    total = 0.0
    for line in server.client.get("/metrics").text.splitlines():
        sample, _, value = line.rpartition(" ")
        found, _, given = sample.rstrip("}").partition("{")
        if found == name and wanted <= set(given.split(",")):
            total += float(value)
    return total


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Poll a condition that another process decides; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain until {what}"
        threading.Event().wait(0.02)


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection before a whole answer had come")
    return data
