"""Log lines of requests, from real servers: in a file for a collector, on a terminal for people."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from builders import ServerProcess, write_config
from raw_http import wait_until


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    """Return the log, which must be one JSON object a line."""
    return [json.loads(line) for line in server.log().splitlines()]


def of_request(server: ServerProcess, request_id: str) -> list[dict[str, Any]]:
    """Return the lines about one request."""
    return [line for line in lines(server) if line.get("request_id") == request_id]


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_access_log(serve: Callable[..., ServerProcess], troubled_model: object, interface: str) -> None:
    """A line for each request, with the id its answer carries; routes and known methods, nothing else."""
    server = serve(folder=troubled_model, server={"access_log": True, "interface": interface})
    answers = [
        (("POST", "/predict_tokens", 200), server.predict("Anna")),
        (("POST", "/", 422), server.client.post("/", json={})),
        (("POST", "/predict_tokens", 500), server.predict("y")),
        (("GET", "/info", 200), server.client.get("/info?name=anna")),
        (("GET", "unknown", 404), server.client.get("/people/anna")),
        (("unknown", "/info", 405), server.client.request("ANNA", "/info")),
        (("HEAD", "/health", 200), server.client.head("/health", headers={"x-request-id": "mine"})),
    ]
    for (method, route, status), answer in answers:
        request_id = answer.headers["x-request-id"]
        # The line is written once the answer is out, so the client may be quicker.
        wait_until(
            lambda of=request_id: any("method" in line for line in of_request(server, of)), "it is logged"
        )
        *others, line = of_request(server, request_id)
        assert (line["method"], line["route"], line["status"]) == (method, route, status)
        assert line["message"].startswith(f"{method} {route} {status} ")
        assert 0 < line["duration_ms"] < 10_000
        assert line["level"] == "info"
        assert line["response_bytes"] == len(answer.content) or method == "HEAD"
        assert [other["level"] for other in others] == (["error"] if status == 500 else [])
    assert request_id == "mine"
    (line,) = [line for line in lines(server) if line.get("status") == 422]
    assert (line["reason"], "tokens" in line, line["read_ms"] > 0) == ("invalid", False, True)
    assert sum("method" in line for line in lines(server)) >= len(answers)


def test_access_log_says_where_the_time_went(
    serve: Callable[..., ServerProcess], lookup_model: object
) -> None:
    """Of a prediction: texts, tokens and each stage, which together are not more than the whole; never a text."""
    server = serve(folder=lookup_model, server={"access_log": True})
    answer = server.predict(["Anna lives in Paris", "Anna"] * 20)
    request_id = answer.headers["x-request-id"]
    wait_until(lambda: of_request(server, request_id), "it is logged")
    (line,) = of_request(server, request_id)
    assert (line["texts"], line["tokens"]) == (40, int(answer.headers["x-compute-tokens"]))
    stages = [
        line[f"{name}_ms"] for name in ("read", "tokenize", "queue", "inference", "aggregate", "encode")
    ]
    assert all(stage >= 0 for stage in stages)
    assert line["encode_ms"] > 0
    assert sum(stages) <= line["duration_ms"] + 0.01
    timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert line["inference_ms"] == float(timing["inference"])
    assert "Anna" not in server.log()


def test_failures_are_logged_with_their_request(troubled: ServerProcess) -> None:
    """Without an access log a request that is answered leaves no line; one that the model failed on does."""
    assert troubled.client.post("/", json={"inputs": "y"}, headers={"x-request-id": "bad"}).status_code == 500
    troubled.client.post("/", json={"inputs": "Anna"}, headers={"x-request-id": "good"}).raise_for_status()
    assert [line["level"] for line in of_request(troubled, "bad")] == ["error"]
    assert of_request(troubled, "good") == []


@pytest.fixture
def terminal(
    tmp_path: Path, lookup_model: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """Run a server whose standard error is a terminal; also returns what that shows."""
    config = write_config(
        tmp_path / "config.yaml", lookup_model, server={"access_log": True, "log_format": "auto"}
    )
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    command = [sys.executable, "-m", "nerve", "serve", "--config", str(config)]
    shown: list[bytes] = []

    def screen() -> str:
        try:
            while data := os.read(ours, 65536):
                shown.append(data)
        except (BlockingIOError, OSError):
            pass
        return b"".join(shown).decode()

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        yield process, screen
        process.terminate()
        assert process.wait(60) == 0
    os.close(ours)
    os.close(theirs)


def test_terminal_shows_text(
    terminal: tuple[subprocess.Popen[bytes], Callable[[], str]], tmp_path: Path
) -> None:
    """`log_format: auto` on a terminal: lines for people, with the request's id at the end."""
    process, screen = terminal
    port = yaml.safe_load((tmp_path / "config.yaml").read_text())["server"]["port"]
    wait_until(lambda: "ready" in screen() or process.poll() is not None, "the server is ready", timeout=40)
    httpx.get(f"http://127.0.0.1:{port}/health", headers={"x-request-id": "mine"}).raise_for_status()
    wait_until(lambda: "[mine]" in screen(), "the line is shown")
    (line,) = [line for line in screen().splitlines() if "mine" in line]
    assert " INFO " in line
    assert "GET /health 200 " in line
    assert "{" not in screen()
