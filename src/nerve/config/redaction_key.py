"""The key of pseudonyms: from a file, or made at random when the server starts."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.config.loading import read_secret
from nerve.errors import ConfigError

if TYPE_CHECKING:
    from nerve.config.schema import RedactionConfig

# The server process sets it for its workers, which must all have one key.
ENV_REDACTION_KEY = "NERVE_REDACTION_KEY"
_KEY_FILE = "redaction.key_file"
_LEAST_BYTES = 16


def load_redaction_key(redaction: RedactionConfig) -> bytes:
    """Return the key with which the operator `hash` makes pseudonyms.

    That of `redaction.key_file`, else of NERVE_REDACTION_KEY, else a random one, the same in this process and in those
    that it starts. Raises `ConfigError` when the file cannot be read, and for a key that could be guessed.
    """
    if redaction.key_file is not None:
        return _check(read_secret(Path(redaction.key_file), _KEY_FILE), _KEY_FILE)
    if not has_key_in_environment():
        os.environ[ENV_REDACTION_KEY] = secrets.token_hex(32)
    return _check(os.environ[ENV_REDACTION_KEY], ENV_REDACTION_KEY)


def has_key_in_environment() -> bool:
    """Tell whether there is a key, or was one made already."""
    return ENV_REDACTION_KEY in os.environ


def _check(key: str, origin: str) -> bytes:
    encoded = key.strip().encode()
    if len(encoded) < _LEAST_BYTES:
        raise ConfigError(
            f"{origin}: the key has {len(encoded)} bytes, and at least {_LEAST_BYTES} are needed; make one with "
            "`openssl rand "
            "-hex 32`"
        )
    return encoded
