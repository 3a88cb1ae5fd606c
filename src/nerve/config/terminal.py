"""What a terminal's user wants by variables that all programs heed."""

from __future__ import annotations

import os
import shlex
import shutil

# As git has it: colours pass, the text stays on the screen, and what fits on one needs no key to go on.
_LESS = "FRX"


def pager() -> tuple[list[str], dict[str, str]] | None:
    """Return the command of `PAGER`, else of less, with its environment; None where none is there, or wanted."""
    named = os.environ.get("PAGER")
    command = ["less"] if named is None else shlex.split(named)
    if not command or command == ["cat"] or shutil.which(command[0]) is None:
        return None
    return command, {"LESS": _LESS, **os.environ}
