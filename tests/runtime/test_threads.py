import threading
import weakref

import pytest

from nerve.scheduling.threads import EngineThread


def test_everything_happens_on_one_thread_in_order() -> None:
    """What is called and what is posted runs on the same thread, one after the other."""
    thread = EngineThread("engine")
    seen: list[str] = []
    home = thread.call(threading.get_ident)
    thread.post(lambda: seen.append("posted"))
    assert thread.call(lambda: (seen.append("called"), threading.get_ident())[1]) == home
    assert thread.call(lambda: threading.current_thread().name) == "engine"
    assert home != threading.get_ident()
    assert seen == ["posted", "called"]
    thread.close()


def test_a_call_raises_what_its_work_raised() -> None:
    """A failure reaches the caller, and the thread goes on."""
    thread = EngineThread("engine")

    def fail() -> None:
        raise OSError("no device")

    with pytest.raises(OSError, match="no device"):
        thread.call(fail)
    assert thread.call(lambda: 1) == 1
    thread.close()


def test_what_was_done_is_let_go_of() -> None:
    """A thread that waits for its next work holds nothing of the last: it may be a client's text."""

    class Text:
        """What a request holds."""

    thread = EngineThread("engine")
    text, done = Text(), threading.Event()
    gone = weakref.ref(text)
    thread.post(lambda text=text: done.set())  # type: ignore[misc]
    del text
    assert done.wait(20)
    for _ in range(500):
        if gone() is None:
            break
        threading.Event().wait(0.01)
    assert gone() is None
    thread.close()


def test_closing_finishes_what_was_posted() -> None:
    """Nothing that was posted is lost."""
    thread = EngineThread("engine")
    gate = threading.Event()
    done: list[int] = []
    thread.post(lambda: gate.wait(20) and None)
    thread.post(lambda: done.append(1))
    gate.set()
    thread.close()
    assert done == [1]
