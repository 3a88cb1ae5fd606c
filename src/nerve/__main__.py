"""Entry point of the `nerve` command."""

from __future__ import annotations

import signal
import sys


def run() -> None:
    """Run one command and end the process with its status; 130 wherever it is interrupted."""
    try:
        from nerve.cli import main  # noqa: PLC0415 - takes a while, in which somebody may press Ctrl-C

        status = main()
    except KeyboardInterrupt:  # or while a first one was seen to
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a traceback out of what is left to do would help nobody
    sys.exit(status)


if __name__ == "__main__":
    run()
