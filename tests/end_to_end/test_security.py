"""What keeps strangers and listeners out, in real servers."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from builders import ServerProcess
from raw_http import GOOD_BODY, wait_until

KEY = "a-key-of-many-letters"
PUBLIC = "0.0.0.0"  # noqa: S104
WARNING = "without an API key"


def test_key_from_a_file(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """The key in `server.api_key_file` is wanted, its newline is not; it is shown nowhere."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    server = serve(server={"api_key_file": str(tmp_path / "key"), "log_level": "debug", "access_log": True})
    assert server.predict("Anna").status_code == 401
    for wrong in (KEY[:-1], KEY + "x", KEY.upper(), f"{KEY} {KEY}"):
        answer = server.client.get("/info", headers={"authorization": f"Bearer {wrong}"})
        assert answer.status_code == 401
        assert KEY not in answer.text
    shown = server.client.get("/info", headers={"authorization": f"Bearer {KEY}"})
    assert shown.status_code == 200
    assert KEY not in shown.text + server.client.get("/metrics").text + server.log()
    command_line = Path(f"/proc/{server.process.pid}/cmdline")
    assert not command_line.exists() or KEY.encode() not in command_line.read_bytes()


@pytest.mark.parametrize(
    ("host", "key", "warns"),
    [
        (PUBLIC, None, True),
        (PUBLIC, KEY, False),
        ("127.0.0.1", None, False),
        ("127.0.0.2", None, False),
    ],
)
def test_warning_on_a_public_address(
    serve: Callable[..., ServerProcess], host: str, key: str | None, warns: bool
) -> None:
    """Whoever opens a server to others without a key is told so."""
    server = serve(
        wait=False, server={"host": host}, environment={"NERVE_API_KEY": key} if key is not None else None
    )
    wait_until(lambda: "Started worker" in server.log(), "it listens", timeout=60)
    assert (WARNING in server.log()) is warns


def make_authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; returns its certificate."""
    # The key usage, and the key identifier below, are what Python 3.13 and later want (VERIFY_X509_STRICT).
    verb = "req -x509 -nodes -days 2 -addext keyUsage=critical,keyCertSign"
    openssl(verb, f"/CN={name}", folder / f"{name}.key", folder / f"{name}.pem")
    return folder / f"{name}.pem"


def make_certificate(folder: Path, name: str, authority: str) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1, signed by an authority; returns its file and that of its key."""
    key, request, certificate = (folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
    openssl("req -nodes", f"/CN={name}", key, request)
    extensions = folder / "extensions"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n"
    )
    command = f"openssl x509 -req -days 2 -in {request} -CA {folder}/{authority}.pem -CAkey {folder}/{authority}.key"
    command += f" -CAcreateserial -extfile {extensions} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return str(certificate), str(key)


def openssl(verb: str, subject: str, key: Path, out: Path) -> None:
    """Make a key and something signed by it."""
    options = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    command = f"openssl {verb} {options} -subj {subject} -keyout {key} -out {out}"
    subprocess.run(command.split(), check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
def test_client_certificates(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """With `client_ca` a client needs a certificate of that authority: none, or another's, does not get in."""
    ours, others = make_authority(tmp_path, "ours"), make_authority(tmp_path, "others")
    certificate, key = make_certificate(tmp_path, "server", "ours")
    tls = {"certificate": certificate, "key": key, "client_ca": str(ours)}
    server = serve(wait=False, server={"tls": tls})
    url = server.url.replace("http:", "https:")

    def client(pair: tuple[str, str] | None) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(ours))
        if pair is not None:
            context.load_cert_chain(*pair)
        return httpx.Client(base_url=url, verify=context)

    with client(make_certificate(tmp_path, "friend", "ours")) as friend:

        def is_ready() -> bool:
            try:
                return friend.get("/health/ready").status_code == 200
            except httpx.ConnectError:
                return False

        wait_until(is_ready, "the server is ready", timeout=60)
        assert friend.post("/predict_tokens", content=GOOD_BODY).status_code == 200
        for pair in (None, make_certificate(tmp_path, "stranger", others.stem)):
            with client(pair) as stranger, pytest.raises(httpx.TransportError):
                stranger.post("/predict_tokens", content=GOOD_BODY)
        assert friend.post("/predict_tokens", content=GOOD_BODY).status_code == 200
