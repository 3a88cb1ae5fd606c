"""Every row of the contract's error table, from a real server."""

from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from builders import ServerProcess, write_troubled_model
from raw_http import chunked_request, connect, exchange, read_answer, request_bytes, wait_until

JSON = "application/json"


def assert_error(answer: httpx.Response, status: int, kind: str) -> str:
    """Check an error answer's status, body shape and headers; returns its text."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert sorted(body) == ["error", "error_type"]
    assert body["error_type"] == kind
    error: str = body["error"]
    assert error
    return error


@pytest.mark.parametrize(
    "body", [b"", b"Anna", b'{"inputs": "Anna', b'{"inputs": "A\xff\xfe"}', b'{"inputs": 1']
)
def test_bodies_that_cannot_be_decoded(server: ServerProcess, body: bytes) -> None:
    """Not JSON, not UTF-8, or cut short: 400."""
    assert_error(server.client.post("/predict_tokens", content=body), 400, "Validation")


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa6inputs", b"\x81\xa6inputs\xdd\xff\xff\xff\xff"])
def test_msgpack_that_cannot_be_decoded(server: ServerProcess, body: bytes) -> None:
    """MessagePack that is none, is cut short, or claims four billion items: 400, its error in JSON."""
    headers = {"content-type": "application/msgpack", "accept": "application/msgpack"}
    assert_error(server.client.post("/predict_tokens", content=body, headers=headers), 400, "Validation")


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "s3cret-key"},
        {"authorization": "Bearer \xe9"},
    ],
)
def test_missing_or_wrong_key(guarded: ServerProcess, header: dict[str, str]) -> None:
    """Predictions, /info and /openapi.json need the key: 401."""
    raw = {name: value.encode("latin-1") for name, value in header.items()}
    for path in ("/predict_tokens", "/"):
        assert_error(guarded.client.post(path, json={"inputs": "Anna"}, headers=raw), 401, "Unauthorized")
    for path in ("/info", "/openapi.json"):
        assert_error(guarded.client.get(path, headers=raw), 401, "Unauthorized")


@pytest.mark.parametrize("scheme", ["Bearer", "Api-Key"])
def test_right_key(guarded: ServerProcess, scheme: str) -> None:
    """Both schemes open every route."""
    headers = {"authorization": f"{scheme} s3cret-key"}
    assert guarded.client.post("/predict_tokens", json={"inputs": "Anna"}, headers=headers).status_code == 200
    assert guarded.client.get("/info", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/metrics"])
def test_probes_and_scrapes_need_no_key(guarded: ServerProcess, path: str) -> None:
    """Health, readiness and metrics answer without the key."""
    assert guarded.client.get(path).status_code == 200


def test_unknown_route(server: ServerProcess) -> None:
    """404, whatever the method."""
    assert_error(server.client.get("/predict"), 404, "NotFound")
    assert_error(server.client.post("/v1/predict", json={}), 404, "NotFound")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict_tokens", "POST"),
        ("DELETE", "/", "GET, HEAD, POST"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
        ("OPTIONS", "/info", "GET, HEAD"),
    ],
)
def test_wrong_method(server: ServerProcess, method: str, path: str, allowed: str) -> None:
    """405 says in `allow` which methods the route takes."""
    answer = server.client.request(method, path)
    assert_error(answer, 405, "MethodNotAllowed")
    assert answer.headers["allow"] == allowed


def test_stated_length_above_the_limit(server: ServerProcess) -> None:
    """413 comes before a single byte of the body was sent."""
    answer = exchange(server, request_bytes(b"", length=2_000_001))
    assert (answer.status, answer.json()["error_type"]) == (413, "PayloadTooLarge")
    assert "max_body_bytes" in answer.json()["error"]


def test_chunks_above_the_limit(server: ServerProcess) -> None:
    """A body without a content length is refused as soon as it is too long, before its end."""
    endless = chunked_request([b"a" * 65536] * 31, finish=False)
    answer = exchange(server, endless)
    assert (answer.status, answer.json()["error_type"]) == (413, "PayloadTooLarge")


@pytest.mark.parametrize("stated", [True, False])
def test_client_that_sends_everything_first_reads_the_refusal(server: ServerProcess, stated: bool) -> None:
    """A client that sends all of a body that is too large, and reads then, gets to read the 413."""
    body = b"a" * 10_000_000
    for _ in range(3):
        content = body if stated else (body[k : k + 65536] for k in range(0, len(body), 65536))
        answer = httpx.post(f"{server.url}/predict_tokens", content=content, timeout=10)
        assert_error(answer, 413, "PayloadTooLarge")


def test_early_refusal_keeps_the_connection(server: ServerProcess) -> None:
    """The rest of a refused body is read and dropped: the next request on the connection is answered."""
    with connect(server) as connection:
        connection.sendall(request_bytes(b"a" * 3_000_000))
        assert read_answer(connection)[0].status == 413
        connection.sendall(request_bytes(b"Anna", "content-type: text/plain"))
        assert read_answer(connection)[0].status == 415
        connection.sendall(request_bytes(b'{"inputs": "Anna"}'))
        assert read_answer(connection)[0].status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_other_media_types(server: ServerProcess, kind: str) -> None:
    """A body that is neither JSON nor MessagePack by its content type: 415."""
    answer = server.client.post(
        "/predict_tokens", content=b'{"inputs": "Anna"}', headers={"content-type": kind}
    )
    assert "application/msgpack" in assert_error(answer, 415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "inputs"),
        ([], "object"),
        ("Anna", "object"),
        ({"inputs": 1}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": {"a": "b"}}, "inputs"),
        ({"inputs": [1]}, "inputs"),
        ({"inputs": [["Anna"], [2]]}, "inputs"),
        ({"inputs": [[["Anna"]]]}, "inputs"),
        ({"inputs": ["Anna", ["Bob"]]}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [[], []]}, "inputs"),
        ({"inputs": ["Anna"] * 9}, "max_inputs = 8"),
        ({"inputs": "anna " * 20_001}, "max_input_tokens = 20000"),
        ({"inputs": "Anna", "trunctate": True}, "truncation_direction"),
        ({"inputs": "Anna", "truncate": 1}, "truncate"),
        ({"inputs": "Anna", "truncate": "true"}, "truncate"),
        ({"inputs": "Anna", "truncation_direction": "up"}, "truncation_direction"),
        ({"inputs": "Anna", "truncation_direction": 7}, "truncation_direction"),
        ({"inputs": "Anna", "raw_scores": "yes"}, "raw_scores"),
        ({"inputs": "Anna", "aggregation_strategy": "best"}, "aggregation_strategy"),
        ({"inputs": "Anna", "aggregation_strategy": 1}, "aggregation_strategy"),
        ({"inputs": "Anna", "offset_unit": "char"}, "offset_unit"),
        ({"inputs": "Anna", "offset_unit": []}, "offset_unit"),
    ],
)
@pytest.mark.parametrize("msgpack", [False, True])
def test_wrong_fields(server: ServerProcess, body: object, named: str, msgpack: bool) -> None:
    """Wrong types, unknown fields and exceeded limits: 422 that names the field or the limit."""
    encode = msgspec.msgpack.encode if msgpack else msgspec.json.encode
    headers = {"content-type": "application/x-msgpack" if msgpack else JSON}
    answer = server.client.post("/predict_tokens", content=encode(body), headers=headers)
    assert named in assert_error(answer, 422, "Validation")


@pytest.mark.parametrize("name", ["request-timeout-ms", "request-deadline-ms"])
@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "", "9" * 40])
def test_deadline_that_is_no_number(server: ServerProcess, name: str, value: str) -> None:
    """A deadline header that is not a whole number of milliseconds: 422 that names it."""
    answer = server.client.post("/predict_tokens", json={"inputs": "Anna"}, headers={name: value})
    assert name in assert_error(answer, 422, "Validation").lower()


def test_failing_model(troubled: ServerProcess) -> None:
    """A model that fails on one request: 500 with a fixed text; the next request is answered."""
    error = assert_error(troubled.predict("Anna y"), 500, "Backend")
    assert "Gather" not in error
    assert troubled.predict("Anna").status_code == 200


def test_request_id_is_echoed(server: ServerProcess) -> None:
    """`x-request-id` wins over BEI's header; both are echoed, in errors too; else a new one is made."""
    both = {"x-request-id": "one", "x-baseten-customer-request-id": "two"}
    body = {"inputs": "Anna"}
    for method, path, json in (
        ("POST", "/predict_tokens", body),
        ("GET", "/none", None),
        ("GET", "/health", None),
    ):
        answers = [
            server.client.request(method, path, json=json, headers=headers)
            for headers in (both, {"x-baseten-customer-request-id": "two"}, {}, {})
        ]
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert ids[:2] == ["one", "two"]
        assert ids[2] != ids[3]


@pytest.mark.parametrize("given", [b"\xff\xfe", b"a" * 10_000, b"a\tb", b"Maria Garcia"])
def test_request_id_that_cannot_be_echoed(server: ServerProcess, given: bytes) -> None:
    """An id that is too long, not printable ASCII, or has white space is replaced; the request is answered."""
    answer = server.client.post("/predict_tokens", json={"inputs": "Anna"}, headers={"x-request-id": given})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"].encode("latin-1") != given


def test_starting_server(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """While the model loads: live, but 503 for readiness and predictions. SIGTERM ends it at once."""
    slow = serve(
        wait=False, folder=write_troubled_model(tmp_path / "slow", slow_word="[UNK]", slow_turns=20_000)
    )

    def is_live() -> bool:
        try:
            return slow.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_live, "the process is live")
    for path in ("/health", "/health/ready", "/", "/info"):
        assert "starting" in assert_error(slow.client.get(path), 503, "Unhealthy")
    assert_error(slow.predict("Anna"), 503, "Unhealthy")
    assert slow.client.get("/metrics").status_code == 200
    assert slow.client.get("/openapi.json").status_code == 200
    assert slow.stop(timeout=15) == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/predict_tokens", b'{"inputs": "Anna"}', "no-store"),
        ("POST", "/", b'{"inputs": "Anna"}', "no-store"),
        ("POST", "/predict_tokens", b'{"inputs": 1}', "no-store"),
        ("POST", "/predict_tokens", b"not json", "no-store"),
        ("GET", "/health", b"", None),
    ],
)
def test_predictions_and_their_errors_are_not_stored(
    server: ServerProcess, method: str, path: str, body: bytes, expected: str | None
) -> None:
    """What holds a client's data forbids every cache on the way to keep it."""
    assert server.client.request(method, path, content=body).headers.get("cache-control") == expected
