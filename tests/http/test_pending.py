"""The bytes that all requests of a worker hold are bounded: who is refused, and that nobody else is."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import Gate
from exchanges import Probe, busy_pool, engine_of, open_app, send, wait_until
from nerve.config import LimitsConfig
from nerve.errors import Overloaded
from nerve.http.app import App
from nerve.http.asgi import AsgiRequest
from nerve.http.pending import PendingBytes, Share
from nerve.http.request import Response
from nerve.http.rsgi import RsgiRequest

LARGE, SMALL = 100_000, 10_000
ANSWER = Response(429, [("x-request-id", "1")], b"{}")


def arriving(pending: PendingBytes, n_bytes: int, told: list[Share] | None = None) -> Share:
    """Open the share of a body of which so much has come; who is refused is told."""
    share = pending.open(lambda error: told.append(share) if told is not None else None, n_bytes)
    share.grow(n_bytes)
    return share


def test_the_large_body_that_has_not_grown_for_longest_makes_room() -> None:
    """Not the one that grows now, nor one that has grown since."""
    told: list[Share] = []
    pending = PendingBytes(3 * LARGE)
    first, second, third = (arriving(pending, LARGE, told) for _ in range(3))
    assert first.grow(LARGE)
    assert third.grow(LARGE + 1)
    assert told == [second]
    assert pending.total == 2 * LARGE + 1
    assert not second.grow(LARGE)
    assert told == [second]  # once
    assert not second.keep(LARGE)


def test_large_bodies_never_drive_small_ones_out() -> None:
    """However long these have not grown; but small ones take room from large ones."""
    told: list[Share] = []
    pending = PendingBytes(2 * LARGE)
    small = [arriving(pending, SMALL, told) for _ in range(5)]
    large = arriving(pending, LARGE, told)
    assert not large.grow(2 * LARGE)
    assert told == [large]
    large = arriving(pending, LARGE, told)
    small += [arriving(pending, SMALL, told) for _ in range(6)]
    assert told[1:] == [large]
    assert all(share.grow(SMALL) for share in small)


@pytest.mark.parametrize("stated", [LARGE, None])
def test_bodies_are_large_from_the_beginning(stated: int | None) -> None:
    """A flood of large ones is small at first; who does not state a length may belong to it."""
    told: list[Share] = []
    pending = PendingBytes(3 * SMALL)
    arriving(pending, SMALL, told)
    flood = [pending.open(lambda _, number=number: told.append(flood[number]), stated) for number in range(5)]
    for share in flood:
        share.grow(SMALL)
    assert told == flood[:3]


def test_small_bodies_make_room_for_each_other() -> None:
    """When there is no large one."""
    told: list[Share] = []
    pending = PendingBytes(3 * SMALL)
    first, *_ = (arriving(pending, SMALL, told) for _ in range(4))
    assert told == [first]


def test_whole_bodies_and_texts_are_not_refused_any_more() -> None:
    """Their requests are under way: who comes later is refused, or waits elsewhere."""
    told: list[Share] = []
    pending = PendingBytes(2 * LARGE)
    whole = arriving(pending, LARGE, told)
    assert whole.keep(LARGE)
    text = pending.take(LARGE - 1)
    assert not arriving(pending, LARGE, told).grow(LARGE)
    with pytest.raises(Overloaded) as caught:
        pending.take(2)
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("pending_bytes", 1.0)
    assert f"limits.max_pending_bytes = {2 * LARGE}" in str(caught.value)
    assert whole not in told
    text.close()
    text.close()
    assert pending.total == LARGE
    whole.close()
    assert pending.total == 0


def test_text_takes_room_from_bodies_that_arrive() -> None:
    """A request that is there goes before one that may never be."""
    told: list[Share] = []
    pending = PendingBytes(2 * LARGE)
    stopped = arriving(pending, LARGE, told)
    pending.take(2 * LARGE)
    assert told == [stopped]


@given(st.lists(st.tuples(st.sampled_from(["open", "grow", "keep", "take", "close"]), st.integers(0, 2**17))))
@settings(max_examples=200, deadline=None)
def test_sum_is_kept(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: the sum is that of the shares, and within the limit; who has lost is told once."""
    limit = 2**18
    pending = PendingBytes(limit)
    shares: list[Share] = []
    told: list[int] = []
    for step, n in steps:
        if step == "open":
            number = len(shares)
            shares.append(pending.open(lambda _, number=number: told.append(number), n if n % 3 else None))
        elif step == "take":
            try:
                shares.append(pending.take(n))
            except Overloaded:
                shares.append(pending.open(lambda _: None, n))
        elif shares:
            share = shares[n % len(shares)]
            if step == "close":
                share.close()
            else:
                was_lost = share.is_lost
                found = (share.grow if step == "grow" else share.keep)(n)
                assert found is not share.is_lost
                assert not (was_lost and found)
        assert pending.total == sum(share.n_bytes for share in shares) <= limit
        assert len(told) == len(set(told))
    for share in shares:
        share.close()
    assert pending.total == 0
    assert not pending._small
    assert not pending._large


def test_many_threads_share_it() -> None:
    """Bodies grow, end and are refused on any thread; nothing is lost or counted twice."""
    pending = PendingBytes(10 * LARGE)
    n_told = [0] * 8

    def client(number: int) -> None:
        rng = random.Random(number)

        def refuse(error: Overloaded) -> None:
            n_told[number] += 1  # of this one's own bodies, though on another thread

        for _ in range(300):
            share = pending.open(refuse, rng.choice([None, SMALL, LARGE]))
            n = 0
            while n < LARGE * 2:
                n += rng.randrange(LARGE)
                if not share.grow(n):
                    break
            else:
                share.keep(n)
            share.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pending.total == 0
    assert not pending._small
    assert not pending._large


@pytest.mark.parametrize(
    "limits", [{}, {"max_body_bytes": 10**9}, {"max_body_bytes": 1, "max_pending_bytes": 5}]
)
def test_limits_fit_each_other(limits: dict[str, int]) -> None:
    """A request alone always finds room."""
    made = LimitsConfig(**limits)
    assert made.most_pending_bytes >= 5 * made.max_body_bytes


def test_limits_that_do_not_fit_are_refused_at_start() -> None:
    """Else what one of them allows would be refused for ever by the other."""
    with pytest.raises(ValueError, match="max_request_tokens must not be below max_input_tokens"):
        LimitsConfig(max_request_tokens=100_000)
    with pytest.raises(ValueError, match="max_pending_bytes must be at least 5 times max_body_bytes"):
        LimitsConfig(max_body_bytes=100, max_pending_bytes=499)


# --- bodies as Granian hands them over ----------------------------------------------------------------


class Chunk:
    """What Granian gives to wait on for a piece of a body."""

    def __init__(self) -> None:
        self.callback: Callable[[Any], None] | None = None
        self.data = b""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Keep the callback."""
        self.callback = callback

    def cancelled(self) -> bool:
        """Tell that it was not."""
        return False

    def cancel(self) -> None:
        """Do nothing."""

    def result(self) -> bytes:
        """Return the piece."""
        return self.data


class Connection:
    """Granian's side of one request: one piece is asked for at a time."""

    def __init__(self) -> None:
        self.asked: list[Chunk] = []
        self.answers: list[int] = []
        self.is_over = False

    def __aiter__(self) -> Connection:
        """Give the pieces."""
        return self

    def __anext__(self) -> Chunk:
        """Give the next piece."""
        if self.is_over:
            raise StopAsyncIteration
        assert not self.asked or self.asked[-1].callback is None, "two pieces are asked for at once"
        self.asked.append(Chunk())
        return self.asked[-1]

    def arrive(self, data: bytes) -> None:
        """Give the piece that is waited for."""
        chunk = self.asked[-1]
        assert chunk.callback is not None
        callback, chunk.callback, chunk.data = chunk.callback, None, data
        callback(chunk)

    def response_bytes(self, status: int, *_: object) -> None:
        """Take the answer."""
        self.answers.append(status)


class Body:
    """A body that arrives by RSGI, and the exchange that waits for it, which answers what is refused."""

    def __init__(self, pending: PendingBytes, n_bytes: int | None, http_version: str = "1.1") -> None:
        headers = {} if n_bytes is None else {"content-length": str(n_bytes)}
        scope = SimpleNamespace(headers=headers, method="POST", path="/", http_version=http_version)
        self.connection = Connection()
        self.request = RsgiRequest(scope, self.connection, pending)  # type: ignore[arg-type]
        self.told: list[bytes | Exception | None] = []
        self.request.read(10**7, self._then)

    def _then(self, body: bytes | bytearray | None, error: Exception | None) -> None:
        self.told.append(error if error is not None else bytes(body or b""))
        if error is not None:
            self.request.respond(ANSWER)


@pytest.mark.parametrize("http_version", ["1.1", "2"])
def test_body_that_makes_room_is_answered_and_thrown_away(http_version: str) -> None:
    """On the thread of the other one; what it has is given up at once, what comes yet is not kept."""
    pending = PendingBytes(2 * LARGE)
    stopped = Body(pending, 10 * LARGE, http_version)
    stopped.connection.arrive(bytes(LARGE))
    other = Body(pending, LARGE * 2 - 1, http_version)
    other.connection.arrive(bytes(LARGE))
    other.connection.arrive(bytes(LARGE - 1))
    if http_version == "2":
        other.connection.is_over = True
        other.connection.arrive(b"")
    assert [type(told) for told in stopped.told] == [Overloaded]
    wait_until(lambda: stopped.connection.answers == [429])  # a moment is left to the rest of the body
    assert other.told == [bytes(2 * LARGE - 1)]
    for _ in range(3):
        stopped.connection.arrive(bytes(LARGE))
    reading = stopped.request._reading
    assert reading is not None
    assert not reading._body
    assert len(stopped.told) == 1
    assert pending.total == 2 * LARGE - 1
    other.request.respond(ANSWER)
    assert pending.total == 0


def test_body_that_finds_no_room_is_answered_at_once() -> None:
    """By itself, when there is nobody else to make room; the rest of it is thrown away."""
    pending = PendingBytes(2 * LARGE)
    pending.take(LARGE)
    body = Body(pending, 3 * LARGE)
    body.connection.arrive(bytes(LARGE))
    body.connection.arrive(bytes(LARGE))
    assert [type(told) for told in body.told] == [Overloaded]
    body.connection.arrive(bytes(LARGE))
    wait_until(lambda: body.connection.answers == [429])
    assert pending.total == LARGE


def test_last_piece_may_find_no_room() -> None:
    """A body that is whole but was refused is not worked on."""
    pending = PendingBytes(2 * LARGE)
    pending.take(LARGE)
    body = Body(pending, 2 * LARGE)
    body.connection.arrive(bytes(LARGE))
    body.connection.arrive(bytes(LARGE))
    assert [type(told) for told in body.told] == [Overloaded]


@pytest.mark.parametrize("pieces", [[3 * LARGE], [1_000, 2_000], [4_000]])
def test_small_bodies_and_those_in_one_piece_are_not_counted(pieces: list[int]) -> None:
    """They are whole before anybody else could want room."""
    pending = PendingBytes(LARGE)
    pending.take(LARGE)
    body = Body(pending, sum(pieces))
    for piece in pieces:
        body.connection.arrive(bytes(piece))
    assert body.told == [bytes(sum(pieces))]


def test_answered_body_gives_its_room_back() -> None:
    """At its deadline, with no word from its client; however much comes afterwards."""
    pending = PendingBytes(10 * LARGE)
    body = Body(pending, 10 * LARGE)
    body.connection.arrive(bytes(LARGE))
    assert pending.total == LARGE
    body.request.respond(ANSWER)
    assert pending.total == 0
    body.connection.arrive(bytes(LARGE))
    assert pending.total == 0


# --- bodies by ASGI -----------------------------------------------------------------------------------


def test_asgi_bodies_share_the_room() -> None:
    """As by RSGI: the one that has stopped is answered, the other one goes on."""

    async def scenario() -> None:
        pending = PendingBytes(2 * LARGE)
        told: dict[str, list[object]] = {"stopped": [], "other": []}
        pieces: dict[str, asyncio.Queue[dict[str, Any]]] = {name: asyncio.Queue() for name in told}
        requests = {}
        for name in ("stopped", "other"):
            scope = {"method": "POST", "path": "/", "headers": []}
            request = requests[name] = AsgiRequest(scope, pieces[name].get, pending)  # type: ignore[arg-type]

            def then(body: Any, error: Any, name: str = name, request: AsgiRequest = request) -> None:
                told[name].append(body if error is None else type(error))
                if error is not None:
                    request.respond(ANSWER)

            request.read(10**7, then)
        for name, more in (("stopped", True), ("other", True), ("other", False)):
            await pieces[name].put({"type": "http.request", "body": bytes(LARGE - 1), "more_body": more})
            await asyncio.sleep(0.01)
        assert told["stopped"] == [Overloaded]
        assert told["other"] == [bytes(2 * LARGE - 2)]
        assert (await requests["stopped"].answer).status == 429
        await pieces["stopped"].put({"type": "http.request", "body": b"x", "more_body": False})
        await asyncio.sleep(0.01)
        assert len(told["stopped"]) == 1
        requests["other"].respond(ANSWER)
        await asyncio.sleep(0.01)
        assert pending.total == 0

    asyncio.run(scenario())


# --- the texts in them --------------------------------------------------------------------------------


@pytest.fixture
def opened(lookup_model: Path) -> Iterator[tuple[App, Gate]]:
    """Serve the lookup model; a body and five times as much is all that may be held."""
    limits = {"max_body_bytes": 40_000, "max_pending_bytes": 200_000}
    with open_app(lookup_model, limits=limits, batching={"max_queue_ms": None}) as (app, gate):
        gate.opened.set()
        yield app, gate


def test_texts_of_large_requests_are_counted_until_they_are_answered(opened: tuple[App, Gate]) -> None:
    """By what they take in memory: four bytes for each character where there is an emoji."""
    app, _ = opened
    body = json.dumps({"inputs": "😀 " + "anna " * 5_000, "aggregation_strategy": "simple"}).encode()
    with busy_pool(engine_of(app)):
        waiting = send(app, Probe(body))
        assert 100_000 < app.pending.total < 120_000
        refused = send(app, Probe(body)).answer()
        assert (refused.status, refused.rejection) == (429, "pending_bytes")
        assert dict(refused.headers)["retry-after"] == "1"
        assert send(app, Probe(b'{"inputs": "anna"}')).answer().status == 200
        left = send(app, Probe(body.replace(b"\\ud83d\\ude00", b"x")))
        left.leave()
        assert left.answer().status == 499
        assert app.pending.total < 120_000
    assert waiting.answer().status == 200
    wait_until(lambda: app.pending.total == 0)
