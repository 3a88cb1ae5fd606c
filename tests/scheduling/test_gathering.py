"""When a thread may wait for clients that it has just answered."""

from __future__ import annotations

import pytest

from nerve.scheduling.measured import Gathering

CALL_SECONDS = 0.02  # of a call, of which a tenth may be waited


def answer(gathering: Gathering, n_windows: int, now: float = 0.0) -> None:
    """Answer and send."""
    gathering.note_answers(now, n_windows, CALL_SECONDS)
    gathering.note_sent(now)


def wait_in_vain(gathering: Gathering, n_times: int) -> None:
    """Expect two windows of which none comes."""
    for _ in range(n_times):
        while not gathering.expected(0.0):
            answer(gathering, 2)
        gathering.note_wait(2, came=False)


def test_the_answered_are_expected_for_a_tenth_of_the_call() -> None:
    """Later they count as clients that do not come again."""
    gathering = Gathering()
    answer(gathering, 3, now=5.0)
    assert gathering.expected(5.0019) == 3
    assert gathering.seconds_left(5.0015) == pytest.approx(0.0005)
    assert gathering.expected(5.0021) == 0
    assert gathering.seconds_left(5.0021) == 0


def test_who_came_is_not_expected_any_more() -> None:
    """Others may come as well: the count does not fall below zero."""
    gathering = Gathering()
    answer(gathering, 3)
    gathering.note_arrival(2)
    assert gathering.expected(0.001) == 1
    gathering.note_arrival(5)
    assert gathering.expected(0.001) == 0


def test_while_answers_are_sent_the_first_may_come_already() -> None:
    """However long the sending takes, up to 10 ms; the wait counts from its end."""
    gathering = Gathering()
    gathering.note_answers(0.0, 4, CALL_SECONDS)
    assert gathering.expected(0.009) == 4
    assert gathering.expected(0.011) == 0
    gathering.note_arrival(1)
    gathering.note_sent(0.005)
    assert gathering.expected(0.0069) == 3
    assert gathering.expected(0.0071) == 0


def test_answers_of_two_threads_add_up() -> None:
    """Those of an earlier time do not."""
    gathering = Gathering()
    answer(gathering, 3, now=0.0)
    gathering.note_answers(0.001, 2, CALL_SECONDS)
    assert gathering.expected(0.001) == 5
    answer(gathering, 1, now=1.0)  # the others never came
    assert gathering.expected(1.0) == 1


@pytest.mark.parametrize("call_seconds", [0.00001, 0.0019])
def test_nobody_waits_after_a_short_call(call_seconds: float) -> None:
    """Below 0.2 ms a wait is not worth its wake-up."""
    gathering = Gathering()
    gathering.note_answers(0.0, 4, call_seconds)
    assert gathering.expected(0.0) == 0


def test_a_long_call_earns_two_milliseconds() -> None:
    """Who is not back by then is not about to come."""
    gathering = Gathering()
    gathering.note_answers(0.0, 4, 3.0)
    gathering.note_sent(0.0)
    assert (gathering.expected(0.0019), gathering.expected(0.0021)) == (4, 0)


def test_waits_in_vain_become_rare() -> None:
    """After four of them every seventeenth call is followed by one."""
    gathering = Gathering()
    wait_in_vain(gathering, 4)
    expected = []
    for _ in range(3 * 17):
        answer(gathering, 2)
        expected.append(gathering.expected(0.0))
        if expected[-1]:
            gathering.note_wait(2, came=False)
    assert [index for index, n in enumerate(expected) if n] == [16, 33, 50]


def test_clients_that_come_again_are_waited_for_again() -> None:
    """Four waits, each after sixteen calls, make them likely; then each call is followed by one."""
    gathering = Gathering()
    wait_in_vain(gathering, 30)
    n_calls = 0
    for _ in range(4):
        gathering.note_answers(0.0, 2, CALL_SECONDS)
        while not gathering.expected(0.0):
            n_calls += 1
            gathering.note_answers(0.0, 2, CALL_SECONDS)
        gathering.note_arrival(2)
        gathering.note_wait(2, came=True)
    assert n_calls == 4 * 16
    answer(gathering, 2)
    assert gathering.expected(0.0) == 2


def test_a_wait_for_most_of_them_was_worth_it() -> None:
    """Three of four come each time: they stay likely, although the wait was never over early."""
    gathering = Gathering()
    for _ in range(50):
        answer(gathering, 4)
        assert gathering.expected(0.0) == 4
        gathering.note_arrival(3)
        gathering.note_wait(4, came=False)
        assert gathering.expected(0.0) == 0  # the fourth is not waited for a second time
