"""Answers an iterable of texts, which may be endless, and texts of any length, for programs: in bounded memory.

Chunks of texts, and sections of long ones, are submitted some way ahead of the one whose rows are made.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from nerve.engine.chunks import chunks_of
from nerve.engine.in_process import (
    Submitted,
    SubmittedSection,
    collect,
    collect_section,
    submit,
    submit_long,
)
from nerve.errors import ClientGone, InvalidRequest
from nerve.text.pieces import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nerve.engine.engine import Engine
    from nerve.types import PredictOptions, Row

T = TypeVar("T")


def stream_rows(
    engine: Engine,
    texts: Iterable[str],
    options: PredictOptions,
    tokens_ahead: int,
    *,
    any_length: bool,
    check: Callable[[], None] = lambda: None,
) -> Iterator[list[Row]]:
    """Yield the rows of each text, reading `texts` a bounded distance ahead; drop what is submitted when nobody reads.

    options: complete. tokens_ahead: submitted before rows are made. any_length: long texts have no limit, but those
    that are truncated. check: called now and then while a long text is worked; what it raises ends all.
    Raises `PredictError`s after the rows of the texts before.
    """
    parts = _parts(engine, texts, options, any_length=any_length, check=check)
    submitted: deque[Submitted | SubmittedSection] = deque()
    n_tokens = 0
    failure: Exception | None = None
    try:
        while True:
            while failure is None and n_tokens < tokens_ahead:
                try:
                    part = next(parts)
                except Exception as error:  # noqa: BLE001 - raised below, after the rows before it
                    failure = error
                else:
                    submitted.append(part)
                    n_tokens += part.job.n_tokens
            if not submitted:
                break
            oldest = submitted.popleft()
            n_tokens -= oldest.job.n_tokens
            if isinstance(oldest, Submitted):
                yield from collect(engine, oldest).rows
            elif (rows := collect_section(engine, oldest, check)) is not None:
                yield rows
    finally:
        for part in submitted:
            engine.cancel(part.job)
    if failure is not None and not isinstance(failure, StopIteration):
        raise failure


async def in_thread(work: Callable[[Callable[[], None]], T]) -> T:
    """Do work on a thread of its own; `work` gets a check that raises when nobody waits for it any more."""
    is_left = threading.Event()

    def check() -> None:
        if is_left.is_set():
            raise ClientGone("nobody waits for it any more")

    try:
        return await asyncio.to_thread(work, check)
    finally:
        is_left.set()


def _parts(
    engine: Engine,
    texts: Iterable[str],
    options: PredictOptions,
    *,
    any_length: bool,
    check: Callable[[], None],
) -> Iterator[Submitted | SubmittedSection]:
    """Submit chunks of texts, and long texts section by section."""
    for first, chunk in chunks_of(texts):
        *short, last = chunk
        if options.truncate or not any_length or len(last) <= LONG:
            yield from _submit(engine, first, chunk, options)
            continue
        if short:
            yield from _submit(engine, first, short, options)
        index = first + len(short)
        try:
            yield from submit_long(engine, index, last, options, check)
        except InvalidRequest as error:
            raise _in_texts(index, error) from None


def _submit(engine: Engine, first: int, chunk: list[str], options: PredictOptions) -> Iterator[Submitted]:
    """Submit a chunk whole; when one of its texts is refused, all those before it, then raise."""
    try:
        yield submit(engine, chunk, options)
    except InvalidRequest:
        for index, text in enumerate(chunk, first):
            try:
                yield submit(engine, [text], options)
            except InvalidRequest as error:
                raise _in_texts(index, error) from None


def _in_texts(index: int, error: InvalidRequest) -> InvalidRequest:
    """Return an error about one text with the index that the caller knows."""
    return (
        error.at(f"texts[{index}]")
        if error.index is not None
        else InvalidRequest(f"texts[{index}]: {str(error).partition(': ')[2]}")
    )
