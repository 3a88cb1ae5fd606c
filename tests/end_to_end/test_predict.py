"""The prediction route of a real server: fields, formats, headers, routes."""

from typing import Any

import httpx
import msgspec
import pytest

from builders import ServerProcess

TEXT = "Anna Maria lives in New York."
MSGPACK = "application/msgpack"


def spans(rows: list[dict[str, Any]]) -> list[tuple[str, int, int, list[str]]]:
    """Return what an answer says, without its scores."""
    return [(row["token"], row["start"], row["end"], list(row["results"])) for row in rows]


def test_answers_entities(server: ServerProcess) -> None:
    """A text posted to a real server comes back as the entities worked out by hand."""
    answer = server.predict(TEXT, aggregation_strategy="simple")
    assert answer.status_code == 200
    assert spans(answer.json()[0]) == [("Anna Maria", 0, 10, ["PER"]), ("New York", 20, 28, ["LOC"])]
    assert {row["token_id"] for row in answer.json()[0]} == {0}


def test_answers_tokens(server: ServerProcess) -> None:
    """Without a strategy every token comes back, with prefix, `O` and special tokens."""
    rows = server.predict("Anna Maria lives").json()[0]
    assert spans(rows) == [
        ("[CLS]", 0, 0, ["O"]),
        ("Anna", 0, 4, ["B-PER"]),
        ("Maria", 5, 10, ["I-PER"]),
        ("lives", 11, 16, ["O"]),
        ("[SEP]", 0, 0, ["O"]),
    ]
    assert [row["token_id"] for row in rows][::4] == [2, 3]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_strategies(server: ServerProcess, strategy: str) -> None:
    """Every aggregated strategy finds the entities of a text without doubt."""
    rows = server.predict(TEXT, aggregation_strategy=strategy).json()[0]
    assert [row["token"] for row in rows] == ["Anna Maria", "New York"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("Anna", [["Anna"]]),
        (["Anna", "Bob"], [["Anna"], ["Bob"]]),
        ([["Anna", "lives"], ["Bob"]], [["Anna"], [], ["Bob"]]),
        ([["Anna"], []], [["Anna"]]),
        (["", "Anna"], [[], ["Anna"]]),
    ],
)
def test_inputs(server: ServerProcess, inputs: object, expected: list[list[str]]) -> None:
    """A string, a list and nested lists give one list per text, in order."""
    answer = server.predict(inputs, aggregation_strategy="simple").json()
    assert [[row["token"] for row in rows] for rows in answer] == expected


@pytest.mark.parametrize("direction", ["Right", "right", "LEFT", "Left"])
def test_truncation(server: ServerProcess, direction: str) -> None:
    """A long text is cut at the named end, in any case, and its index stands in `x-truncated`."""
    long = " ".join(["anna", *["lives"] * 20, "paris"])
    answer = server.predict(["bob", long, long], truncate=True, truncation_direction=direction)
    kept = answer.json()[1][1 if direction.lower() == "right" else -2]["token"]
    assert kept == ("anna" if direction.lower() == "right" else "paris")
    assert answer.headers["x-truncated"] == "1,2"


def test_raw_scores(server: ServerProcess) -> None:
    """`raw_scores` prints every label; probabilities add up to one; floats are short."""
    answer = server.predict("Anna", raw_scores=True)
    results = answer.json()[0][1]["results"]
    assert sorted(results) == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    assert sum(results.values()) == pytest.approx(1, abs=1e-6)
    assert b"0.99018246" in answer.content


def test_msgpack_in_and_out(server: ServerProcess) -> None:
    """MessagePack and JSON give the same rows, in each direction, under each of the three names."""
    expected = server.predict(TEXT).json()
    body = msgspec.msgpack.encode({"inputs": TEXT})
    for kind in (MSGPACK, "application/x-msgpack", "application/vnd.msgpack; charset=binary"):
        answer = server.client.post(
            "/predict_tokens", content=body, headers={"content-type": kind, "accept": kind.split(";")[0]}
        )
        assert answer.headers["content-type"] == MSGPACK
        decoded = msgspec.msgpack.decode(answer.content)
        assert [spans(rows) for rows in decoded] == [spans(rows) for rows in expected]
    answer = server.client.post("/predict_tokens", content=body, headers={"content-type": MSGPACK})
    assert answer.json() == expected


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json, application/msgpack", "application/json"),
        ("application/msgpack, application/json", MSGPACK),
        ("application/json;q=0.5, application/x-msgpack;q=0.9", MSGPACK),
        ("application/msgpack;q=0", "application/json"),
        ("application/msgpack;q=high", "application/json"),
        ("text/html", "application/json"),
    ],
)
def test_accept(server: ServerProcess, accept: str | None, kind: str) -> None:
    """The answer is MessagePack when that stands first or has the higher q."""
    headers = {} if accept is None else {"accept": accept}
    answer = server.client.post("/predict_tokens", json={"inputs": "Anna"}, headers=headers)
    assert answer.headers["content-type"] == kind


@pytest.mark.parametrize("kind", [None, "", "application/json", "Application/JSON; charset=utf-8"])
def test_json_content_types(server: ServerProcess, kind: str | None) -> None:
    """A missing content type counts as JSON."""
    headers = {} if kind is None else {"content-type": kind}
    answer = server.client.post("/predict_tokens", content=b'{"inputs": "Anna"}', headers=headers)
    assert answer.status_code == 200


def test_prediction_headers(server: ServerProcess) -> None:
    """Predictions say where the time went, what was computed and who asked."""
    answer = server.predict(["Anna", "lives in"])
    parts = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert list(parts) == ["tokenize", "queue", "inference", "total"]
    assert all(len(value.partition(".")[2]) == 3 for value in parts.values())
    assert float(parts["total"]) >= float(parts["inference"]) > 0
    assert answer.headers["x-compute-tokens"] == "7"
    assert "x-truncated" not in answer.headers


def test_root_is_the_default_route(server: ServerProcess) -> None:
    """`POST /` answers as `/predict_tokens`, `GET /` as readiness."""
    assert server.client.post("/", json={"inputs": TEXT}).content == server.predict(TEXT).content
    assert server.client.get("/").json() == {"status": "ready"}


@pytest.mark.parametrize(
    "path", ["/", "/health", "/health/live", "/health/ready", "/info", "/metrics", "/openapi.json"]
)
def test_head(server: ServerProcess, path: str) -> None:
    """HEAD gives the headers of GET without its body."""
    get, head = server.client.get(path), server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["x-request-id"]


def test_info(server: ServerProcess) -> None:
    """/info tells model, labels, provider and limits."""
    info = server.client.get("/info").json()
    assert info["id2label"] == {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"}
    assert (info["model_name"], info["max_length"], info["window_tokens"]) == ("model", 16, 16)
    assert (info["max_length"], info["dtype"], info["provider"]) == (16, "float32", "CPUExecutionProvider")
    assert info["limits"]["max_inputs"] == 8
    assert {"model_id", "revision", "version"} <= set(info)


def matches(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Check a value against the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        return matches(value, root["components"]["schemas"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(matches(value, part, root) for part in schema["anyOf"])
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    types = schema.get("type", list(kinds))
    if not any(isinstance(value, kinds[name]) for name in ([types] if isinstance(types, str) else types)):  # type: ignore[arg-type]
        return False
    if isinstance(value, list):
        return all(matches(item, schema.get("items", {}), root) for item in value)
    if not isinstance(value, dict):
        return value in schema.get("enum", [value])
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    if not set(schema.get("required", [])) <= set(value):
        return False
    if others is False and not set(value) <= set(known):
        return False
    return all(matches(item, known.get(key, others or {}), root) for key, item in value.items())


def schema_of(document: dict[str, Any], method: str, path: str, answer: httpx.Response) -> dict[str, Any]:
    """Return what the document says of this answer's body; fails when it says nothing."""
    operation = document["paths"][path][method.lower()]
    kind = answer.headers["content-type"].partition(";")[0]
    schema: dict[str, Any] = operation["responses"][str(answer.status_code)]["content"][kind]["schema"]
    return schema


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/predict_tokens", {"inputs": TEXT}),
        ("POST", "/", {"inputs": [[TEXT]], "aggregation_strategy": "max", "raw_scores": True}),
        ("POST", "/predict_tokens", {"inputs": 1}),
        ("POST", "/predict_tokens", ["not an object"]),
        ("GET", "/", None),
        ("GET", "/health/live", None),
        ("GET", "/info", None),
        ("GET", "/openapi.json", None),
    ],
)
def test_answers_are_as_documented(server: ServerProcess, method: str, path: str, body: object) -> None:
    """Answers, errors included, fit the schemas of /openapi.json; good requests fit theirs."""
    document = server.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    answer = server.client.request(method, path, json=body)
    assert matches(answer.json(), schema_of(document, method, path, answer), document)
    headers = document["paths"][path][method.lower()]["responses"][str(answer.status_code)]["headers"]
    assert {name for name, header in headers.items() if header["required"]} <= set(answer.headers)
    assert set(answer.headers) <= {*headers, "content-type", "content-length", "server", "date"}
    if body is not None:
        wanted = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert matches(body, wanted, document) is (answer.status_code == 200)


def test_metrics(server: ServerProcess) -> None:
    """/metrics is Prometheus text that counts what was answered."""
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "nerve_requests_total",
        "nerve_batches_total",
        "nerve_queue_tokens",
        "nerve_ready_workers 1.0",
    ):
        assert name in answer.text
