"""Who is let in: nobody from outside without an API key, and with one nobody without it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from builders import ServerProcess, free_port
from nerve.config import ServerConfig
from nerve.http.routing import OPEN_ROUTES
from nerve.pages import PATHS
from nerve.server.listening import is_local, listening_host
from raw_http import wait_until

KEY = "s3cret-key"
EVERYWHERE = "0.0.0.0"  # noqa: S104
# Of other clients' formats; whoever asks there learns that the server is well, and nothing else.
PROBES = (
    *("/ping", "/v2/health/live", "/v2/health/ready", "/v1/models/{name}"),
    *("/v2/models/{name}/ready", "/v2/models/{name}/versions/1/ready"),
)


@pytest.mark.parametrize(
    ("host", "has_key", "expected"),
    [
        (None, False, "127.0.0.1"),
        (None, True, EVERYWHERE),
        (EVERYWHERE, False, EVERYWHERE),
        ("127.0.0.1", True, "127.0.0.1"),
        ("::", False, "::"),
    ],
)
def test_address_that_is_listened_on(host: str | None, has_key: bool, expected: str) -> None:
    """What the configuration says, else what the key allows."""
    assert listening_host(ServerConfig(host=host), has_key=has_key) == expected


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        *((host, False) for host in (EVERYWHERE, "::", "192.0.2.1", "example.org")),
    ],
)
def test_addresses_of_this_machine_only(host: str, local: bool) -> None:
    """A Unix socket is one, whatever the address."""
    assert is_local(ServerConfig(), host) is local
    assert is_local(ServerConfig(uds="/run/nerve.sock"), host)


def own_address() -> str | None:
    """Return an address of this machine that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


@pytest.mark.parametrize("key", [None, KEY])
def test_other_machines_are_let_in_with_a_key_only(
    serve: Callable[..., ServerProcess], key: str | None
) -> None:
    """Without one nothing answers at the machine's own address, and the log says how to change that."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no other address")
    port = free_port()
    server = serve(
        wait=False,
        server={"host": None, "port": port},
        environment={"NERVE_API_KEY": key} if key is not None else None,
    )
    wait_until(lambda: "Started worker" in server.log(), "it listens", timeout=60)
    assert server.client.get("/health/live").status_code == 200
    if key is None:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address}:{port}/health/live")
        assert "for this machine only" in server.log()
    else:
        assert httpx.get(f"http://{address}:{port}/health/live").status_code == 200
    assert "without an API key" not in server.log()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"api-key {KEY}"},
        {"x-api-key": KEY},
        {"X-API-Key": KEY},
        {"x-api-key": KEY, "authorization": "Basic dXNlcjpwYXNz"},
        {"x-api-key": "wrong", "authorization": f"Bearer {KEY}"},
    ],
)
def test_key_is_taken_from_any_of_its_headers(guarded: ServerProcess, headers: dict[str, str]) -> None:
    """A proxy may need `authorization` for itself."""
    assert guarded.client.post("/predict_tokens", json={"inputs": "Anna"}, headers=headers).status_code == 200
    assert guarded.client.get("/info", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": f"{KEY}x"},
        {"x-api-key": f"Bearer {KEY}"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"api-key": KEY},
    ],
)
def test_whatever_is_not_the_key_is_refused(guarded: ServerProcess, headers: dict[str, str]) -> None:
    """One scheme's form is none in the other header."""
    answer = guarded.client.post("/predict_tokens", json={"inputs": "Anna"}, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (401, "Unauthorized")
    assert KEY not in answer.text


def guarded_name(server: ServerProcess) -> str:
    """Return the name that a server's model has in paths."""
    name: str = server.client.get("/info", headers={"x-api-key": KEY}).json()["model_name"]
    return name


def test_nothing_but_the_table_answers_without_a_key(guarded: ServerProcess) -> None:
    """Whatever the method, and be it a route or not; predictions at an open path want it as well."""
    with_key = {"x-api-key": KEY}
    paths = guarded.client.get("/openapi.json", headers=with_key).json()["paths"]
    open_paths = {*OPEN_ROUTES, *PATHS, *(path.format(name=guarded_name(guarded)) for path in PROBES)}
    for path in [*paths, "/docs", "/nothing", "//health", "/health/", "/Metrics", "/metrics/../info"]:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            is_open = path in open_paths and not (path == "/" and method == "POST")
            request = httpx.Request(method, httpx.URL(guarded.url).copy_with(raw_path=path.encode()))
            answer = guarded.client.send(request)
            assert (answer.status_code != 401) is is_open, (method, path, answer.status_code)


def test_image_listens_on_every_address() -> None:
    """A container has an address of its own."""
    text = (Path(__file__).parents[2] / "deploy/Dockerfile").read_text()
    assert f"NERVE_SERVER__HOST={EVERYWHERE} " in text.replace(os.linesep, " ")
