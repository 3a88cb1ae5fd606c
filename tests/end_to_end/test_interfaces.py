"""The same application behind other doors: ASGI under Granian, ASGI in process, TLS."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import ServerProcess, write_config
from nerve.server.worker import create_app
from raw_http import GOOD_BODY, chunked_request, connect, exchange, metric, request_bytes, wait_until

NOT_ASCII = {"request-timeout-ms": b"\xff", "x-request-id": b"\xff\xfe"}


def test_asgi_under_granian(server: ServerProcess, serve: Callable[..., ServerProcess]) -> None:
    """`interface: asgi` answers as RSGI does: rows, errors, cut bodies, deadlines, clients that leave."""
    asgi = serve(server={"interface": "asgi"}, limits={"max_body_bytes": 100_000})
    assert asgi.predict("Anna lives in Paris.").content == server.predict("Anna lives in Paris.").content
    assert exchange(asgi, request_bytes(b"", length=100_001)).status == 413
    assert exchange(asgi, chunked_request([b"a" * 60_000] * 2, finish=False)).status == 413
    cut = exchange(asgi, request_bytes(b'{"inputs": "An', length=100), half_close=True)
    assert (cut.status, cut.json()["error_type"]) == (400, "Validation")
    late = exchange(asgi, request_bytes(b"{", "request-timeout-ms: 200", length=100))
    assert (late.status, late.json()["error_type"]) == (504, "DeadlineExceeded")
    name = 'nerve_requests_total{route="/predict_tokens",status="400"}'
    before = metric(asgi, name)
    with connect(asgi) as connection:
        connection.sendall(request_bytes(b"{", length=100))
    wait_until(lambda: metric(asgi, name) == before + 1, "the request is over")
    assert asgi.client.head("/health").status_code == 200
    assert asgi.predict("Anna", offset_unit="x").status_code == 422
    asgi.client.close()
    assert asgi.stop() == 0
    assert "error" not in asgi.log()


def test_header_that_is_not_ascii_counts_as_absent(server: ServerProcess) -> None:
    """Granian's RSGI does not show it; under ASGI it is the same (below)."""
    assert server.client.post("/predict_tokens", content=GOOD_BODY, headers=NOT_ASCII).status_code == 200


def test_asgi_in_process(lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory for any ASGI server: lifespan, readiness, predictions, shutdown."""
    monkeypatch.setenv("NERVE_CONFIG", str(write_config(tmp_path / "config.yaml", lookup_model)))
    monkeypatch.setattr(
        "nerve.server.worker.configure_logging", lambda _: None
    )  # it would take over pytest's logging
    monkeypatch.setattr("gc.freeze", lambda: None)  # pytest's process goes on to make garbage
    app = create_app()

    async def scenario() -> None:
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        sent: asyncio.Queue[Any] = asyncio.Queue()
        lifespan = asyncio.create_task(app({"type": "lifespan"}, events.get, sent.put))
        await events.put({"type": "lifespan.startup"})
        assert (await sent.get())["type"] == "lifespan.startup.complete"
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://nerve") as client:
            async with asyncio.timeout(20):
                while (await client.get("/health/ready")).status_code != 200:  # noqa: ASYNC110 - it can only be asked for
                    await asyncio.sleep(0.01)
            answer = await client.post("/predict_tokens", content=GOOD_BODY)
            assert [row["token"] for row in answer.json()[0]][1] == "Anna"
            answers = await asyncio.gather(*(client.post("/", json={"inputs": "Bob"}) for _ in range(50)))
            assert {a.status_code for a in answers} == {200}
            answer = await client.post("/predict_tokens", content=GOOD_BODY, headers=NOT_ASCII)
            assert answer.status_code == 200
            await events.put({"type": "lifespan.shutdown"})
            assert (await sent.get())["type"] == "lifespan.shutdown.complete"
            await lifespan
            answer = await client.post("/predict_tokens", content=GOOD_BODY)
            assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")

    asyncio.run(scenario())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """With a certificate and a key the server speaks TLS, and only that."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True)
    server = serve(wait=False, server={"tls": {"certificate": str(certificate), "key": str(key)}})
    context = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(base_url=server.url.replace("http:", "https:"), verify=context) as client:

        def is_ready() -> bool:
            try:
                return client.get("/health/ready").status_code == 200
            except httpx.ConnectError:
                return False

        wait_until(is_ready, "the server is ready", timeout=60)
        assert client.post("/predict_tokens", content=GOOD_BODY).status_code == 200
    with pytest.raises(httpx.TransportError):
        server.client.get("/health")
