"""Open loop: requests leave at their moments whatever the server does; one thread, raw sockets, select.

usage: python open_loop.py PLAN OUT

PLAN is a JSON file: {host, port, requests, rate, seconds, seed, connections, reuse, timeout}; `requests` are whole
HTTP/1.1 requests, sent in turn: at constant intervals where `seed` is null, else at random moments (a Poisson process).
OUT gets {lateness_us, latency_us, answers, unanswered, connects}: how late each request left, how long after its
intended moment its answer was complete, [request, status, body, count] for each different answer, requests that got
none in time or whose connection broke, and connections opened.

It takes 0.2 ms of CPU a request where k6 takes 0.9 (selftest.py): of the two cores that serve 200 requests a second k6
takes 18 % of one away from the server. Waiting is left to `select`, which is exact to microseconds where epoll counts
milliseconds. Connections are opened beforehand, and more when all are busy.
"""

import json
import random
import select
import socket
import sys
import time
from collections import Counter
from pathlib import Path

_RECEIVE = 1 << 16
_MOST_CONNECTIONS = 900  # select takes 1,024 descriptors


class Connection:
    """One connection, and the request that is under way on it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.number = 0
        self.received = bytearray()
        self._length = -1  # of the whole answer in bytes, once its head is there

    def send(self, number: int, request: bytes) -> None:
        """Send the request `number`. Raises `OSError`, also when it does not fit the socket's buffer."""
        self.number = number
        self.received.clear()
        self._length = -1
        if self.socket.send(request) < len(request):
            raise OSError("the request is larger than the socket's buffer")

    def is_open(self) -> bool:
        """Tell whether the server has kept an idle connection."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def receive(self) -> bool:
        """Take what is there; True when the answer is complete. Raises `OSError`."""
        part = self.socket.recv(_RECEIVE)
        if not part:
            raise ConnectionResetError
        self.received += part
        if self._length < 0:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self.received[:end]).lower()
            body_length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            if not body_length:
                raise ValueError(f"an answer without content-length: {head!r}")
            self._length = end + 4 + int(body_length)
        return len(self.received) >= self._length

    def answer(self) -> tuple[int, bytes]:
        """Return status and body."""
        head, _, body = bytes(self.received).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body


def list_moments(rate: float, seconds: float, seed: int | None) -> list[float]:
    """Return when each request leaves; as many with a seed as without, at moments that know nothing of each other."""
    count = round(rate * seconds)
    if seed is None:
        return [number / rate for number in range(count)]
    chance = random.Random(seed)
    return sorted(chance.uniform(0, seconds) for _ in range(count))


class Load:
    """The requests of a run, and what became of them."""

    def __init__(self, plan: dict) -> None:
        self._address = plan["host"], plan["port"]
        self._requests = [request.encode() for request in plan["requests"]]
        self._moments = list_moments(plan["rate"], plan["seconds"], plan["seed"])  # seconds from the start
        self._count = len(self._moments)
        self._reuse = plan["reuse"]
        self._timeout = plan["timeout"]
        self._idle: list[Connection] = []
        self._busy: dict[socket.socket, Connection] = {}
        self._due: list[float] = []
        self.lateness_us: list[int] = []
        self.latency_us: list[int] = []
        self.answers: Counter = Counter()
        self.unanswered = 0
        self.connects = 0
        for _ in range(plan["connections"] if self._reuse else 0):
            self._idle.append(self._connect())

    def run(self) -> None:
        """Send all, and wait for the answers."""
        start = time.perf_counter() + 0.1
        self._due = [start + moment for moment in self._moments]
        sent = 0
        while sent < self._count or self._busy:
            now = time.perf_counter()
            while sent < self._count and self._due[sent] <= now:
                self._send(sent)
                sent += 1
                now = time.perf_counter()
            if sent < self._count:
                wait = self._due[sent] - now
            else:
                wait = self._due[-1] + self._timeout - now
                if wait <= 0:
                    self.unanswered += len(self._busy)
                    return
            for ready in select.select(list(self._busy), [], [], max(0.0, wait))[0]:
                self._receive(self._busy[ready])

    def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.socket.close()
        return self._connect()

    def _connect(self) -> Connection:
        self.connects += 1
        return Connection(self._address)

    def _send(self, number: int) -> None:
        self.lateness_us.append(round(1e6 * (time.perf_counter() - self._due[number])))
        if not self._idle and len(self._busy) >= _MOST_CONNECTIONS:
            self.unanswered += 1
            return
        try:
            connection = self._take()
            connection.send(number, self._requests[number % len(self._requests)])
        except OSError:
            self.unanswered += 1
            return
        self._busy[connection.socket] = connection

    def _receive(self, connection: Connection) -> None:
        try:
            if not connection.receive():
                return
        except OSError:
            self.unanswered += 1
            self._close(connection)
            return
        number = connection.number
        latency = time.perf_counter() - self._due[number]
        status, body = connection.answer()
        self.answers[number % len(self._requests), status, body] += 1
        if status == 200:
            self.latency_us.append(round(1e6 * latency))
        if self._reuse:
            del self._busy[connection.socket]
            self._idle.append(connection)
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._busy[connection.socket]
        connection.socket.close()


def main() -> int:
    plan, out = map(Path, sys.argv[1:])
    load = Load(json.loads(plan.read_text()))
    load.run()
    answers = [
        [index, status, body.decode(errors="replace"), count]
        for (index, status, body), count in load.answers.items()
    ]
    found = {
        "lateness_us": load.lateness_us,
        "latency_us": load.latency_us,
        "answers": answers,
        "unanswered": load.unanswered,
        "connects": load.connects,
    }
    out.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
