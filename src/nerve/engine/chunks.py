"""Cuts an iterable of texts, which may be endless, into chunks that are tokenized in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Most texts, and about most characters, of a chunk.
_CHUNK_TEXTS = 32
_CHUNK_CHARACTERS = 16_000


def chunks_of(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Cut an iterable into chunks, each with the index of its first text.

    What `texts` raises is raised after the texts before it were yielded.
    """
    chunk: list[str] = []
    first = n_characters = 0
    failure: Exception | None = None
    iterator = iter(texts)
    while True:
        try:
            text = check_text(first + len(chunk), next(iterator))
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001 - raised below, after the texts before it
            failure = error
            break
        chunk.append(text)
        n_characters += len(text)
        if len(chunk) >= _CHUNK_TEXTS or n_characters >= _CHUNK_CHARACTERS:
            yield first, chunk
            first += len(chunk)
            chunk, n_characters = [], 0
    if chunk:
        yield first, chunk
    if failure is not None:
        raise failure


def check_text(index: int, text: object) -> str:
    """Return a text. Raises `InvalidRequest` for what is none."""
    if not isinstance(text, str):
        raise InvalidRequest(f"texts[{index}]: a text must be a str, not {type(text).__name__}")
    return text
