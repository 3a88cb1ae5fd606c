"""The files that `server.tls` names, proven before a worker is started.

Workers load them in Rust, which ends the process over a file that it cannot read; and OpenSSL would ask at the
terminal for the password of an encrypted key. So each file is read here first, and every failure is one line that
names its key.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nerve.config import read_secret
from nerve.errors import ConfigError
from nerve.server.private_key import decrypt_key, keep_in_memory

if TYPE_CHECKING:
    from nerve.config import TlsConfig

_ENCRYPTED = (b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


class SslContext(NamedTuple):
    """What Granian's workers are given, in its order."""

    is_on: bool
    certificate: str
    key: str
    password: str | None
    minimum_version: str
    client_ca: str | None
    revoked: list[str]
    wants_client_certificate: bool


def open_tls(tls: TlsConfig) -> SslContext:
    """Prove that certificate, key and authority can be used, and return what workers need. Raises `ConfigError`."""
    for name in ("certificate", "key", "client_ca"):
        if (path := getattr(tls, name)) is not None:
            _read(path, name)
    key = _plain_key(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, key, "")  # OpenSSL asks where there is no password at all
    except (OSError, ValueError) as error:  # `ssl.SSLError` is an `OSError`
        raise ConfigError(
            f"server.tls: {tls.certificate} and {tls.key} are not a certificate and its key (PEM): {error}; name "
            "two files that belong together"
        ) from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"server.tls.client_ca: {tls.client_ca} is not a certificate (PEM): {error}; name the file of an "
                "authority"
            ) from error
    asks = tls.client_ca is not None
    version = f"tls{tls.minimum_version}"
    return SslContext(True, tls.certificate, key, None, version, tls.client_ca, [], asks)


def _plain_key(tls: TlsConfig) -> str:
    """Return the path of the key, decrypted if need be."""
    content = _read(tls.key, "key")
    if not any(sign in content for sign in _ENCRYPTED):
        return tls.key
    if tls.key_password_file is None:
        raise ConfigError(
            f"server.tls.key: {tls.key} is encrypted; name the file with its password in "
            "server.tls.key_password_file"
        )
    password = read_secret(Path(tls.key_password_file), "server.tls.key_password_file")
    try:
        return keep_in_memory(decrypt_key(content, password))
    except ValueError as error:
        raise ConfigError(
            f"server.tls.key_password_file: {tls.key} cannot be decrypted with the password in "
            f"{tls.key_password_file}: {error}; correct the password"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"server.tls.key: {tls.key} is encrypted, and cannot be decrypted here ({error}); make a plain one with "
            "`openssl pkey -in KEY -out PLAIN`"
        ) from error


def _read(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"server.tls.{name}: cannot read {path}: {error.strerror}; check its name and permissions"
        ) from error
