"""What several processes count together: nothing is lost or counted twice, however they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nerve.observability.shared_numbers import SharedNumbers

GAUGES = slice(1, 2)
# Counts 1 and sets the gauge to 1; ends when it is told to, or in the middle of a step.
PROCESS = """
import os, pathlib, sys
from nerve.observability import shared_numbers
folder, step = pathlib.Path(sys.argv[1]), sys.argv[2]
if step:
    real = getattr(pathlib.Path, step)

    def die(path, *arguments, **keywords):
        if step == "unlink":
            os._exit(1)
        result = real(path, *arguments, **keywords)
        if step == "rename" and arguments[0].name == "dead":
            os._exit(1)
        return result

    setattr(pathlib.Path, step, die)
numbers = shared_numbers.SharedNumbers(folder, 3, slice(1, 2))
numbers.own[0] += 1
numbers.own[1] = 1
print("ready", flush=True)
sys.stdin.read()
"""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start processes that count in a folder; `step`: where they die."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(step: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROCESS, str(tmp_path), step]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == (b"" if step else b"ready\n")
        return process

    yield begin
    for process in running:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process as the system would for want of memory."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def test_counts_of_the_dead_stay_and_their_gauges_do_not(tmp_path: Path, start: Start) -> None:
    """Before anybody has added them up, and afterwards."""
    mine = SharedNumbers(tmp_path, 3, GAUGES)
    mine.own[0], mine.own[1], mine.own[2] = 10, 1, 0.5
    first, second = start(), start()
    assert mine.total() == [12, 3, 0.5]
    kill(first)
    assert mine.total() == [12, 2, 0.5]
    start()
    assert mine.total() == [13, 3, 0.5]
    kill(second)
    assert mine.total() == [13, 2, 0.5]


def test_files_do_not_grow_with_the_dead(tmp_path: Path, start: Start) -> None:
    """However many have died: one file of each that lives, and those of the sum."""
    mine = SharedNumbers(tmp_path, 3, GAUGES)
    for _ in range(6):
        kill(start())
    start()
    assert mine.total()[:2] == [7, 1]
    assert len(list(tmp_path.iterdir())) <= 4


@pytest.mark.parametrize("step", ["unlink", "rename"])
def test_death_in_the_middle_of_adding_up_counts_nothing_twice(
    tmp_path: Path, start: Start, step: str
) -> None:
    """Between the two steps, the file that was added and the sum are both there."""
    mine = SharedNumbers(tmp_path, 3, GAUGES)
    kill(start())
    kill(start())
    start(step).wait()
    assert mine.total()[0] == 2
    start()
    assert mine.total()[:2] == [3, 1]


def test_stopped_process_holds_nobody_up(tmp_path: Path, start: Start) -> None:
    """It lives, and is read without it."""
    mine = SharedNumbers(tmp_path, 3, GAUGES)
    stopped = start()
    os.kill(stopped.pid, signal.SIGSTOP)
    assert mine.total()[:2] == [1, 1]
    start()
    assert mine.total()[:2] == [2, 2]


def test_reader_never_sees_a_count_go_back(tmp_path: Path, start: Start) -> None:
    """While files come and go."""
    mine = SharedNumbers(tmp_path, 3, GAUGES)
    seen: list[float] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.append(mine.total()[0])
            time.sleep(0.0005)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        kill(start())
    ended.set()
    reader.join()
    assert seen == sorted(seen)
    assert mine.total()[0] == 5


def test_folder_that_was_cleaned_up_leaves_the_own_numbers(tmp_path: Path) -> None:
    """By a tool that empties /tmp, say."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    mine = SharedNumbers(folder, 3, GAUGES)
    mine.own[0] = 2
    shutil.rmtree(folder)
    assert mine.total() == [2, 0, 0]
