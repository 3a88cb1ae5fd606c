"""A closed loop of keep-alive connections, in as many processes as help, with few microseconds of its own."""

import asyncio
import json
import multiprocessing
import socket
import time

_PROCESSES = 4


def measure(port: int, bodies: list[bytes], connections: int, seconds: float) -> dict:
    """Return what `connections` clients, each with one request under way, saw for `seconds`."""
    n_processes = min(_PROCESSES, connections)
    shares = [connections // n_processes + (k < connections % n_processes) for k in range(n_processes)]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(queue, port, bodies, share, seconds, k))
        for k, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    parts = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    total = sorted(value for part in parts for value in part["total"])
    server = sorted(value for part in parts for value in part["server"])
    failed = sum(part["failed"] for part in parts)
    assert total, f"{failed} requests failed, none succeeded"
    return {
        "connections": connections,
        "requests": len(total),
        "failed": failed,
        # The last answers come after `seconds`; of a slow server they are many.
        "per_second": sum(len(part["total"]) / part["seconds"] for part in parts),
        "p50_ms": 1000 * percentile(total, 0.5),
        "p99_ms": 1000 * percentile(total, 0.99),
        "server_p50_ms": percentile(server, 0.5) if server else None,
        "server_p99_ms": percentile(server, 0.99) if server else None,
    }


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))]


def make_request(text: str) -> bytes:
    """Return the bytes of one prediction."""
    body = json.dumps({"inputs": [text]}).encode()
    head = "POST /predict_tokens HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _work(queue, port, bodies, connections, seconds, seed) -> None:
    work = _one_connection if connections == 1 else _several_connections
    started = time.perf_counter()
    seen = work(port, bodies, connections, seconds, seed)
    queue.put({**seen, "seconds": time.perf_counter() - started})


def _one_connection(port, bodies, _, seconds, seed) -> dict:
    """Use a blocking socket, which has the least overhead of all clients."""
    seen = {"total": [], "server": [], "failed": 0}
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        number = seed
        while time.perf_counter() < end:
            started = time.perf_counter()
            connection.sendall(bodies[number % len(bodies)])
            data = b""
            while not _is_whole(data):
                more = connection.recv(65536)
                assert more, "the server closed the connection"
                data += more
            _note(seen, data, time.perf_counter() - started)
            number += 1
    return seen


def _several_connections(port, bodies, connections, seconds, seed) -> dict:
    seen = {"total": [], "server": [], "failed": 0}

    async def run() -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        clients = [
            await loop.create_connection(
                lambda k=k: _Client(seen, bodies, seed * 1009 + k * 31, end), "127.0.0.1", port
            )
            for k in range(connections)
        ]
        await asyncio.gather(*(client.done for _, client in clients))

    asyncio.run(run())
    return seen


class _Client(asyncio.Protocol):
    def __init__(self, seen: dict, bodies: list[bytes], number: int, end: float):
        self.seen, self.bodies, self.number, self.end = seen, bodies, number, end
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.data = b""

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.started = time.perf_counter()
        self.transport.write(self.bodies[self.number % len(self.bodies)])
        self.number += 1

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not _is_whole(self.data):
            return
        _note(self.seen, self.data, time.perf_counter() - self.started)
        self.data = b""
        if self.loop.time() < self.end:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, error) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _is_whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    return len(body) >= int(_header(head, b"content-length") or 0)


def _header(head: bytes, name: bytes) -> bytes | None:
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else None].strip()


def _note(seen: dict, data: bytes, seconds: float) -> None:
    if not data.startswith(b"HTTP/1.1 200"):
        seen["failed"] += 1
        return
    seen["total"].append(seconds)
    timing = _header(data.partition(b"\r\n\r\n")[0], b"server-timing")
    if timing:
        seen["server"].append(float(timing.rpartition(b"total;dur=")[2]))
