"""Secrets come from the environment or from files, which end with a line break more often than not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nerve.config import ServerConfig, load_api_key, read_secret
from nerve.errors import ConfigError


def load(place: str, key: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Load a key from the environment or from a file."""
    monkeypatch.delenv("NERVE_API_KEY", raising=False)
    if place == "environment":
        monkeypatch.setenv("NERVE_API_KEY", key.decode("utf-8", "surrogateescape"))
        return load_api_key(ServerConfig())
    (folder / "key").write_bytes(key)
    return load_api_key(ServerConfig(api_key_file=str(folder / "key")))


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("key", [b"secret", b"secret\n", b"secret\r\n", b" secret \n\n", b"\tsecret\t"])
def test_white_space_around_a_key_is_not_part_of_it(
    place: str, key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No client can send it: it is not part of a header's value."""
    assert load(place, key, tmp_path, monkeypatch) == "secret"


def test_mark_at_the_head_of_a_file_is_not_part_of_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Editors on Windows write one."""
    assert load("file", b"\xef\xbb\xbfsecret\r\n", tmp_path, monkeypatch) == "secret"


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize(
    "key",
    [
        b"sec\nret",
        b"sec\rret",
        b"sec\tret",
        b"sec\x1bret",
        b"sec\x7fret",
        "gehe\u00edm".encode(),
        b"sec\xffret",
    ],
)
def test_key_that_no_client_could_send_is_refused(
    place: str, key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says where it comes from, and quotes nothing of it."""
    with pytest.raises(ConfigError) as caught:
        load(place, key, tmp_path, monkeypatch)
    message = str(caught.value)
    assert ("NERVE_API_KEY: " if place == "environment" else "server.api_key_file: ") in message
    assert "\n" not in message
    assert "sec" not in message
    assert "gehe" not in message


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("key", [b"", b"\n", b" \r\n"])
def test_blank_key_is_refused(
    place: str, key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would leave the server open."""
    with pytest.raises(ConfigError, match="the API key is empty"):
        load(place, key, tmp_path, monkeypatch)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With the key of the configuration, in one line."""
    with pytest.raises(
        ConfigError,
        match=r"^server\.some: cannot read .*none: No such file or directory; check its name and permissions$",
    ):
        read_secret(tmp_path / "none", "server.some")
    with pytest.raises(
        ConfigError, match=r"^server\.some: cannot read .*: Is a directory; check its name and permissions$"
    ):
        read_secret(tmp_path, "server.some")
