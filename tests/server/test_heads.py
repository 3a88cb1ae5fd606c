"""Whose head takes too long: told from the times of the last bytes, and from the requests that are under way."""

from __future__ import annotations

from nerve.config import ServerConfig
from nerve.server.connections import Heads, Progress, keep_alive_seconds

PORT, INODE = 5000, 77


class Looks:
    """Looks at one connection, again and again; times are in seconds from its beginning."""

    def __init__(self, busy: set[int] | None = None, multiplexed: set[int] | None = None) -> None:
        self.busy = busy if busy is not None else set()
        self.multiplexed = multiplexed if multiplexed is not None else set()
        self.heads = Heads(30.0, lambda: self.busy, self.multiplexed)

    def is_late(self, now: float, sent: float, received: float, is_first: bool = False) -> bool:
        """Look at `now` at a connection whose last bytes went and came at these times."""
        self.heads.begin_look()
        progress = Progress(now - sent, now - received, 0, is_first)
        late = self.heads.is_late(INODE, PORT, progress, now)
        self.heads.end_look()
        return late


def test_connection_that_was_answered_last_is_idle() -> None:
    """However long ago; so is one on which nothing has happened yet."""
    looks = Looks()
    assert not looks.is_late(1000.0, sent=0.1, received=0.0)
    assert not looks.is_late(1000.0, sent=0.0, received=0.0)


def test_connection_whose_request_is_under_way_is_busy() -> None:
    """However long it is silent; one whose request was answered is not, from the next look on."""
    looks = Looks(busy={PORT})
    looks.heads.begin_look()
    assert looks.heads.is_busy(PORT)
    looks.busy = set()
    looks.heads.begin_look()
    assert not looks.heads.is_busy(PORT)


def test_head_that_stops_is_late_after_its_time() -> None:
    """Counted from its last byte where the watch has not seen it begin."""
    looks = Looks()
    assert not looks.is_late(129.0, sent=50.0, received=100.0)
    assert looks.is_late(130.0, sent=50.0, received=100.0)


def test_first_head_that_comes_with_its_connection_is_a_head() -> None:
    """The kernel's clock has not moved on between the two; nothing has ever been sent."""
    looks = Looks()
    assert not looks.is_late(129.0, sent=100.0, received=100.0, is_first=True)
    assert looks.is_late(130.0, sent=100.0, received=100.0, is_first=True)


def test_head_that_drips_is_late_all_the_same() -> None:
    """Counted from the first look at it."""
    looks = Looks()
    found = [looks.is_late(now, sent=50.0, received=now - 0.5) for now in (100.0, 110.0, 120.0, 129.0, 130.0)]
    assert found == [False, False, False, False, True]


def test_each_head_has_its_own_time() -> None:
    """An answer between two looks ends one and begins another."""
    looks = Looks()
    assert not looks.is_late(100.0, sent=50.0, received=99.0)
    assert not looks.is_late(125.0, sent=120.0, received=124.0)
    assert not looks.is_late(150.0, sent=120.0, received=149.0)
    assert looks.is_late(155.0, sent=120.0, received=154.0)


def test_request_under_way_is_no_head() -> None:
    """Whatever it takes."""
    looks = Looks(busy={PORT})
    assert not looks.is_late(1000.0, sent=50.0, received=100.0)
    looks.busy.clear()
    assert looks.is_late(1000.0, sent=50.0, received=100.0)


def test_http2_has_no_such_heads_and_its_clients_are_forgotten_when_they_leave() -> None:
    """The port may be another client's then."""
    looks = Looks(multiplexed={PORT, 6000})
    assert not looks.is_late(1000.0, sent=50.0, received=100.0)
    assert looks.multiplexed == {PORT}
    looks.heads.begin_look()
    looks.multiplexed.add(7000)  # it has come since the look began
    looks.heads.end_look()
    assert looks.multiplexed == {7000}


def test_connection_that_is_gone_is_forgotten() -> None:
    """Nothing is kept of those that were there once."""
    looks = Looks()
    looks.is_late(100.0, sent=50.0, received=99.0)
    looks.heads.begin_look()
    looks.heads.end_look()
    assert looks.heads._begun == {}


def test_idle_time_is_never_less_than_that_for_a_head() -> None:
    """Granian has one limit for both."""
    assert keep_alive_seconds(ServerConfig()) == 75
    assert keep_alive_seconds(ServerConfig(keep_alive_ms=1000)) == 30
    assert keep_alive_seconds(ServerConfig(client_timeout_ms=620_000)) == 620
