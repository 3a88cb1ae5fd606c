"""A marker sent in every place of a request turns up in the rows of its own answer, and nowhere else."""

import json
from collections.abc import Callable

import httpx
import msgspec

from builders import ServerProcess

CANARY = "kanarienvogel7"


def test_canary(serve: Callable[..., ServerProcess], troubled_model: object) -> None:
    """Good, bad and failing requests leave the marker in no log line, error body or metric."""
    server = serve(
        folder=troubled_model,
        server={"access_log": True, "log_level": "debug"},
        limits={"max_inputs": 2, "max_input_tokens": 40, "max_body_bytes": 10_000},
    )
    fields = (
        "truncate",
        "truncation_direction",
        "raw_scores",
        "aggregation_strategy",
        "offset_unit",
        "inputs",
    )
    bodies: list[object] = [
        {"inputs": CANARY},
        {"inputs": f"{CANARY} y"},  # the model fails
        {"inputs": [CANARY] * 3},
        {"inputs": f"{CANARY} " * 50},
        {"inputs": CANARY * 1000},
        {"inputs": [CANARY, [CANARY]]},
        {"inputs": {CANARY: CANARY}},
        {"inputs": CANARY, CANARY: CANARY},
        {CANARY: CANARY},
        [CANARY],
        CANARY,
        *({"inputs": "Anna", field: {CANARY: [CANARY]}} for field in fields),
        *({"inputs": "Anna", field: CANARY} for field in fields[:-1]),
    ]
    answers = []
    for body in bodies:
        for encode, kind in (
            (msgspec.json.encode, "application/json"),
            (msgspec.msgpack.encode, "application/msgpack"),
        ):
            answers.append(post(server, encode(body), {"content-type": kind}))
    for raw in (
        b"%s",
        b'{"inputs": "%s',
        b'{"inputs": "%s\xff"}',
        b'{"%s": \xff}',
        b'{"inputs": "%s"} x',
        b'{"inputs": "\\ud800%s"}',
    ):
        answers.append(post(server, raw % CANARY.encode(), {}))
    answers.append(post(server, b"\xde\xff\xff" + CANARY.encode(), {"content-type": "application/msgpack"}))
    for name in (
        "content-type",
        "accept",
        "authorization",
        "request-timeout-ms",
        "request-deadline-ms",
        "cookie",
    ):
        answers.append(post(server, json.dumps({"inputs": "Anna"}).encode(), {name: CANARY}))
    answers.append(server.client.get(f"/{CANARY}"))
    answers.append(server.client.request("DELETE", f"/info?{CANARY}={CANARY}"))
    assert {200, 400, 404, 405, 413, 415, 422, 500} <= {answer.status_code for answer in answers}
    metrics = server.client.get("/metrics").text
    server.client.close()
    assert server.stop() == 0
    for answer in answers:
        if answer.status_code != 200:
            assert CANARY not in answer.text
        assert CANARY not in str(answer.headers)
    assert CANARY not in metrics
    lines = [line for line in server.log().splitlines() if CANARY in line]
    assert all(f"GET /{CANARY} " in line for line in lines)  # the access log, when asked for, has paths


def post(server: ServerProcess, content: bytes, headers: dict[str, str]) -> httpx.Response:
    """POST a body as it is."""
    return server.client.post("/predict_tokens", content=content, headers=headers)
