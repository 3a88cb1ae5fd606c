"""Tells whether the hub can be reached, and what is used of it: for `nerve doctor`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_session, get_token

from nerve.checkpoint.hub_errors import first_line

_LEAST_FAILURE = 500


@dataclass(frozen=True, slots=True)
class Reach:
    """The hub that HF_ENDPOINT names, or the public one.

    cache: folder of the library. seconds: until it answered; None where it did not, and `problem` says why.
    """

    endpoint: str
    cache: Path
    has_token: bool
    seconds: float | None = None
    problem: str | None = None


def reach_hub(timeout: float) -> Reach:
    """Ask the hub for anything at all, for at most `timeout` seconds. Never raises for what a network does."""
    endpoint, cache = constants.ENDPOINT, Path(constants.HF_HUB_CACHE)
    has_token = get_token() is not None
    if constants.HF_HUB_OFFLINE:
        return Reach(endpoint, cache, has_token, problem="HF_HUB_OFFLINE is set")
    found: list[float | str] = []
    # On a thread of its own: looking up a name may take far longer than any timeout says.
    asking = threading.Thread(target=lambda: found.append(_ask(endpoint, timeout)), daemon=True)
    asking.start()
    asking.join(timeout)
    answer = found[0] if found else f"no answer within {timeout:g} s"
    if isinstance(answer, str):
        return Reach(endpoint, cache, has_token, problem=answer)
    return Reach(endpoint, cache, has_token, seconds=answer)


@contextmanager
def hub_left_alone(known: Reach) -> Iterator[None]:
    """Let the library ask nobody during the block, where it is known that no answer would come.

    It would try again and again for half a minute.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or known.problem is not None
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _ask(endpoint: str, timeout: float) -> float | str:
    """Return the seconds until an answer, or why there is none. No token goes along."""
    begun = time.monotonic()
    try:
        status = get_session().head(f"{endpoint}/", timeout=timeout).status_code
    except Exception as error:  # noqa: BLE001 - the library's HTTP client differs between its versions
        return f"{type(error).__name__}: {first_line(error)}"
    return f"it answers {status}" if status >= _LEAST_FAILURE else time.monotonic() - begun
