"""`nerve serve --open`: the page is opened once the server is ready, or its address is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

SECONDS = 60


@contextmanager
def serving(*arguments: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `nerve serve` while the block runs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NERVE_", "AIP_")) and k != "DISPLAY"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "nerve", "serve", *arguments],
            env={**kept, **environment},
            stdout=stream,
            stderr=stream,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)


def wait_for(file: Path, text: str = "") -> str:
    """Wait until a file has a line with a text, and return that line."""
    ends = time.monotonic() + SECONDS
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        if found := [line for line in lines if text in line]:
            return found[0]
        assert time.monotonic() < ends, lines[-3:]
        time.sleep(0.05)


def test_the_browser_gets_the_address_of_a_ready_server(lookup_model: Path, tmp_path: Path) -> None:
    """BROWSER names the command; port 0 takes one free port, which the log and the address agree on."""
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    with serving(str(lookup_model), "--open", "--port", "0", log=tmp_path / "log", BROWSER=f"{browser} %s"):
        address = wait_for(opened)
        assert httpx.get(f"{address}health/ready").status_code == 200
        page = httpx.get(address, headers={"accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        port = address.rstrip("/").rpartition(":")[2]
        assert int(port) > 0
        wait_for(tmp_path / "log", f"Listening at: http://127.0.0.1:{port}")


def test_without_a_browser_the_log_has_the_address(lookup_model: Path, tmp_path: Path) -> None:
    """A server in a terminal far away says what to open; nothing takes the terminal from it."""
    with serving(
        str(lookup_model), "--open", "--port", "0", log=tmp_path / "log", PATH="/nonexistent"
    ) as process:
        assert "open http://localhost:" in wait_for(tmp_path / "log", "there is no browser on this machine")
        assert process.poll() is None


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"NERVE_SERVER__PLAYGROUND": "false"}, "server.playground is false; set it to true"),
        ({"NERVE_SERVER__UDS": "/tmp/nerve.sock"}, "no browser reaches the Unix socket /tmp/nerve.sock"),  # noqa: S108
    ],
)
def test_where_there_is_no_page_to_open(lookup_model: Path, setting: dict[str, str], reason: str) -> None:
    """It is refused at once, in one line that names the key."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NERVE_", "AIP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "nerve", "serve", str(lookup_model), "--open"],
        env={**kept, **setting},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert reason in done.stderr.splitlines()[-1]
