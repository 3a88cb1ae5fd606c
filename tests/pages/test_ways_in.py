"""The pages behind a prefix, over HTTP/2, through the shipped Nginx; and the page of the API. In a real browser."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from browser_tab import OpenTab
from builders import ServerProcess, free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
OPENSSL = shutil.which("openssl")
KEY = "a-key-of-many-letters"
TEXT = "Anna Maria lives in New York. Bob sees Paris."
SHIPPED = (Path(__file__).parents[2] / "deploy/nginx.conf").read_text()
PREFIX = "/tools/ner"


@pytest.fixture
def front(serve: Callable[..., ServerProcess], tmp_path: Path) -> Iterator[str]:
    """Return the address of the shipped Nginx before a server, with a location more that takes a prefix off."""
    if NGINX is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    server, port = serve(), free_port()
    where = server.url.removeprefix("http://")
    more = f"location {PREFIX}/ {{ rewrite ^{PREFIX}(/.*)$ $1 last; }}\n        location / {{\n            if"
    changes = {
        "/dev/shm/": f"{tmp_path}/temp-",  # noqa: S108 - what the file says
        "listen 8080 ": f"listen 127.0.0.1:{port} ",
        "server unix:/run/nerve/nerve.sock": f"server {where}",
        "location / {\n            if": more,
    }
    text = SHIPPED
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text(text)
    options = f"daemon off; pid {tmp_path}/pid; {'user root;' if Path('/root').exists() else ''}"
    command = [NGINX, "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf"), "-g", options]
    with (tmp_path / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, (tmp_path / "nginx.log").read_text()
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield url
    process.send_signal(signal.SIGQUIT)
    process.wait(60)


@pytest.mark.parametrize("path", ["/", f"{PREFIX}/"])
def test_through_nginx(front: str, open_tab: OpenTab, path: str) -> None:
    """Every address is relative: the same page works behind any prefix, its link to the API as well."""
    tab = open_tab(front, path)
    tab.type(TEXT)
    assert len(tab.marks()[1]) == 4
    assert f"'{front}{path}predict_tokens'" in tab.page.inner_text("#call")
    tab.view("redacted")
    assert tab.marks("redacted")[0] == "<PER> lives in <LOC>. <PER> sees <LOC>."
    tab.page.click("#docs-link")
    tab.page.wait_for_selector(".opblock")
    assert tab.page.url == f"{front}{path}docs"
    assert {url.removeprefix(front)[: len(path)] for _, url, _ in tab.requests if url.startswith("http")} == {
        path
    }
    tab.page.click("text=nerve >> nth=0")
    tab.page.wait_for_selector("#view-text .line")
    assert tab.page.url == front + path


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
def test_over_http2(serve: Callable[..., ServerProcess], open_tab: OpenTab, tmp_path: Path) -> None:
    """With TLS a browser speaks HTTP/2."""
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem -subj /CN=127.0.0.1"
    subprocess.run([str(OPENSSL), *command.split()], cwd=tmp_path, check=True, capture_output=True)
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    server = serve(wait=False, server={"tls": tls})
    url = server.url.replace("http:", "https:")
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"{url}/health", verify=False).status_code == 200:  # noqa: S501 - our own, just made
                break
        except httpx.TransportError:
            assert time.monotonic() < deadline, server.log()
        time.sleep(0.1)
    tab = open_tab(url, ignore_https_errors=True)
    tab.type(TEXT)
    assert len(tab.marks()[1]) == 4
    protocols = tab.page.evaluate(
        "performance.getEntries().filter((entry) => entry.nextHopProtocol).map((entry) => entry.nextHopProtocol)"
    )
    assert set(protocols) == {"h2"}


def test_api_page_tries_a_request_with_the_key(
    serve: Callable[..., ServerProcess], open_tab: OpenTab
) -> None:
    """The document is asked for with the key; so is what one tries. Nothing comes from elsewhere."""
    server = serve(environment={"NERVE_API_KEY": KEY})
    tab = open_tab(server, "/docs", answers=False)
    tab.page.wait_for_selector("#key-dialog[open]")
    tab.page.fill("#key", KEY)
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".opblock")
    paths = server.client.get("/openapi.json", headers={"x-api-key": KEY}).json()["paths"]
    shown = {
        path.replace("\u200b", "") for path in tab.page.locator(".opblock-summary-path").all_inner_texts()
    }
    assert shown == set(paths)
    tab.page.click(".opblock-summary-path >> nth=0")
    tab.page.click("text=Try it out")
    tab.page.fill(".body-param textarea", '{"inputs": "Anna", "aggregation_strategy": "first"}')
    tab.page.click("button.execute")
    tab.page.wait_for_selector(".live-responses-table .response-col_status >> text=200")
    assert '"PER"' in tab.page.inner_text(".live-responses-table")
