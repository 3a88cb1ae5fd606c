"""When a lone call may use all cores."""

from __future__ import annotations

import random

import pytest

from nerve.scheduling.measured import Spreading


def meet(spreading: Spreading, share: float, n_requests: int = 2000) -> list[bool]:
    """Let a share of the requests find a call; returns what was said after each."""
    rng = random.Random(5)
    said = []
    for _ in range(n_requests):
        spreading.note_arrival(is_running=rng.random() < share)
        said.append(spreading.is_worthwhile)
    return said


def test_a_lone_client_gets_all_cores() -> None:
    """It sends again when it has its answer, so it never finds a call; nor does the first request of all."""
    spreading = Spreading(is_possible=True)
    assert spreading.is_worthwhile
    assert all(meet(spreading, 0.0))


@pytest.mark.parametrize(("share", "expected"), [(0.5, True), (0.95, False)])
def test_share_of_those_who_find_a_call_decides(share: float, expected: bool) -> None:
    """Chance alone does not change what is said."""
    said = meet(Spreading(is_possible=True), share)
    assert set(said[500:]) == {expected}


def test_calm_after_a_crowd() -> None:
    """A few dozen requests that find nothing are enough."""
    spreading = Spreading(is_possible=True)
    assert not meet(spreading, 1.0)[-1]
    assert meet(spreading, 0.0, n_requests=30)[-1]


def test_one_core_cannot_be_spread_over() -> None:
    """Whatever comes."""
    assert not any(meet(Spreading(is_possible=False), 0.0))
