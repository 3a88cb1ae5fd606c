"""Entry point of the `nerve` command."""

from __future__ import annotations

import os
import signal
import sys


def run() -> None:
    """Run one command and end the process with its status; 130 wherever it is interrupted."""
    _open_standard_files()
    try:
        from nerve.cli import main  # noqa: PLC0415 - takes a while, in which somebody may press Ctrl-C

        status = main()
    except KeyboardInterrupt:  # or while a first one was seen to
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a traceback out of what is left to do would help nobody
    sys.exit(status)


def _open_standard_files() -> None:
    """Open /dev/null in place of standard files that are closed (`2>&-`): else a socket takes the number of one."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    run()
