"""The load of `nerve tune`: a small HTTP/1.1 client that costs little, because it shares the cores with the server.

`httpx` and its like take about 1 ms of CPU for a request, which on a small machine would be measured instead of
the server; this one takes about a tenth (it is reported). It speaks to nerve alone: keep-alive, one
request at a time on a connection, answers with a content-length.

Open loop: requests leave at the moments of a Poisson process, the same ones in every probe, whatever the server
does, and latency counts from the intended moment. A request that is refused, fails or is not answered
counts as infinitely late. All times in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import selectors
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

# Connections of an open loop; requests beyond them wait here, and their waiting counts.
_CONNECTIONS = 128
_SEED = 20240229
_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Sample:
    """What one probe saw: the latencies of the answered requests, of `planned` ones.

    refused, failed: answers with status 429, and whatever else was no 200. lateness: of the moment of sending.
    """

    planned: int = 0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    lateness: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """Return the latency that `share` of the planned requests stayed within; infinite if too few did."""
        rank = math.ceil(share * self.planned)
        return sorted(self.latencies)[rank - 1] if 0 < rank <= len(self.latencies) else math.inf

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


class Load:
    """Sends requests to one server. `requests` are whole HTTP requests, sent in turn."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._requests = requests

    def closed_loop(self, connections: int, seconds: float) -> Sample:
        """Let each connection send its next request when it has the answer."""
        return _run(self._closed_loop(connections, seconds))

    def open_loop(self, rate: float, seconds: float, target: float) -> Sample:
        """Send `rate` requests a second; ends early once more than 1 % cannot be within `target` any more."""
        return _run(self._open_loop(rate, seconds, target))

    async def _closed_loop(self, connections: int, seconds: float) -> Sample:
        sample = Sample()
        started, cpu = time.perf_counter(), time.process_time()
        ends = started + seconds

        async def client(number: int) -> None:
            index = number * len(self._requests) // connections
            async with _Pool(self._port, 1) as pool:
                is_first = True  # it is sent however long it took to connect
                while (sent := time.perf_counter()) < ends or is_first:
                    is_first = False
                    done = asyncio.get_running_loop().create_future()
                    sample.planned += 1
                    pool.idle.pop().send(self._requests[index % len(self._requests)], done.set_result)
                    index += 1
                    _record(sample, await done, time.perf_counter() - sent)
                    await pool.refill()

        await asyncio.gather(*(client(number) for number in range(connections)))
        sample.seconds, sample.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        return sample

    async def _open_loop(self, rate: float, seconds: float, target: float) -> Sample:
        moments = _arrivals(rate, seconds)
        sample = Sample(planned=len(moments))
        spare = len(moments) // 100  # may be late
        over = asyncio.Event()
        waiting: deque[tuple[float, bytes]] = deque()
        n_left = len(moments)
        n_bad = 0

        def finish(intended: float, status: int) -> None:
            nonlocal n_left, n_bad
            latency = time.perf_counter() - intended
            n_left -= 1
            n_bad += status != 200 or latency > target
            _record(sample, status, latency)
            if n_left == 0 or n_bad > spare:
                over.set()

        def send_waiting() -> None:
            while waiting and pool.idle:
                intended, request = waiting.popleft()
                sample.lateness.append(time.perf_counter() - intended)
                pool.idle.pop().send(request, partial(finish, intended))

        async with _Pool(self._port, min(_CONNECTIONS, max(1, len(moments)))) as pool:
            pool.on_idle = send_waiting
            started, cpu = time.perf_counter() + 0.01, time.process_time()
            for number, moment in enumerate(moments):
                delay = started + moment - time.perf_counter()
                await asyncio.sleep(max(0, delay))
                if over.is_set():
                    break
                await pool.refill()
                waiting.append((started + moment, self._requests[number % len(self._requests)]))
                send_waiting()
            await _wait(over, started + seconds + 2 * target - time.perf_counter())
            sample.seconds, sample.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        return sample


def make_requests(bodies: Sequence[bytes], route: str) -> list[bytes]:
    """Return whole HTTP requests, in a shuffled but fixed order, so that long and short texts mix."""
    head = f"POST {route} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
    requests = [head.encode() + str(len(body)).encode() + _HEAD_END + body for body in bodies]
    random.Random(_SEED).shuffle(requests)  # noqa: S311 - no secret
    return requests


def _record(sample: Sample, status: int, latency: float) -> None:
    if status == 200:
        sample.latencies.append(latency)
    elif status == 429:
        sample.refused += 1
    else:
        sample.failed += 1


def _arrivals(rate: float, seconds: float) -> list[float]:
    """Return the moments of a Poisson process, the same ones but for their scale at every rate."""
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    moments: list[float] = []
    moment = chance.expovariate(1) / rate
    while moment < seconds:
        moments.append(moment)
        moment += chance.expovariate(1) / rate
    return moments


def _run(coroutine: Coroutine[Any, Any, Sample]) -> Sample:
    """Run on a loop over select(): its timers are exact to microseconds, those over epoll to 1 ms."""

    def make_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(coroutine)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.001, seconds))


class _Pool:
    """Connections to one server; a broken one is replaced by `refill`."""

    def __init__(self, port: int, size: int) -> None:
        self.idle: list[_Connection] = []
        self.on_idle: Callable[[], None] | None = None
        self._all: set[_Connection] = set()
        self._port = port
        self._size = size

    async def __aenter__(self) -> _Pool:
        await self.refill()
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in list(self._all):
            connection.close()
        await asyncio.sleep(0)  # lets the transports close

    async def refill(self) -> None:
        """Open connections until there are as many as there should be; returns at once when there are."""
        loop = asyncio.get_running_loop()
        while len(self._all) < self._size:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            self._all.add(connection)
            self.idle.append(connection)

    def give_back(self, connection: _Connection) -> None:
        """Take a connection back whose answer is complete."""
        self.idle.append(connection)
        if self.on_idle is not None:
            self.on_idle()

    def drop(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self._all.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._answered: Callable[[int], None] | None = None
        self._received = b""

    def send(self, request: bytes, answered: Callable[[int], None]) -> None:
        """Send a request; `answered` gets the status of its answer, or 0 when none will come."""
        self._answered = answered
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """Leave, whatever is on its way."""
        self._answered = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio calls this)."""
        self._transport = transport  # type: ignore[assignment]  # TCP has one that reads and writes

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that no answer will come."""
        self._pool.drop(self)
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(0)

    def data_received(self, data: bytes) -> None:
        """Collect an answer; complete when the body is as long as its head says."""
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return
        head = self._received[:end].lower()
        _, _, after = head.partition(b"content-length:")
        length = int(after.partition(b"\r\n")[0] or 0)
        if len(self._received) < end + len(_HEAD_END) + length:
            return
        status = int(head[9:12])
        self._received = b""
        answered, self._answered = self._answered, None
        self._pool.give_back(self)
        if answered is not None:
            answered(status)
