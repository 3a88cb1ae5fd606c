"""Keeps what a backend makes of a graph when it opens it, beside the graph in the cache.

An entry is a folder `prepared-<hardware>` in the entry of the graph, made and checked as that one is (`cache`). Where
none can be written, or the backend finds that it does not compute the same, the graph itself is used.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.checkpoint.storage import draft_beside
from nerve.errors import ModelError
from nerve.graph import cache
from nerve.runtime.memory import give_back_free_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.runtime.backend import Preparation

log = logging.getLogger(__name__)


def is_prepared(n_bytes: int, preparation: Preparation | None) -> bool:
    """Foresee whether sessions will share a graph that is built, with weights of so many bytes."""
    return n_bytes >= cache.LARGE_BYTES and preparation is not None and preparation.hardware() is not None


def load_or_prepare(
    entry: Path, preparation: Preparation | None, load_graph: Callable[[], bytes | Path]
) -> tuple[bytes | Path, bool]:
    """Return a graph as the backend wants it, and whether sessions share what it holds.

    entry: of the graph. preparation: None where there is nothing to prepare. load_graph: called where nothing is
    prepared yet; a small graph (bytes) stays as it is.
    """
    hardware = preparation.hardware() if preparation is not None else None
    if preparation is None or hardware is None:
        return load_graph(), False
    place = entry / f"prepared-{hardware}"
    found = cache.load(place) if entry.is_dir() else None
    if found is not None:
        return found, True
    graph = load_graph()
    give_back_free_memory()  # of the build, before the next large thing is made
    if not isinstance(graph, Path):
        return graph, False
    try:
        with draft_beside(place) as draft:
            if preparation.write(graph, draft):
                return cache.keep(draft, place), True
            log.warning("the prepared graph computes something else; each session prepares its own")
    except (
        OSError,
        ModelError,
    ) as error:  # a full disk is met by the runtime, which has a word of its own for it
        log.warning("the graph cannot be prepared once for all sessions: %s: %s", place, error)
    return graph, False
