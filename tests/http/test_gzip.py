"""Bodies that clients have compressed: what is taken, what is made of it, and what is refused early."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import Gate
from exchanges import Probe, busy_pool, engine_of, open_app, send, wait_until
from nerve.errors import MalformedRequest, PayloadTooLarge, UnsupportedEncoding
from nerve.http.app import App
from nerve.http.gzip import INLINE_BYTES, gunzip, is_gzip

BODY = b'{"inputs": "anna lives in paris", "aggregation_strategy": "simple"}'
LARGE = json.dumps(
    {"inputs": [f"anna {n**40} lives in paris" for n in range(100)], "aggregation_strategy": "simple"}
).encode()
LIMIT = 1_000_000


@pytest.fixture
def opened(lookup_model: Path) -> Iterator[tuple[App, Gate]]:
    """Serve the lookup model."""
    # Long enough that a busy machine refuses nothing for it.
    limits = {"max_body_bytes": LIMIT, "request_timeout_ms": 300_000}
    with open_app(lookup_model, limits=limits, batching={"max_queue_ms": None}) as (app, gate):
        gate.opened.set()
        yield app, gate


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        *[
            (header, True)
            for header in ("gzip", "GZIP", " gzip ", "x-gzip", "gzip, identity", "identity,gzip")
        ],
        *[(header, False) for header in ("identity", "", " ", "Identity, identity")],
    ],
)
def test_encodings_that_are_taken(header: str, expected: bool) -> None:
    """In any case, and beside `identity`, which says nothing."""
    assert is_gzip(header) is expected


@pytest.mark.parametrize(
    "header", ["br", "deflate", "zstd", "gzip, gzip", "gzip;q=1", "compress", "aws-chunked"]
)
def test_encodings_that_are_refused(header: str) -> None:
    """What to send instead is said, what was sent is not repeated."""
    with pytest.raises(UnsupportedEncoding, match="content-encoding must be one of gzip, identity") as caught:
        is_gzip(header)
    assert header not in str(caught.value).replace("gzip, identity", "")


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4), st.integers(0, 9))
@settings(deadline=None)
def test_any_bytes_are_given_back(members: list[bytes], level: int) -> None:
    """In one member or several, at every level."""
    body = b"".join(gzip.compress(member, level) for member in members)
    assert gunzip(body, 2_000) == b"".join(members)
    assert gunzip(bytearray(body), sum(map(len, members))) == b"".join(members)  # exactly the limit


@given(st.binary(min_size=1, max_size=300), st.data())
@settings(deadline=None)
def test_what_is_not_gzip_is_malformed(body: bytes, data: st.DataObject) -> None:
    """Cut at any place, or with a byte changed: never another error, and never other bytes."""
    whole = gzip.compress(body, mtime=0)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(MalformedRequest):
        gunzip(whole[:cut], 1_000)
    changed = bytearray(whole)
    changed[cut] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedRequest, PayloadTooLarge):
        assert gunzip(changed, 1_000) == body  # a byte of the head that means nothing
    for other in (b"", body, zlib.compress(body), whole + b"\0", whole + b"x"):
        with pytest.raises(MalformedRequest):
            gunzip(other, 1_000)


@pytest.mark.parametrize("excess", [1, 100, 1_000_000, 30_000_000])
def test_bomb_ends_at_the_limit(excess: int) -> None:
    """No more than the limit is ever made of it, whatever it would become."""
    compressor = zlib.compressobj(9, wbits=31)
    pieces = [
        compressor.compress(bytes(min(1_000_000, 50_000 + excess - at)))
        for at in range(0, 50_000 + excess, 1_000_000)
    ]
    bomb = b"".join(pieces) + compressor.flush()
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match=r"decoded body is above limits\.max_body_bytes = 50000"):
            gunzip(bomb, 50_000)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_members_are_bounded() -> None:
    """Hundreds of thousands of empty ones would cost seconds."""
    empty = gzip.compress(b"", mtime=0)
    assert gunzip(empty * 100, 10) == b""
    started = time.perf_counter()
    with pytest.raises(MalformedRequest, match="100 gzip members"):
        gunzip(empty * 200_000, 10)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("body", [BODY, LARGE], ids=["small", "large"])
def test_gzip_body_is_answered_as_its_text(opened: tuple[App, Gate], body: bytes) -> None:
    """Small ones where they arrive, larger ones on the pool; in MessagePack, too."""
    app, _ = opened
    plain = send(app, Probe(body)).answer()
    assert plain.status == 200
    compressed = gzip.compress(body)
    assert (len(compressed) > INLINE_BYTES) is (body is LARGE)
    for encoding in ("gzip", "x-gzip"):
        assert send(app, Probe(compressed, content_encoding=encoding)).answer().body == plain.body
    assert send(app, Probe(body, content_encoding="identity")).answer().body == plain.body
    packed = gzip.compress(msgspec.msgpack.encode(msgspec.json.decode(body)))
    headers = {"content_encoding": "gzip", "content_type": "application/msgpack"}
    assert send(app, Probe(packed, **headers)).answer().body == plain.body


@pytest.mark.parametrize(
    ("body", "encoding", "status", "kind"),
    [
        (BODY, "br", 415, "UnsupportedMediaType"),
        (None, "br", 415, "UnsupportedMediaType"),  # nothing of the body is waited for
        (BODY, "gzip", 400, "Validation"),
        (gzip.compress(LARGE, mtime=0)[:-1], "gzip", 400, "Validation"),
        (gzip.compress(b"not JSON", mtime=0), "gzip", 400, "Validation"),
        (gzip.compress(b'{"inputs": 1}', mtime=0), "gzip", 422, "Validation"),
        (gzip.compress(bytes(LIMIT + 1), mtime=0), "gzip", 413, "PayloadTooLarge"),
    ],
)
def test_bodies_that_are_refused(
    opened: tuple[App, Gate], body: bytes | None, encoding: str, status: int, kind: str
) -> None:
    """With the contract's statuses; a 415 says what is taken."""
    app, _ = opened
    answer = send(app, Probe(body, content_encoding=encoding)).answer()
    assert (answer.status, json.loads(answer.body)["error_type"]) == (status, kind)
    assert dict(answer.headers).get("accept-encoding") == ("gzip, identity" if status == 415 else None)


def test_body_that_waits_to_be_decoded_is_dropped(
    opened: tuple[App, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its client leaves; its deadline holds, too."""
    app, gate = opened
    engine = engine_of(app)
    monkeypatch.setattr("nerve.http.exchange.gunzip", lambda *_: pytest.fail("nobody wants this"))
    body = gzip.compress(LARGE)
    with busy_pool(engine):
        left = send(app, Probe(body, content_encoding="gzip"))
        late = send(app, Probe(body, content_encoding="gzip", request_timeout_ms="50"))
        left.leave()
        assert left.answer().status == 499
        assert late.answer().status == 504
        wait_until(lambda: engine.pool._n_waiting == 2)
    assert gate.n_windows == 0


def test_too_many_that_wait_are_refused(opened: tuple[App, Gate]) -> None:
    """As texts are; what can be decoded at once is."""
    app, _ = opened
    body = gzip.compress(LARGE)
    with busy_pool(engine_of(app)):
        waiting = [send(app, Probe(body, content_encoding="gzip")) for _ in range(62)]
        refused = send(app, Probe(body, content_encoding="gzip")).answer()
        assert (refused.status, refused.rejection) == (429, "pool")
        assert send(app, Probe(gzip.compress(BODY), content_encoding="gzip")).answer().status == 200
    assert {request.answer().status for request in waiting} == {200}
