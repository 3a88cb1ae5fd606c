"""The files of `server.tls`: what is served with them, and what is refused in one line."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import ServerProcess, write_config
from nerve.config import TlsConfig
from nerve.errors import ConfigError
from nerve.server.tls import open_tls
from raw_http import wait_until

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl to make certificates with"
)

PASSWORD = "open sesame"


def openssl(command: str, *more: str) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *command.split(), *more], check=True, capture_output=True)  # noqa: S607


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate, its key as it is and encrypted in several ways, passwords, and what is none of it."""
    folder = tmp_path_factory.mktemp("tls")
    new = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    openssl(f"{new} -keyout {folder}/plain.key -out {folder}/cert.pem")
    openssl(f"genrsa -out {folder}/other.key 2048")
    convert = f"pkcs8 -topk8 -in {folder}/plain.key -passout"
    openssl(convert, f"pass:{PASSWORD}", "-v2", "aes256", "-out", f"{folder}/encrypted.key")
    openssl(
        f"{new} -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout {folder}/ec-plain.key -out {folder}/ec.pem"
    )
    openssl(f"pkcs8 -topk8 -in {folder}/ec-plain.key -out {folder}/ec.key -passout", f"pass:{PASSWORD}")
    openssl(convert, f"pass:{PASSWORD}", "-v2", "des3", "-out", f"{folder}/des3.key")
    openssl(
        f"rsa -aes256 -traditional -in {folder}/plain.key -out {folder}/traditional.key -passout",
        f"pass:{PASSWORD}",
    )
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "wrong").write_text("wrong\n")
    (folder / "text").write_text("no certificate\n")
    return folder


def make(files: Path, **names: str) -> TlsConfig:
    """Make a configuration of files by their names."""
    given = {"certificate": "cert.pem", "key": "plain.key", **names}
    return TlsConfig(**{name: str(files / value) for name, value in given.items()})


@pytest.mark.parametrize("key", ["plain.key", "encrypted.key", "des3.key", "traditional.key", "ec.key"])
def test_keys_that_can_be_used(files: Path, key: str) -> None:
    """Plain ones as they are, with a password file or without; encrypted ones as a plain copy, in memory."""
    certificate = "ec.pem" if key == "ec.key" else "cert.pem"
    found = open_tls(make(files, certificate=certificate, key=key, key_password_file="password"))
    assert (found.key == str(files / key)) == (key == "plain.key")
    plain = Path(found.key).read_bytes()
    assert b"PRIVATE KEY-----" in plain
    assert b"ENCRYPTED" not in plain
    assert (found.minimum_version, found.wants_client_certificate) == ("tls1.2", False)
    assert open_tls(make(files, client_ca="cert.pem")).wants_client_certificate


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"certificate": "none"}, "server.tls.certificate: cannot read"),
        ({"key": "none"}, "server.tls.key: cannot read"),
        ({"client_ca": "none"}, "server.tls.client_ca: cannot read"),
        ({"client_ca": "text"}, "server.tls.client_ca: "),
        ({"certificate": "text"}, "are not a certificate and its key"),
        ({"key": "text"}, "are not a certificate and its key"),
        ({"key": "other.key"}, "are not a certificate and its key"),
        (
            {"key": "encrypted.key"},
            "is encrypted; name the file with its password in server.tls.key_password_file",
        ),
        (
            {"key": "encrypted.key", "key_password_file": "wrong"},
            "server.tls.key_password_file: ",
        ),
        ({"key": "encrypted.key", "key_password_file": "none"}, "server.tls.key_password_file: cannot read"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(
    files: Path, names: dict[str, str], message: str
) -> None:
    """In one line, and without a question at the terminal."""
    with pytest.raises(ConfigError) as caught:
        open_tls(make(files, **names))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_encrypted_key_without_a_password_asks_nobody(
    files: Path, lookup_model: Path, tmp_path: Path
) -> None:
    """The server ends with one line, though there is a terminal's worth of input."""
    tls = {"certificate": str(files / "cert.pem"), "key": str(files / "encrypted.key")}
    config = write_config(tmp_path / "config.yaml", lookup_model, server={"tls": tls})
    done = subprocess.run(
        [sys.executable, "-m", "nerve", "serve", "--config", str(config)],
        input=f"{PASSWORD}\n" * 3,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("nerve: ")]
    assert "server.tls.key_password_file" in line
    assert "pass phrase" not in done.stderr


def answers(server: ServerProcess, files: Path, version: ssl.TLSVersion) -> int | None:
    """Ask with one version of TLS; None where the server does not speak it."""
    context = ssl.create_default_context(cafile=str(files / "cert.pem"))
    context.minimum_version = context.maximum_version = version
    with httpx.Client(base_url=server.url.replace("http:", "https:"), verify=context) as client:
        try:
            return client.get("/health/live").status_code
        except httpx.ConnectError:
            return None


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
@pytest.mark.parametrize(
    ("more", "over_1_2"),
    [
        ({}, 200),
        ({"minimum_version": "1.2", "key": "encrypted.key", "key_password_file": "password"}, 200),
        ({"minimum_version": "1.3", "key": "traditional.key", "key_password_file": "password"}, None),
    ],
    ids=["default", "1.2", "1.3"],
)
def test_versions_and_keys(
    serve: Callable[..., ServerProcess],
    files: Path,
    interface: str,
    more: dict[str, Any],
    over_1_2: int | None,
) -> None:
    """TLS 1.2 (RFC 9325, 3.1.1) and 1.3 are spoken by default; an encrypted key serves with its password."""
    tls = {"certificate": "cert.pem", "key": "plain.key", **more}
    tls = {name: value if name == "minimum_version" else str(files / value) for name, value in tls.items()}
    server = serve(wait=False, server={"tls": tls, "interface": interface})
    # The log tells of the worker a moment before it accepts.
    wait_until(lambda: answers(server, files, ssl.TLSVersion.TLSv1_3) == 200, "TLS 1.3 is spoken", timeout=60)
    assert answers(server, files, ssl.TLSVersion.TLSv1_2) == over_1_2
    assert PASSWORD not in server.log()
