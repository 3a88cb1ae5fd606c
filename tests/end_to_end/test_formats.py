"""What the contract promises for every route: limits, errors, headers, keys and metrics, whatever the format."""

from __future__ import annotations

import gzip
import json

import pytest

from builders import ServerProcess
from formats import BODIES, INVALID, WITHOUT_MODEL, message_of
from raw_http import connect, metric, read_answer, request_bytes, wait_until

ROUTES = sorted(BODIES)
TEXT = "Anna Maria lives in Paris."


def test_all_routes_are_covered(server: ServerProcess) -> None:
    """The table of bodies has every route that is posted to."""
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {path for path, operations in paths.items() if "post" in operations} == set(BODIES)


def test_examples_are_answered(server: ServerProcess) -> None:
    """Each route describes a body that it takes, as do the pages of the documentation."""
    for path, operations in server.client.get("/openapi.json").json()["paths"].items():
        if "post" not in operations:
            continue
        for media_type in operations["post"]["requestBody"]["content"].values():
            assert media_type["examples"]
            for example in media_type["examples"].values():
                answer = server.client.post(path, json=example["value"])
                assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("route", ROUTES)
def test_good_body(server: ServerProcess, route: str) -> None:
    """An answer finds the entities, says how long it took, keeps its id and is not for caches."""
    body = BODIES[route](TEXT)
    headers = {"x-request-id": "abc-1"}
    plain = server.client.post(route, json=body, headers=headers)
    assert plain.status_code == 200, plain.text
    assert plain.headers["content-type"] == "application/json"
    assert plain.headers["x-request-id"] == "abc-1"
    assert plain.headers["cache-control"] == "no-store"
    assert "total;dur=" in plain.headers["server-timing"]
    packed = gzip.compress(json.dumps(body).encode())
    zipped = server.client.post(route, content=packed, headers={**headers, "content-encoding": "gzip"})
    assert (zipped.status_code, zipped.content) == (200, plain.content)


@pytest.mark.parametrize("route", ROUTES)
def test_counted_by_endpoint(server: ServerProcess, route: str) -> None:
    """Each request is counted with the name of its endpoint, one of those of the configuration."""
    paths = server.client.get("/openapi.json").json()["paths"]
    (endpoint,) = paths[route]["post"]["tags"]
    name = f'nerve_requests_total{{endpoint="{endpoint}",route="{route}",status="200"}}'
    before = metric(server, name)
    assert server.client.post(route, json=BODIES[route](TEXT)).status_code == 200
    assert metric(server, name) == before + 1


@pytest.mark.parametrize("route", ROUTES)
def test_limits(server: ServerProcess, route: str) -> None:
    """Bodies, tokens and deadlines are bounded, and each refusal says so in the form of the format."""
    invalid = INVALID.get(route, 422)
    large = server.client.post(route, json=BODIES[route]("x" * 2_000_001))
    assert large.status_code == 413
    assert "limits.max_body_bytes" in message_of(route, large)
    if route in WITHOUT_MODEL:
        return
    long = server.client.post(route, json=BODIES[route]("x " * 30_000))
    assert long.status_code == invalid, long.text
    assert "limits.max_input_tokens" in message_of(route, long)
    late = server.client.post(route, json=BODIES[route](TEXT), headers={"request-timeout-ms": "0"})
    assert late.status_code == 504
    assert "deadline" in message_of(route, late)
    for content, status in ((b"{", 400), (b'{"inputs": "\xff"}', 400), (b"[]", invalid), (b"{}", invalid)):
        refused = server.client.post(route, content=content)
        assert refused.status_code == status, refused.text
        assert message_of(route, refused)
    other = server.client.post(route, content=b"a,b", headers={"content-type": "text/csv"})
    assert other.status_code == 415
    assert message_of(route, other)
    unknown = server.client.post(route, content=b"{}", headers={"content-encoding": "br"})
    assert (unknown.status_code, unknown.headers["accept-encoding"]) == (415, "gzip, identity")
    assert server.client.get(route).status_code == (200 if route == "/" else 405)


@pytest.mark.parametrize("route", ROUTES)
def test_key(guarded: ServerProcess, route: str) -> None:
    """Nothing is read of a body without the key, and the refusal has the form of the format."""
    refused = guarded.client.post(route, json=BODIES[route](TEXT))
    assert refused.status_code == 401
    assert "API key" in message_of(route, refused)
    for headers in ({"x-api-key": "s3cret-key"}, {"authorization": "Bearer s3cret-key"}):
        assert guarded.client.post(route, json=BODIES[route](TEXT), headers=headers).status_code == 200


@pytest.mark.parametrize("route", sorted(set(ROUTES) - WITHOUT_MODEL))
def test_overload(troubled: ServerProcess, route: str) -> None:
    """Where the queue is full the answer is 429, with the seconds after which it has drained."""
    connections = [connect(troubled) for _ in range(8)]
    body = json.dumps(BODIES[route]("Anna x x x")).encode()
    for connection in connections:
        connection.sendall(request_bytes(body, "request-timeout-ms: 100000", path=route))
    answers = [read_answer(connection)[0] for connection in connections]
    for connection in connections:
        connection.close()
    statuses = {answer.status for answer in answers}
    assert statuses == {200, 429}, [answer.body for answer in answers]
    for answer in answers:
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert message_of(route, answer)
    wait_until(lambda: metric(troubled, "nerve_queue_tokens") == 0, "the queue is empty")


@pytest.mark.parametrize("route", sorted(set(ROUTES) - WITHOUT_MODEL))
def test_failing_model(troubled: ServerProcess, route: str) -> None:
    """A batch that fails is 500 with a fixed text, in the form of the format."""
    answer = troubled.client.post(route, json=BODIES[route]("Anna y"))
    assert answer.status_code == 500
    assert "Anna" not in message_of(route, answer)
    assert troubled.client.post(route, json=BODIES[route]("Anna")).status_code == 200
