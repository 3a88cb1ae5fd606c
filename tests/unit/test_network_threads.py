"""Network threads step back while the server's own thread makes all answers."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from nerve.network_threads import _MANY_ANSWERS, NetworkThreads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such class")


class Threads:
    """Some threads that wait."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.threads = [threading.Thread(target=self.end.wait) for _ in range(2)]

    def start(self) -> None:
        """Start all."""
        for thread in self.threads:
            thread.start()

    def policies(self) -> set[int]:
        """Return the scheduling classes that they have."""
        return {os.sched_getscheduler(thread.native_id or 0) for thread in self.threads}


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Give threads, and end them."""
    threads = Threads()
    yield threads
    threads.end.set()
    for thread in threads.threads:
        thread.join()


def note_many(network: NetworkThreads) -> None:
    """Take note of just enough predictions."""
    for _ in range(_MANY_ANSWERS):
        network.note_prediction(is_own=True)


def test_they_step_back_after_many_answers_and_return_after_one(threads: Threads) -> None:
    """One answer that another thread made is enough."""
    network = NetworkThreads()
    network.start(threads.start)
    for _ in range(2):
        note_many(network)
        assert threads.policies() == {os.SCHED_BATCH}
        assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER
        network.note_prediction(is_own=False)
        assert threads.policies() == {os.SCHED_OTHER}


def test_answers_of_other_threads_between_keep_them(threads: Threads) -> None:
    """The answers must come in a row."""
    network = NetworkThreads()
    network.start(threads.start)
    for _ in range(3):
        for _ in range(_MANY_ANSWERS - 1):
            network.note_prediction(is_own=True)
        network.note_prediction(is_own=False)
    assert threads.policies() == {os.SCHED_OTHER}


def test_they_do_not_step_back_while_a_request_waits(threads: Threads) -> None:
    """It waits for threads that compute."""
    network = NetworkThreads()
    network.start(threads.start)
    note_many(network)
    network.begin_wait("long")
    assert threads.policies() == {os.SCHED_OTHER}
    note_many(network)
    network.end_wait("another")
    assert threads.policies() == {os.SCHED_OTHER}
    network.end_wait("long")
    note_many(network)
    assert threads.policies() == {os.SCHED_BATCH}


def test_a_class_that_was_chosen_stays(threads: Threads) -> None:
    """Whoever starts the server may give it one."""
    network = NetworkThreads()

    def start() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        network.start(threads.start)

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    note_many(network)
    network.note_prediction(is_own=False)
    assert threads.policies() == {os.SCHED_BATCH}


def test_the_thread_that_makes_the_answers_is_left_alone() -> None:
    """Granian may have started it together with the others."""
    network = NetworkThreads()
    start, seen = threading.Event(), []

    def work() -> None:
        start.wait()
        note_many(network)
        seen.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    network.start(thread.start)
    start.set()
    thread.join()
    assert seen == [os.SCHED_OTHER]


def test_a_thread_that_has_ended_does_no_harm(threads: Threads) -> None:
    """The others step back all the same."""
    network = NetworkThreads()
    ended = threading.Event()
    gone = threading.Thread(target=ended.wait)

    def start() -> None:
        gone.start()
        threads.start()

    network.start(start)
    ended.set()
    gone.join()
    note_many(network)
    assert threads.policies() == {os.SCHED_BATCH}
