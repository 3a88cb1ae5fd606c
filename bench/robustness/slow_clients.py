"""Slow clients: what a good client waits for its answers while 500 others send slowly, stop, or do not read.

    python -m bench.robustness.slow_clients [--clients 500] [--config config.yaml] [--report result.json]

Starts `nerve serve`. The good client asks 10 times a second, in turns alone and beside the slow ones, each of which is
opened again when the server closes it. At the end the slow ones stop altogether, and all must be closed. Prints
latency of the good client in ms, the server's memory, and how the slow connections ended.
"""

import argparse
import json
import select
import socket
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from bench.paths import REPOSITORY
from bench.robustness.soak import Client, serving, tree_rss_mb
from bench.serving import machine

HEAD = b"POST /predict_tokens HTTP/1.1\r\nhost: a\r\n"
GOOD = json.dumps(
    {"inputs": "Dear Ann Lee, please call us back this week.", "aggregation_strategy": "simple"}
).encode()
LARGE = json.dumps({"inputs": ["call Ann in Paris now " * 400] * 4, "raw_scores": True}).encode()
# name -> (what is sent at once, what follows at one byte a second, whether the answer is read)
KINDS = {
    "silent": (b"", b"", True),
    "one byte": (b"P", b"", True),
    "HTTP/2 without a request": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"", True),
    "head, byte by byte": (b"", HEAD + b"x-long: " + b"a" * 1000, True),
    "body, byte by byte": (HEAD + b"content-length: 1000\r\n\r\n", b" " * 1000, True),
    "chunks, byte by byte": (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"3e8\r\n" + b" " * 1000, True),
    "idle after an answer": (HEAD + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD, b"", True),
}
UNREAD = ("large answer, unread", (HEAD + b"content-length: %d\r\n\r\n" % len(LARGE) + LARGE, b"", False))
N_UNREAD = 4  # of all: each computes for a second or more


class Slow:
    """One slow client, connected again whenever it is closed."""

    def __init__(self, port: int, name: str, kind: tuple[bytes, bytes, bool], ended: Counter) -> None:
        self.port, self.name, self.ended = port, name, ended
        self.first, self.rest, self.reads = kind
        self.connection: socket.socket | None = None
        self.sent = 0

    def step(self, *, again: bool) -> bool:
        """Send one byte, look for the end; tells whether it is connected."""
        if self.connection is None:
            if not again:
                return False
            self.connection = socket.socket()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.connection.settimeout(5)
            self.connection.connect(("127.0.0.1", self.port))
            self.connection.sendall(self.first)
            self.connection.setblocking(False)
            self.sent = 0
            return True
        try:
            if again and self.sent < len(self.rest):
                self.connection.send(self.rest[self.sent : self.sent + 1])
                self.sent += 1
            if self.reads:
                while self.connection.recv(65536):
                    pass
                raise ConnectionResetError
            poll = select.poll()
            poll.register(self.connection, select.POLLRDHUP)
            if poll.poll(0):
                raise ConnectionResetError
        except BlockingIOError:
            return True
        except (ConnectionError, TimeoutError):
            self.connection.close()
            self.connection = None
            self.ended[self.name] += 1
            return False
        return True


def ask(client: Client, seconds: float, slow: list[Slow], *, again: bool) -> list[float]:
    """Ask 10 times a second; between the answers a tenth of the slow clients each take their step."""
    latencies = []
    for turn in range(int(seconds * 10)):
        started = time.perf_counter()
        status, answer = client.post(GOOD)
        latencies.append((time.perf_counter() - started) * 1000)
        if status != 200:
            raise SystemExit(f"the good client got {status}: {answer!r}")
        for one in slow[turn % 10 :: 10]:
            one.step(again=again)
        time.sleep(max(0.0, 0.1 - (time.perf_counter() - started)))
    return latencies


def summary(latencies: list[float]) -> dict:
    """Return count, median and 99th percentile."""
    ordered = sorted(latencies)
    return {
        "count": len(ordered),
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(0.99 * (len(ordered) - 1))], 2),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--config", default=str(REPOSITORY / "config.yaml"))
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    ended: Counter[str] = Counter()
    alone, beside = [], []
    memory = {}
    with serving(options.config) as (port, process):
        client = Client(port)
        ask(client, 2, [], again=False)
        memory["start"] = tree_rss_mb(process.pid)
        alone += ask(client, 15, [], again=False)
        slow = [Slow(port, *UNREAD, ended) for _ in range(N_UNREAD)]
        kinds = list(KINDS.items())
        slow += [Slow(port, *kinds[k % len(kinds)], ended) for k in range(options.clients - N_UNREAD)]
        ask(client, 5, slow, again=True)  # they connect, and the large requests are computed
        beside += ask(client, 75, slow, again=True)
        memory["beside slow ones"] = tree_rss_mb(process.pid)
        ends = dict(ended)
        started = time.monotonic()
        while any(one.connection for one in slow) and time.monotonic() < started + 120:
            ask(client, 1, slow, again=False)
        last_closed = round(time.monotonic() - started, 1)
        still_open = Counter(one.name for one in slow if one.connection)
        alone += ask(client, 15, [], again=False)
        memory["end"] = tree_rss_mb(process.pid)
    report = {
        **machine.describe(),
        "clients": options.clients,
        "alone": summary(alone),
        "beside_slow_clients": summary(beside),
        "rss_mb": {name: round(value, 1) for name, value in memory.items()},
        "closed_by_the_server_in_75_s": ends,
        "seconds_until_the_last_was_closed": last_closed,
        "still_open": dict(still_open),
        "exit_status": process.returncode,
    }
    print(json.dumps(report, indent=1))
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if still_open or process.returncode != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
