"""Input and clients that a server must survive; the next good request is answered as before."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from builders import ServerProcess
from raw_http import (
    GOOD_BODY,
    chunked_request,
    connect,
    exchange,
    metric,
    read_answer,
    request_bytes,
    wait_until,
)

WORDS_PER_WINDOW = 14  # of the lookup model: 16 tokens less [CLS] and [SEP]


def post(server: ServerProcess, body: bytes) -> httpx.Response:
    """POST a body as it is."""
    return server.client.post("/predict_tokens", content=body)


@pytest.fixture(autouse=True)
def _answers_as_before(server: ServerProcess) -> Iterator[None]:
    """After every test, a good request on a new connection gets the answer it got before."""
    before = exchange(server, request_bytes(GOOD_BODY))
    yield
    after = exchange(server, request_bytes(GOOD_BODY))
    assert (after.status, after.body) == (200, before.body)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"inputs": "\\ud83d"}', 400),  # half of a surrogate pair
        (b'{"inputs": "A\\ude00nna"}', 400),
        (b'{"inputs": "A\xed\xa0\x80"}', 400),  # the same in UTF-8
        (b'{"inputs": "A\x00"}', 400),  # a bare control character is not JSON
        (b'{"inputs": "Anna\\u0000 Bob"}', 200),
        (b"\xef\xbb\xbf" + GOOD_BODY, 400),  # byte order mark
        (b"[" * 100_000, 400),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
        (b'{"inputs": ' + b"[" * 50 + b'"Anna"' + b"]" * 50 + b"}", 422),
        (b'{"inputs": "Anna"} {"inputs": "Bob"}', 400),
        (b'{"inputs": NaN}', 400),
        (b'{"inputs": 1e999}', 400),
        (b'{"inputs": "Anna", "inputs": "Bob"}', 200),
        (json.dumps({"inputs": ["Anna"] * 100_000}).encode(), 422),
        (json.dumps({"inputs": [["Anna"]] * 100_000}).encode(), 422),
        (json.dumps({"inputs": "a" * 10_000_000}).encode(), 413),
        (json.dumps({"inputs": "anna " * 390_000}).encode(), 422),
        (json.dumps({"x" * 1_000_000: 1}).encode(), 422),
    ],
)
def test_hostile_bodies(server: ServerProcess, body: bytes, status: int) -> None:
    """Surrogates, NUL, depth, floods: the contract's answer, never a 5xx."""
    answer = post(server, body)
    assert answer.status_code == status, answer.text[:200]


@pytest.mark.parametrize("text", ["", " ", "\n\t\r  ", "\u200b", "\u00a0\u2003"])
def test_blank_texts(server: ServerProcess, text: str) -> None:
    """An empty or blank text is no error: no entity, and the special tokens alone for `none`."""
    assert server.predict(text, aggregation_strategy="simple").json() == [[]]
    rows = server.predict(text).json()[0]
    assert [row["token"] for row in rows] == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize(
    "text",
    [
        "Anna 😀 Bob",
        "e\u0301 Anna",
        "👩‍👩‍👧 Anna",
        "אנא Anna",
        "\u202eAnna\u202c",
        "安娜 Anna 住在",
        "ß Anna İ",
    ],
)
@pytest.mark.parametrize("unit", ["code_point", "utf16", "byte"])
def test_scripts(server: ServerProcess, text: str, unit: str) -> None:
    """Emoji, combining marks, right to left, CJK: offsets cut exactly the token out of the text."""
    encoded = {"code_point": text, "utf16": text.encode("utf-16-le"), "byte": text.encode()}[unit]
    width = 2 if unit == "utf16" else 1
    codec = {"utf16": "utf-16-le", "byte": "utf-8"}.get(unit)
    rows = server.predict(text, offset_unit=unit).json()[0]
    assert "anna" in {row["token"].lower() for row in rows}
    for row in rows[1:-1]:
        piece = encoded[row["start"] * width : row["end"] * width]
        assert (piece.decode(codec) if codec and isinstance(piece, bytes) else piece) == row["token"]


@pytest.mark.parametrize("n_words", [WORDS_PER_WINDOW, WORDS_PER_WINDOW + 1, 10_000])
def test_text_lengths(server: ServerProcess, n_words: int) -> None:
    """A text of exactly the maximum, one more, and ten thousand tokens: every word comes back once."""
    words = ["anna" if k % 7 == 0 else "lives" for k in range(n_words)]
    answer = server.predict(" ".join(words))
    assert [row["token"] for row in answer.json()[0][1:-1]] == words
    assert "x-truncated" not in answer.headers
    cut = server.predict(["bob", " ".join(words)], truncate=True)
    assert len(cut.json()[1]) == WORDS_PER_WINDOW + 2
    assert cut.headers.get("x-truncated") == ("1" if n_words > WORDS_PER_WINDOW else None)


def test_body_cut_short(server: ServerProcess) -> None:
    """A client that stops sending before the end, but still reads, gets 400."""
    for request in (
        request_bytes(b'{"inputs": "An', length=100),
        request_bytes(b'{"inputs": "Anna"}', length=100),
        chunked_request([b'{"inputs": "An'], finish=False),
    ):
        answer = exchange(server, request, half_close=True)
        assert (answer.status, answer.json()["error_type"]) == (400, "Validation")


def test_client_that_leaves_mid_body(server: ServerProcess) -> None:
    """A client that leaves in the middle of its body is not a defect: no 500, nothing in the log."""
    failed = metric(server, 'nerve_requests_total{route="/predict_tokens",status="500"}')
    name = 'nerve_requests_total{route="/predict_tokens",status="400"}'
    before = metric(server, name)
    for request in (request_bytes(b'{"inputs": "An', length=100), chunked_request([b'{"in'], finish=False)):
        with connect(server) as connection:
            connection.sendall(request)
    wait_until(lambda: metric(server, name) == before + 2, "both requests are over")
    assert metric(server, 'nerve_requests_total{route="/predict_tokens",status="500"}') == failed


def test_chunked_request(server: ServerProcess) -> None:
    """A body without a content length is read to its end."""
    pieces = [GOOD_BODY[k : k + 3] for k in range(0, len(GOOD_BODY), 3)]
    answer = exchange(server, chunked_request(pieces))
    assert answer.body == exchange(server, request_bytes(GOOD_BODY)).body


def test_http_1_0(server: ServerProcess) -> None:
    """HTTP/1.0 without a host header is answered, and the connection closed unless asked otherwise."""
    with connect(server) as connection:
        connection.sendall(request_bytes(GOOD_BODY, version="1.0"))
        answer, rest = read_answer(connection)
        assert answer.status == 200
        assert rest + connection.recv(1) == b""
    kept = request_bytes(GOOD_BODY, "connection: keep-alive", version="1.0")
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(kept)
            assert read_answer(connection)[0].body == answer.body


def test_pipelined_requests(server: ServerProcess) -> None:
    """Requests sent without waiting are answered in order, each with its own rows."""
    texts = ["Anna", "Paris", "lives", "New York", "Bob"] * 4
    bodies = [json.dumps({"inputs": text, "aggregation_strategy": "simple"}).encode() for text in texts]
    with connect(server) as connection:
        connection.sendall(b"".join(map(request_bytes, bodies)))
        rest = b""
        for text in texts:
            answer, rest = read_answer(connection, rest)
            assert [row["token"] for row in answer.json()[0]] == ([text] if text != "lives" else [])


def test_slow_clients(server: ServerProcess) -> None:
    """Fifty clients that send byte by byte hold nobody up, and each is answered in the end."""
    request = request_bytes(GOOD_BODY)
    expected = exchange(server, request).body
    connections = [connect(server) for _ in range(50)]
    for offset in range(len(request)):
        for connection in connections:
            connection.sendall(request[offset : offset + 1])
        if offset % 40 == 0:
            started = time.perf_counter()
            assert exchange(server, request).body == expected
            assert time.perf_counter() - started < 2
    for connection in connections:
        assert read_answer(connection)[0].body == expected
        connection.close()


def test_body_that_never_ends_meets_the_deadline(server: ServerProcess) -> None:
    """A client that stops in the middle of its body is answered 504 when its time is over."""
    for request in (
        request_bytes(b'{"inputs": ', "request-timeout-ms: 300", length=100),
        chunked_request([b'{"inputs": '], finish=False).replace(b"host", b"request-timeout-ms: 300\r\nhost"),
    ):
        started = time.perf_counter()
        answer = exchange(server, request)
        assert (answer.status, answer.json()["error_type"]) == (504, "DeadlineExceeded")
        assert 0.25 < time.perf_counter() - started < 5


def test_bytes_that_are_not_http(server: ServerProcess) -> None:
    """Garbage, a TLS hello, contradicting lengths: refused by the server, which goes on."""
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /predict_tokens HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 17\r\n\r\n{}",
        b"POST /predict_tokens HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n{}",
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    ):
        with connect(server) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65536)[9:10] in (b"4", b"")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"x: " + b"a" * 30_000], b"200"),
        ([b"x: " + b"a" * 70_000], b"431"),
        ([b"a: b"] * 90, b"200"),
        ([b"a: b"] * 110, b"431"),
    ],
    ids=["30 kB", "70 kB", "90 lines", "110 lines"],
)
def test_request_heads_are_limited(server: ServerProcess, lines: list[bytes], status: bytes) -> None:
    """A head of more than 64 KB or 100 lines is refused, a usual large one is not."""
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
        assert connection.recv(100)[9:12] == status


def test_header_bytes_that_are_not_ascii(server: ServerProcess) -> None:
    """Header values in Latin-1 or garbage do not disturb a request."""
    headers = [f"{name}: \xff\xe9" for name in ("accept", "authorization", "x-request-id", "x-other")]
    request = request_bytes(GOOD_BODY, *headers).decode().encode("latin-1")
    answer = exchange(server, request)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")


def test_many_connections_at_once(server: ServerProcess) -> None:
    """Three hundred open connections are all served."""
    connections = [connect(server) for _ in range(300)]
    senders = [threading.Thread(target=c.sendall, args=(request_bytes(GOOD_BODY),)) for c in connections]
    for sender in senders:
        sender.start()
    bodies = {read_answer(connection)[0].body for connection in connections}
    for sender in senders:
        sender.join()
    for connection in connections:
        connection.close()
    assert len(bodies) == 1
