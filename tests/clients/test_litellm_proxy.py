"""LiteLLM's gateway, the real program, between a client and a stand-in for the language model.

The configurations are those of docs/guide/clients/litellm.md; only addresses differ. The stand-in keeps what it was
sent, and answers with a text that has names in it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import KEY, REPOSITORY, free_port

# The Python of an environment that has `litellm[proxy]`, which pins other versions than the clients want.
GATEWAY = os.environ.get("NERVE_GATEWAY_PYTHON")
PAGE = REPOSITORY / "docs/guide/clients/litellm.md"
CONFIGS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
GATEWAY_KEY = "sk-0123456789abcdef0123456789abcdef"
ANSWER = "In Paris it rains today. Ask Anna Maria, not bob@example.com, she lives there."
MASKED_ANSWER = "In <LOCATION> it rains today. Ask <PERSON>, not <EMAIL>, she lives there."

pytestmark = [
    pytest.mark.skipif(GATEWAY is None, reason="NERVE_GATEWAY_PYTHON names no Python with litellm[proxy]"),
    pytest.mark.timeout(500),  # the gateway imports for long
]


class LanguageModel(ThreadingHTTPServer):
    """Answers chats; `seen` are the bodies that it got."""

    seen: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    """One request to the language model."""

    protocol_version = "HTTP/1.1"
    server: LanguageModel

    def do_POST(self) -> None:
        """Keep the body, and answer as a whole or in pieces."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(body)
        common = {"id": "1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(
                json.dumps(
                    {
                        **common,
                        "object": "chat.completion",
                        "choices": [choice],
                        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                    }
                ).encode(),
                "application/json",
            )
            return
        pieces = re.findall(r".{1,4}", ANSWER)  # names are cut in two
        deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces), {}]
        chunks = [
            {
                **common,
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}],
            }
            for delta in deltas
        ]
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send(("".join(events) + "data: [DONE]\n\n").encode(), "text/event-stream")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, content: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def language_model() -> Iterator[LanguageModel]:
    """Return the stand-in, listening."""
    server = LanguageModel(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def gateway(
    language_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], str]]:
    """Start gateways by a configuration of the page and the address of a nerve; they end with the tests."""
    processes: list[subprocess.Popen[bytes]] = []
    ready: dict[tuple[str, str], str] = {}

    def start(config: str, nerve: str) -> str:
        if (config, nerve) in ready:
            return ready[config, nerve]
        folder = tmp_path_factory.mktemp("gateway")
        assert "http://localhost:8000" in config
        (folder / "litellm.yaml").write_text(config.replace("http://localhost:8000", nerve))
        port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "OPENAI_API_KEY": "none",
            "OPENAI_API_BASE": f"http://127.0.0.1:{language_model.server_port}/v1",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{language_model.server_port}/v1",
            "NERVE_API_KEY": KEY,
            "LITELLM_MASTER_KEY": GATEWAY_KEY,
            "LITELLM_TELEMETRY": "False",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HOME": str(folder),
        }
        program = str(Path(str(GATEWAY)).parent / "litellm")
        command = [program, "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", str(port)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        processes.append(process)
        deadline = time.monotonic() + 300  # it imports for long
        while time.monotonic() < deadline:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if httpx.get(f"{url}/health/liveliness").status_code == 200:
                    ready[config, nerve] = url
                    return url
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError((folder / "log").read_text())

    yield start
    for process in processes:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "You help Bob."},
    {"role": "user", "content": "Anna Maria lives in Paris, a@example.com"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"place": "Paris", "days": 2, "for": ["Bob"]}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Rain in Paris."},
    {"role": "user", "content": [{"type": "text", "text": "And New York?"}]},
]


def ask(url: str, messages: list[dict[str, Any]], **more: Any) -> httpx.Response:
    """Send a chat to a gateway."""
    body = {"model": "chat", "messages": messages, **more}
    headers = {"authorization": f"Bearer {GATEWAY_KEY}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=90)


def test_conversation(
    gateway: Callable[[str, str], str], guarded: str, language_model: LanguageModel
) -> None:
    """Several messages, a call of a tool and its result: the model sees no name, nor does its answer show one."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    answer = ask(gateway(CONFIGS[0], guarded), CONVERSATION, tools=tools)
    assert answer.status_code == 200, answer.text
    seen = language_model.seen[-1]["messages"]
    assert [message["role"] for message in seen] == ["system", "user", "assistant", "tool", "user"]
    assert seen[0]["content"] == "You help <PERSON>."
    assert seen[1]["content"] == "<PERSON> lives in <LOCATION>, <EMAIL>"
    call = seen[2]["tool_calls"][0]
    assert (call["id"], call["function"]["name"]) == ("call_1", "weather")
    arguments = json.loads(call["function"]["arguments"])
    assert arguments == {"place": "<LOCATION>", "days": 2, "for": ["<PERSON>"]}
    assert seen[3]["content"] == "Rain in <LOCATION>."
    assert seen[4]["content"] == [{"type": "text", "text": "And <LOCATION>?"}]
    assert answer.json()["choices"][0]["message"]["content"] == MASKED_ANSWER


def test_stream(gateway: Callable[[str, str], str], guarded: str, language_model: LanguageModel) -> None:
    """A stream is masked, although its pieces cut names in two; the first sentence does not wait for the last."""
    answer = ask(gateway(CONFIGS[0], guarded), CONVERSATION[:2], stream=True)
    assert answer.status_code == 200, answer.text
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(pieces) == MASKED_ANSWER
    assert len([piece for piece in pieces if piece]) > 1


def test_nothing_passes_without_an_answer(
    gateway: Callable[[str, str], str], language_model: LanguageModel
) -> None:
    """Where nerve is not there, the language model is not asked."""
    before = len(language_model.seen)
    answer = ask(gateway(CONFIGS[0], f"http://127.0.0.1:{free_port()}"), CONVERSATION[:2])
    assert answer.status_code >= 400
    assert len(language_model.seen) == before


def test_presidio(gateway: Callable[[str, str], str], url: str, language_model: LanguageModel) -> None:
    """The presidio guardrail masks what a prompt says."""
    answer = ask(gateway(CONFIGS[1], url), CONVERSATION[:2])
    assert answer.status_code == 200, answer.text
    seen = language_model.seen[-1]["messages"]
    assert [message["content"] for message in seen] == [
        "You help <PERSON>.",
        "<PERSON> lives in <LOCATION>, <EMAIL>",
    ]
