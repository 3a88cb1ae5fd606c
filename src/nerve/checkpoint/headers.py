"""Reads what the weights of a hub's repository hold, by ranges of bytes: the names and shapes of tensors.

A file in safetensors begins with them. `torch.save` puts them into a pickle at the beginning, and since PyTorch 1.6 the
directory of an archive behind all numbers: some hundred KB of a file of any size. Who reads a pickle is told by the
caller (`graph`), as no code of it must run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported without saying so
    build_hf_headers,
    hf_raise_for_status,
)

from nerve.checkpoint.hub_errors import first_line
from nerve.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nerve.checkpoint.preview import PickleReader, Shapes

_PIECE = 2**18
# The directory and the pickle of the largest checkpoints take about 2 MB.
_MOST_BYTES = 2**26
_TIMEOUT_SECONDS = 15.0


def read_shapes(
    name: str,
    files: Iterable[str],
    commit: str,
    endpoint: str | None,
    token: bool | None,
    read_pickle: PickleReader,
) -> Shapes:
    """Return the shapes of the tensors in the weights of a repository; {} where the hub sends whole files only.

    files: in safetensors, or pickled. Raises `CheckpointError` for one that is damaged, and what the reader raises.
    """
    api = HfApi(endpoint=endpoint, token=token)
    found: Shapes = {}
    for file in files:
        if not file.endswith(".safetensors"):
            remote = RemoteFile(hf_hub_url(name, file, revision=commit, endpoint=endpoint), token)
            if not remote.has_ranges:
                return {}
            found |= read_pickle(remote, f"{file} of {name}")
            continue
        try:
            header = api.parse_safetensors_file_metadata(name, file, revision=commit)
        except SafetensorsParsingError as error:
            raise CheckpointError(
                f"{file} of {name} cannot be read as safetensors ({first_line(error)}); it is damaged: choose "
                "another revision"
            ) from error
        found |= {tensor: tuple(facts.shape) for tensor, facts in header.tensors.items()}
    return found


class RemoteFile:
    """A file of a hub as `zipfile` and `pickletools` want one; a piece of it is fetched when it is first read.

    Making one asks for the first piece. has_ranges: the hub sends parts of files; without, nothing can be read.
    Raises what the library raises for what the hub answers, and `CheckpointError` once too much was read.
    """

    def __init__(self, url: str, token: bool | None) -> None:
        self._url = url
        self._headers = build_hf_headers(token=token, library_name="nerve")
        self._pieces: dict[int, bytes] = {}
        self._size = 0
        self._at = 0
        self.has_ranges = self._fetch(0)

    def seekable(self) -> bool:
        """Tell that places can be chosen."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Choose a place, as files do."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes; fewer at the end."""
        end = self._size if n_bytes < 0 else min(self._size, self._at + n_bytes)
        found = bytearray()
        while self._at < end:
            number, start = divmod(self._at, _PIECE)
            part = self._piece(number)[start : start + end - self._at]
            if not part:
                raise CheckpointError(f"{self._url} is shorter than the hub says; try again later")
            found += part
            self._at += len(part)
        return bytes(found)

    def readline(self) -> bytes:
        """Return the bytes up to the next line feed, with it."""
        found = bytearray()
        while self._at < self._size and not found.endswith(b"\n"):
            number, start = divmod(self._at, _PIECE)
            piece = self._piece(number)
            end = piece.find(b"\n", start)
            part = piece[start : len(piece) if end < 0 else end + 1]
            if not part:
                break
            found += part
            self._at += len(part)
        return bytes(found)

    def _piece(self, number: int) -> bytes:
        if number not in self._pieces:
            if len(self._pieces) * _PIECE >= _MOST_BYTES:
                raise CheckpointError(
                    f"{self._url} names its tensors in more than {_MOST_BYTES >> 20} MiB; do not use it"
                )
            self._fetch(number)
        return self._pieces[number]

    def _fetch(self, number: int) -> bool:
        """Fetch a piece; False where the hub would send the whole file instead."""
        start = number * _PIECE
        headers = {**self._headers, "Range": f"bytes={start}-{start + _PIECE - 1}"}
        with get_session().stream(
            "GET", self._url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True
        ) as response:
            hf_raise_for_status(response)
            _, _, size = response.headers.get("Content-Range", "").partition("/")
            if response.status_code != 206 or not size.isdecimal():
                return False
            self._size = int(size)
            self._pieces[number] = response.read()[:_PIECE]
        return True
