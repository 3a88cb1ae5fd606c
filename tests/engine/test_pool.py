"""Work that is done beside other requests: where it ends, what is refused, and what is dropped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from nerve.engine.pool import Pool
from nerve.errors import Overloaded

PATIENCE = 20.0  # seconds after which a test gives up


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Open a pool; it is closed at the end."""
    opened = Pool()
    yield opened
    opened.close()


def test_result_goes_on_and_an_error_too(pool: Pool) -> None:
    """Each on the thread that did the work."""
    told: queue.SimpleQueue[tuple[object, int]] = queue.SimpleQueue()

    def tell(what: object) -> None:
        told.put((what, threading.get_ident()))

    pool.run(threading.get_ident, tell, tell)
    worker, teller = told.get(timeout=PATIENCE)
    assert worker == teller != threading.get_ident()
    error = KeyError("x")

    def fail() -> None:
        raise error

    pool.run(fail, tell, tell)
    assert told.get(timeout=PATIENCE)[0] is error


def test_too_much_that_waits_refuses_more(pool: Pool) -> None:
    """Only `check` says so: work on what was admitted is taken all the same, and room comes back."""
    gate = threading.Event()
    done = threading.Semaphore(0)
    futures = []
    for _ in range(64):
        pool.check()
        futures.append(pool.run(lambda: gate.wait(PATIENCE), lambda _: done.release(), pytest.fail))
    with pytest.raises(Overloaded) as refused:
        pool.check()
    assert refused.value.reason == "pool"
    assert pool.run(lambda: None, lambda _: done.release(), pytest.fail) is not None
    for future in futures[-2:]:
        assert future is not None
        assert future.cancel()
    pool.check()
    gate.set()
    for _ in range(63):
        assert done.acquire(timeout=PATIENCE)
    pool.close()
    assert pool._n_waiting == 0
    assert not done.acquire(blocking=False)  # what was cancelled did not run


def test_closed_pool_does_the_work_at_once(pool: Pool) -> None:
    """What was admitted is answered, on the thread that brings it."""
    pool.close()
    told: list[object] = []
    assert pool.run(threading.get_ident, told.append, told.append) is None
    assert told == [threading.get_ident()]


def test_defect_of_whoever_goes_on_is_logged(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Without its message, which could hold a text; the next work is done."""
    told: queue.SimpleQueue[int] = queue.SimpleQueue()

    def go_on(text: str) -> None:
        raise RuntimeError(text)

    pool.run(lambda: "secret", go_on, pytest.fail)
    pool.run(lambda: 2, told.put, pytest.fail)
    assert told.get(timeout=PATIENCE) == 2
    pool.close()
    assert "a defect on the thread pool: RuntimeError" in caplog.text
    assert "secret" not in caplog.text
