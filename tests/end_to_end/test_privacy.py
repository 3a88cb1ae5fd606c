"""A marker sent in every place of a request turns up in the rows of its own answer, and nowhere else."""

import json
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from builders import ServerProcess, start_server, write_config
from formats import BODIES, INFER, OTHER_BODIES, PREDICT, nested
from otlp import Collector, collecting
from raw_http import connect, exchange, metric, request_bytes, wait_until

CANARY = "kanarienvogel7"
VERTEX = "/aip/predict"
# Every way in which the marker could be written down. Standard error of a crash is UTF-8, too.
SIGNS = [CANARY.encode(), CANARY.encode("utf-16-le"), CANARY.encode().hex().encode(), CANARY.upper().encode()]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., tuple[ServerProcess, Collector]]]:
    """Start a server that tells all it can: access log, debug level, traces, faulthandler, two workers.

    It works, and keeps its temporary files, its cache and what a crash leaves, in `tmp_path`.
    """
    running: list[ServerProcess] = []
    with collecting() as collector:

        def start(
            folder: Path, more: dict[str, dict[str, object]] | None = None, **started: object
        ) -> tuple[ServerProcess, Collector]:
            limits: dict[str, object] = {"max_inputs": 4, "max_input_tokens": 40, "max_body_bytes": 40_000}
            (tmp_path / "tmp").mkdir(exist_ok=True)
            config = write_config(
                tmp_path / "config.yaml",
                folder,
                server={
                    "access_log": True,
                    "log_level": "debug",
                    "workers": 2,
                    "vertex_predict_route": VERTEX,
                },
                tracing={"endpoint": f"{collector.url}/v1/traces"},
                model={"cache_dir": str(tmp_path / "cache")},
                **({"limits": limits} | (more or {})),
            )
            environment = {
                "TMPDIR": str(tmp_path / "tmp"),
                "HOME": str(tmp_path),
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
                "PYTHONFAULTHANDLER": "1",
                "PYTHONASYNCIODEBUG": "1",
                "OTEL_BSP_SCHEDULE_DELAY": "50",
            }
            server = start_server(config, environment, **started)  # type: ignore[arg-type]
            running.append(server)
            wait_until(lambda: server.log().count("runtime-1") == 2, "both workers have started")
            return server, collector

        yield start
        for server in running:
            server.client.close()
            server.stop()


def assert_no_trace(server: ServerProcess, collector: Collector, answers: list[httpx.Response]) -> None:
    """Stop the server and look for the marker in all that it leaves: answers, metrics, files, log, traces."""
    metrics = server.client.get("/metrics").content
    server.client.close()
    assert_not_in_files(server.log_path.parent)  # while its temporary files are there
    assert server.stop() == 0
    assert_not_in_files(server.log_path.parent)
    assert len(collector.spans) > 0
    for span in collector.bodies:
        assert all(sign not in span for sign in SIGNS)
    assert all(sign not in metrics for sign in SIGNS)
    for answer in answers:
        shown = [str(answer.headers).encode()] + ([answer.content] if answer.status_code != 200 else [])
        assert all(sign not in part for sign in SIGNS for part in shown), answer.status_code


def assert_not_in_files(folder: Path) -> None:
    """Read every file below a folder; the log and the metrics of the workers are among them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        found = [line for line in content.splitlines() if any(sign in line for sign in SIGNS)]
        assert not found, (path, found[0][:500])


def test_canary(watched: Callable[..., tuple[ServerProcess, Collector]], troubled_model: Path) -> None:
    """Good, bad and failing requests leave the marker in no log line, error body, metric, trace or file."""
    server, collector = watched(troubled_model)
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
        {"inputs": [CANARY] * 5},
        {"inputs": f"{CANARY} " * 50},
        {"inputs": CANARY * 4000},
        # Large ones, which the thread pool works on: answered, failed, refused.
        {"inputs": CANARY + " " * 20_000},
        {"inputs": f"{CANARY} y" + " " * 20_000},
        {"inputs": f"{CANARY} " * 2000},
        {"inputs": [CANARY + " " * 20_000] * 5},
        {"inputs": "Anna" + " " * 20_000, CANARY: CANARY},
        {"inputs": "Anna" + " " * 20_000, "offset_unit": CANARY},
        {"inputs": [CANARY, [CANARY]]},
        {"inputs": {CANARY: CANARY}},
        {"inputs": CANARY, CANARY: CANARY},
        {CANARY: CANARY},
        [CANARY],
        CANARY,
        *({"inputs": "Anna", field: {CANARY: [CANARY]}} for field in fields),
        *({"inputs": "Anna", field: CANARY} for field in fields[:-1]),
        {"inputs": "Anna", "aggregation_strategy": "first", "labels": [CANARY]},
        {"inputs": "Anna", "aggregation_strategy": "first", "min_score": {CANARY: 0.5}},
    ]
    redactions: list[object] = [
        {"inputs": f"Anna {CANARY}@x.org {CANARY}"},
        {"inputs": f"{CANARY} y"},
        {
            "inputs": f"{CANARY}@x.org" + " " * 20_000,
            "patterns": ["email"],
            "operators": {"EMAIL": {"type": "hash"}},
        },
        *(
            {"inputs": "Anna", "operators": operators}
            for operators in (
                *(
                    CANARY,
                    [CANARY],
                    {CANARY: {"type": "mask"}},
                    {CANARY: CANARY},
                    {"DEFAULT": {"type": CANARY}},
                ),
                {"DEFAULT": {"type": "hash", "hash_type": CANARY}},
                {"DEFAULT": {"type": "hash", "salt": CANARY}},
                {"DEFAULT": {"type": "mask", "masking_char": CANARY}},
                {"DEFAULT": {"type": "replace", "new_value": 5, CANARY: CANARY}},
            )
        ),
        *({"inputs": "Anna", field: [CANARY]} for field in ("labels", "patterns", "min_score", CANARY)),
        {"inputs": "Anna", "aggregation_strategy": CANARY},
    ]
    answers = []
    for route, sent in (("/predict_tokens", bodies), ("/redact", [*bodies, *redactions])):
        for body in sent:
            for encode, kind in (
                (msgspec.json.encode, "application/json"),
                (msgspec.msgpack.encode, "application/msgpack"),
            ):
                answers.append(post(server, encode(body), {"content-type": kind}, route))
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
    names = ["content-type", "accept", "authorization", "request-timeout-ms", "request-deadline-ms"]
    names += ["cookie", "user-agent", "referer", "forwarded", "x-forwarded-for", "baggage", "traceparent"]
    names += [CANARY, f"x-{CANARY}", "expect", "accept-language", "te", "origin", "range", "if-none-match"]
    good = json.dumps({"inputs": "Anna"}).encode()
    for name in names:
        answers.append(post(server, good, {name: CANARY}))
    traced = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": f"{CANARY}={CANARY}"}
    answers.append(post(server, good, traced))
    for method, path in (
        ("GET", f"/{CANARY}"),
        ("POST", f"/predict_tokens/{CANARY}"),
        ("POST", f"/predict_tokens?{CANARY}={CANARY}"),
        ("DELETE", f"/info?{CANARY}={CANARY}"),
        ("GET", f"/health#{CANARY}"),
        (CANARY.upper(), "/"),
        (CANARY, "/health"),
    ):
        answers.append(server.client.request(method, path, content=good if method == "POST" else None))
    for raw_request in (
        request_bytes(good, path=f"/\xe9{CANARY}"),
        request_bytes(good, f"x-{CANARY}\x01: 1"),
        request_bytes(good, f"host: {CANARY} {CANARY}"),
        f"GET http://{CANARY}.example/{CANARY} HTTP/1.1\r\nhost: {CANARY}\r\n\r\n".encode(),
        f"{CANARY} {CANARY} {CANARY}\r\n\r\n".encode(),
        f"POST /{CANARY} HTTP/9.9\r\n{CANARY}\r\n\r\n".encode(),
    ):
        with connect(server) as connection:
            connection.sendall(raw_request)
            connection.shutdown(1)
            assert CANARY.encode() not in connection.recv(65536)
    cut = exchange(server, request_bytes(b'{"inputs": "' + CANARY.encode(), length=500), half_close=True)
    assert (cut.status, CANARY.encode() in cut.body) == (400, False)
    assert {200, 400, 404, 405, 413, 415, 422, 500} <= {answer.status_code for answer in answers}
    assert_no_trace(server, collector, answers)


def test_canary_in_other_formats(
    watched: Callable[..., tuple[ServerProcess, Collector]], troubled_model: Path
) -> None:
    """The marker in every place of a body of every route, in bodies that are no JSON, and in what routes are asked."""
    server, collector = watched(troubled_model)
    answers = []
    for route, body_of in [*BODIES.items(), (VERTEX, BODIES[PREDICT]), *OTHER_BODIES]:
        for text in (CANARY, f"{CANARY} y", f"{CANARY} " * 50, CANARY + " " * 20_000):
            answers.append(server.client.post(route, json=body_of(text)))
        for body in nested(body_of("Anna"), CANARY):
            answers.append(server.client.post(route, json=body))
        for content in (f'{{"{CANARY}": '.encode(), CANARY.encode() + b"\xff"):
            answers.append(server.client.post(route, content=content))
        for name in ("content-type", "inference-header-content-length", "sf-custom-task"):
            answers.append(server.client.post(route, json=body_of("Anna"), headers={name: CANARY}))
        answers.append(server.client.post(f"{route}/{CANARY}", json=body_of("Anna")))
        answers.append(server.client.post(f"{route}?{CANARY}={CANARY}", json=body_of("Anna")))
    binary = json.dumps(
        {"inputs": [{"name": "text", "datatype": "BYTES", "parameters": {"binary_data_size": 9}}]}
    )
    for data in (CANARY.encode(), b"\x05\0\0\0" + CANARY.encode(), b"\x02\0\0\0\xff" + CANARY.encode()):
        headers = {"inference-header-content-length": str(len(binary))}
        answers.append(server.client.post(INFER, content=binary.encode() + data, headers=headers))
    for path in ("/v2/models", "/v1/models", "/supportedentities"):
        answers.append(server.client.get(f"{path}/{CANARY}"))
        answers.append(server.client.get(path, params={"language": CANARY}))
    assert {200, 400, 404, 415, 422, 500} <= {answer.status_code for answer in answers}
    assert_no_trace(server, collector, answers)


def post(
    server: ServerProcess, content: bytes, headers: dict[str, str], route: str = "/predict_tokens"
) -> httpx.Response:
    """POST a body as it is."""
    return server.client.post(route, content=content, headers=headers)


# What is hidden, by its label.
HIDDEN = {
    "EMAIL": f"{CANARY}@{CANARY}.example",
    "URL": f"https://{CANARY}.example/{CANARY}?q={CANARY}",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "US_SSN": "536-22-1234",
    "IP_ADDRESS": "203.0.113.77",
    "PER": "Anna Maria",
}
OPERATORS: list[dict[str, object]] = [
    {"type": "replace"},
    {"type": "replace", "new_value": "[gone]"},
    {"type": "redact"},
    {"type": "mask"},
    {"type": "mask", "masking_char": "#", "chars_to_mask": 100, "from_end": True},
    {"type": "hash"},
    {"type": "hash", "hash_type": "sha512", "salt": "pepper and more of it"},
    {"type": "number"},
]
MASKING = ("/redact", "/anonymize", "/beta/litellm_basic_guardrail_api", "/request", "/response")
WAREHOUSES = ("/bigquery", "/snowflake")


def assert_hidden(content: str, hidden: Iterable[str]) -> None:
    """No run of six characters of what is hidden is left, in any case, nor of its letters and digits alone."""
    shown = content.lower()
    for value in hidden:
        for kept in (value.lower(), "".join(filter(str.isalnum, value.lower()))):
            found = [kept[i : i + 6] for i in range(len(kept) - 5) if kept[i : i + 6] in shown]
            assert not found, (value, found[0])


def test_nothing_that_is_hidden_is_left(
    watched: Callable[..., tuple[ServerProcess, Collector]], lookup_model: Path
) -> None:
    """Of any operator but keep, on every route that masks: in answers of 200, logs, metrics, traces and files."""
    patterns = ["email", "url", "credit_card", "us_ssn", "ip_address"]
    configured = dict(zip(HIDDEN, (OPERATORS[i] for i in (0, 3, 5, 7, 2, 4)), strict=True))
    server, collector = watched(
        lookup_model,
        {
            "runtime": {"patterns": patterns, "window_stride": 4},
            "redaction": {"operators": configured},
            "limits": {"max_inputs": 4, "max_input_tokens": 2_000, "max_body_bytes": 40_000},
        },
    )
    text = " and ".join(HIDDEN.values()) + " . " + " , ".join(HIDDEN.values())
    answers = []

    def ask(route: str, body: object) -> httpx.Response:
        answer = server.client.post(route, json=body)
        assert answer.status_code == 200, (route, answer.text)
        answers.append(answer)
        return answer

    for route in (*MASKING, *WAREHOUSES):
        body = BODIES[route](text)
        if route == "/anonymize":
            at = [(label, value, text.find(value)) for label, value in HIDDEN.items()]
            body["analyzer_results"] = [
                {"entity_type": label, "start": start, "end": start + len(value), "score": 1.0}
                for label, value, first in at
                for start in (first, text.find(value, first + 1))
            ]
            body["anonymizers"] = {"DEFAULT": {"type": "mask", "masking_char": "*", "chars_to_mask": 99}}
        answer = ask(route, body)
        assert "and" in answer.text, route
        assert_hidden(answer.text, HIDDEN.values())
    for operator in OPERATORS:
        for unit in ("code_point", "utf16", "byte"):
            body = {"inputs": [text, text], "operators": {"DEFAULT": operator}, "offset_unit": unit}
            first, second = ask("/redact", body).json()
            assert len(first["items"]) == 2 * len(HIDDEN)
            assert first == second
            assert_hidden(json.dumps(first), HIDDEN.values())
    # What is asked to stay, stays, and nothing else does.
    partly = {"type": "mask", "chars_to_mask": len(CANARY) + 8, "from_end": True}
    answer = ask("/redact", {"inputs": f"to {HIDDEN['EMAIL']} now", "operators": {"EMAIL": partly}})
    assert answer.json()[0]["text"] == f"to {CANARY}@{'*' * (len(CANARY) + 8)} now"
    answers.pop()
    for answer in answers:
        assert all(sign not in answer.content for sign in SIGNS)
    assert_no_trace(server, collector, answers)


DEFECT = """
import sys
from nerve.engine.engine import Engine

def start(self, texts, *arguments, **keywords):
    try:
        raise KeyError(texts[0])
    except KeyError as error:
        raise ValueError(f"cannot take {texts}") from error

Engine.start = start
if __name__ == "__main__":
    from nerve.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_defect(
    watched: Callable[..., tuple[ServerProcess, Collector]], lookup_model: Path, tmp_path: Path
) -> None:
    """A defect whose message quotes the text is answered with a fixed text and logged without the message."""
    script = tmp_path / "defect.py"
    script.write_text(DEFECT)
    server, collector = watched(lookup_model, program=[str(script)])
    answers = [server.predict(f"Anna {CANARY}") for _ in range(2)]
    assert {answer.status_code for answer in answers} == {500}
    lines = [json.loads(line) for line in server.log().splitlines()]
    (defect,) = [
        line
        for line in lines
        if line.get("request_id") == answers[0].headers["x-request-id"] and line["level"] == "error"
    ]
    assert "ValueError" in defect["message"]
    assert "defect.py" in defect["message"]
    assert_no_trace(server, collector, answers)


@contextmanager
def core_dumps_allowed() -> Iterator[None]:
    """Let processes that are started within write core files as large as they like."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="no process may write core dumps here"
)
def test_crash(watched: Callable[..., tuple[ServerProcess, Collector]], troubled_model: Path) -> None:
    """A worker that crashes with the marker in its memory shows its stacks, and writes no core file."""
    with core_dumps_allowed():
        server, collector = watched(troubled_model)
    batches = metric(server, "nerve_batches_total")
    server.client.post("/predict_tokens", json={"inputs": "Anna"}).raise_for_status()
    wait_until(lambda: metric(server, "nerve_batches_total") == batches + 1, "it was counted")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    body = json.dumps({"inputs": f"{CANARY} x x x x x x x x"}).encode()
    connections = [connect(server) for _ in range(16)]
    for connection in connections:
        connection.sendall(request_bytes(body))
    wait_until(lambda: metric(server, "nerve_queue_requests") > 0, "the model is at work on the marker")
    for worker in workers:
        os.kill(worker, signal.SIGSEGV)
    wait_until(lambda: "Segmentation fault" in server.log(), "the crash is reported")
    wait_until(lambda: server.log().count("Respawning") > 0, "the worker is replaced")
    for connection in connections:
        connection.close()
    assert "Current thread" in server.log()
    assert not [path for path in server.log_path.parent.rglob("core*") if path.is_file()]
    server.process.kill()
    server.process.wait()
    assert_not_in_files(server.log_path.parent)
    assert all(sign not in body for body in collector.bodies for sign in SIGNS)
