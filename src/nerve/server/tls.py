"""The files that `server.tls` names, proven before a worker is started.

Workers load them in Rust, which ends the process over a file that it cannot read; and OpenSSL would ask at the
terminal for the password of an encrypted key. So each file is read here first, and every failure is one line that
names its key.
"""

from __future__ import annotations

import base64
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.config import read_secret
from nerve.errors import ConfigError

if TYPE_CHECKING:
    from nerve.config import TlsConfig

_ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----(.*?)-----END", re.DOTALL)
_ENCRYPTED_THE_OLD_WAY = b"Proc-Type: 4,ENCRYPTED"
# AES-128-CBC, AES-192-CBC and AES-256-CBC as they stand in an encrypted key (DER): what the workers can decrypt.
_CIPHERS = [b"\x60\x86\x48\x01\x65\x03\x04\x01" + last for last in (b"\x02", b"\x16", b"\x2a")]
_CONVERT = "convert it with `openssl pkcs8 -topk8 -v2 aes256 -in OLD -out NEW`"


def prove_tls(tls: TlsConfig) -> str | None:
    """Prove that certificate, key and authority can be used; returns the key's password, or None for a plain key.

    Raises `ConfigError`.
    """
    for name in ("certificate", "key", "client_ca"):
        if (path := getattr(tls, name)) is not None:
            _read(path, name)
    password = _find_password(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Never without a password: OpenSSL would ask for one.
        context.load_cert_chain(tls.certificate, tls.key, password or "")
    except (OSError, ValueError) as error:  # `ssl.SSLError` is an `OSError`
        hint = "; or the password is not the right one" if password is not None else ""
        raise ConfigError(
            f"server.tls: {tls.certificate} and {tls.key} are not a certificate and its key: {error}{hint}"
        ) from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"server.tls.client_ca: {tls.client_ca} is not a certificate (PEM): {error}"
            ) from error
    return password


def _find_password(tls: TlsConfig) -> str | None:
    """Return the password of the key; None for one that is not encrypted."""
    content = _read(tls.key, "key")
    if _ENCRYPTED_THE_OLD_WAY in content:
        raise ConfigError(f"server.tls.key: {tls.key} is encrypted in an old form; {_CONVERT}")
    encrypted = _ENCRYPTED.search(content)
    if encrypted is None:
        return None
    if tls.key_password_file is None:
        raise ConfigError(
            f"server.tls.key: {tls.key} is encrypted; name the file with its password in "
            "server.tls.key_password_file"
        )
    try:
        der = base64.b64decode(encrypted[1])
    except ValueError:
        der = b""  # what is wrong with it will be said when it is loaded
    if der and not any(cipher in der for cipher in _CIPHERS):
        raise ConfigError(f"server.tls.key: {tls.key} is encrypted with an old cipher; {_CONVERT}")
    return read_secret(Path(tls.key_password_file), "server.tls.key_password_file")


def _read(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"server.tls.{name}: cannot read {path}: {error.strerror}") from error
