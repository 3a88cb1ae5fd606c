"""Progress of long work: bars on terminals of any width, lines in the log elsewhere, nothing for what is short."""

import io
import logging
import re
import threading
import time

import pytest
from rich.console import Console
from rich.live import _RefreshThread

from nerve.observability import PROGRESS_LOGGER
from nerve.observability import progress as module
from nerve.observability.progress import Unit, progress, time_progress


class Screen:
    """A terminal of a given width that remembers what was drawn."""

    def __init__(self, width: int) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=True, width=width, color_system=None)

    @property
    def drawings(self) -> list[str]:
        """Everything that was drawn, one string for each line of each drawing."""
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.file.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]+", shown) if line.strip()]

    def wait_for(self, text: str) -> None:
        """Wait until that was drawn; fails after 30 s."""
        ends = time.monotonic() + 30
        while not any(text in line for line in self.drawings):
            assert time.monotonic() < ends, self.drawings[-3:]
            time.sleep(0.02)


def wait_for_threads() -> None:
    """Wait until no timer and no bar runs any more; fails after 30 s."""
    ends = time.monotonic() + 30
    while running := [t for t in threading.enumerate() if isinstance(t, threading.Timer | _RefreshThread)]:
        assert time.monotonic() < ends, running
        time.sleep(0.02)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars and lines that do not wait."""
    monkeypatch.setattr(module, "_BAR_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(module, "_LINES_AFTER_SECONDS", (0.0,))


def test_short_work_shows_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done before its time has come draws no bar and writes no line, and its timer is gone with it."""
    monkeypatch.setattr(
        module, "_BAR_AFTER_SECONDS", 60.0
    )  # as good as a second, but on a machine that stands still
    caplog.set_level(logging.INFO, PROGRESS_LOGGER)
    screen = Screen(80)
    with (
        progress("texts", 2, show=True, console=screen.console) as drawn,
        progress("texts", 2, show=False) as told,
    ):
        drawn.advance()
        told.advance()
    wait_for_threads()
    assert (screen.file.getvalue(), caplog.messages) == ("", [])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
@pytest.mark.parametrize(
    ("unit", "total", "shown"), [(Unit.ITEMS, 40, "10/40"), (Unit.BYTES, 4e9, "1.0/4.0 GB")]
)
def test_a_bar_fits_its_terminal(width: int, unit: Unit, total: float, shown: str) -> None:
    """Title, bar, amount and clock stand in one line, the numbers always whole from 30 columns on."""
    screen = Screen(width)
    with progress("文書 of a name that is long", total, unit, show=True, console=screen.console) as task:
        task.advance(total / 4)
        screen.wait_for(shown if width >= 30 else ":")
    assert all(Console(width=width).measure(line).maximum <= width for line in screen.drawings)


@pytest.mark.usefixtures("at_once")
def test_a_total_that_is_learnt_later() -> None:
    """Without a total the time since the beginning is shown; with one the time that is left."""
    screen = Screen(80)
    with progress("wheel", unit=Unit.BYTES, show=True, console=screen.console) as task:
        screen.wait_for("0:00:0")
        task.move_to(15e6, 15e6)
        screen.wait_for("15.0/15.0 MB")


@pytest.mark.usefixtures("at_once")
def test_lines_say_how_far_it_is(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is drawn, lines have the amount, its share and the time left; they come ever more seldom."""
    caplog.set_level(logging.INFO, PROGRESS_LOGGER)
    monkeypatch.setattr(module, "_LINES_EVERY_SECONDS", 3600.0)
    with progress("rows", 5000, show=False) as task:
        for _ in range(1250):
            task.advance(4)
    with progress("rows", show=False) as task:
        task.advance(7)
    first, second = caplog.messages
    assert re.fullmatch(r"rows: 4 of 5,000, 0%, \d+:\d\d:\d\d left", first)
    assert re.fullmatch(r"rows: 7 in 0:00:\d\d", second)


@pytest.mark.usefixtures("at_once")
def test_what_an_earlier_try_did_tells_nothing_of_the_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time left goes by what this try has done: one in a second means a minute and a half for the rest."""
    caplog.set_level(logging.INFO, PROGRESS_LOGGER)
    monkeypatch.setattr(module, "_LINES_EVERY_SECONDS", 0.0)
    with progress("rows", 1000, show=False) as task:
        task.pass_over(900)
        time.sleep(1)
        task.advance(1)
    before, after = caplog.messages
    assert before == "rows: 900 of 1,000, 90%"
    assert 95 <= seconds_left(after) <= 300


def seconds_left(line: str) -> int:
    """Read `..., 0:01:39 left`."""
    found = re.fullmatch(r".*, (\d+):(\d\d):(\d\d) left", line)
    assert found is not None, line
    hours, minutes, seconds = map(int, found.groups())
    return 3600 * hours + 60 * minutes + seconds


@pytest.mark.usefixtures("at_once")
def test_bytes_in_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Lines about a download have units that people read."""
    caplog.set_level(logging.INFO, PROGRESS_LOGGER)
    with progress("model", unit=Unit.BYTES, show=False) as task:
        task.move_to(1_500_000, 6_000_000)
    assert caplog.messages[0].startswith("model: 1.5 MB of 6.0 MB, 25%, 0:00:0")


@pytest.mark.usefixtures("at_once")
def test_a_time_is_filled() -> None:
    """A bar over a given time names what is done, and what is done next."""
    screen = Screen(60)
    with time_progress(90, show=True, console=screen.console) as report:
        report("as configured")
        screen.wait_for("of 90 s as configured")
        report("workers: 2")
        screen.wait_for("of 90 s workers: 2")


def test_steps_without_a_terminal_are_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no bar can be drawn each step is a line, but none of what ends at once."""
    caplog.set_level(logging.INFO, PROGRESS_LOGGER)
    with time_progress(90, show=False) as report:
        report("the checkpoint")
    monkeypatch.setattr(module, "_LINES_AFTER_SECONDS", (0.0,))
    with time_progress(90, show=False) as report:
        report("as configured")
    assert caplog.messages == ["as configured"]


@pytest.mark.usefixtures("at_once")
def test_a_failure_leaves_no_bar_running() -> None:
    """The block may raise; its bar and its thread end with it."""
    screen = Screen(80)

    def fail() -> None:
        with progress("rows", 3, show=True, console=screen.console):
            screen.wait_for("0/3")
            raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        fail()
    wait_for_threads()
