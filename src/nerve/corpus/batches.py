"""Sends texts in batches to several places at once, and yields the answers in order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """A batch that has been sent."""

    def result(self) -> T_co:
        """Wait for its answer. Raises what went wrong."""

    def cancel(self) -> object:
        """Say that nobody waits any more."""


def batches_of(texts: Iterable[str], most_texts: int, most_characters: int) -> Iterator[list[str]]:
    """Cut texts into batches; a text above `most_characters` ends its batch. What `texts` raises comes after them."""
    batch: list[str] = []
    n_characters = 0
    failure: Exception | None = None
    iterator = iter(texts)
    while True:
        try:
            text = next(iterator)
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001 - raised below, after the texts before it
            failure = error
            break
        batch.append(text)
        n_characters += len(text)
        if len(batch) >= most_texts or n_characters >= most_characters:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch
    if failure is not None:
        raise failure


def in_order(
    batches: Iterable[list[str]],
    send: Callable[[list[str]], Pending[list[T_co]]],
    ahead: Callable[[], int],
) -> Generator[T_co, None, None]:
    """Yield the answers of all batches, in order; ahead: how many may be on their way, asked each time."""
    pending: deque[Pending[list[T_co]]] = deque()
    remaining = iter(batches)
    failure: Exception | None = None
    try:
        while True:
            while failure is None and len(pending) < ahead():
                try:
                    pending.append(send(next(remaining)))
                except Exception as error:  # noqa: BLE001 - raised below, after the answers before it
                    failure = error
            if not pending:
                break
            yield from pending.popleft().result()
    finally:
        for left in pending:
            left.cancel()
    if failure is not None and not isinstance(failure, StopIteration):
        raise failure
