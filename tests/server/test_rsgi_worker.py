"""What Granian posts to the event loop is called by the thread that posts it."""

from __future__ import annotations

import threading

from nerve.server.rsgi_worker import _AtOnce


def test_a_callback_is_called_by_the_thread_that_posts_it() -> None:
    """Before the call returns, also while a callback runs on another thread."""
    at_once = _AtOnce()
    called: list[int] = []

    def first() -> None:
        thread = threading.Thread(target=at_once.call_soon, args=(lambda: called.append(2),))
        thread.start()
        thread.join()
        assert called == [2]
        called.append(1)

    at_once.call_soon_threadsafe(first)
    assert called == [2, 1]


def test_a_callback_posted_by_a_callback_is_called_after_it() -> None:
    """So that a body of a million chunks does not make a stack of a million frames."""
    at_once = _AtOnce()
    depth = deepest = n_called = 0

    def chunk() -> None:
        nonlocal depth, deepest, n_called
        depth += 1
        deepest = max(deepest, depth)
        n_called += 1
        if n_called < 10_000:
            at_once.call_soon(chunk)
        depth -= 1

    at_once.call_soon_threadsafe(chunk)
    assert (n_called, deepest) == (10_000, 1)
