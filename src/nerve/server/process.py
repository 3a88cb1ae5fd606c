"""What every process of the server does for itself: no core dump, and one line for why it cannot start."""

from __future__ import annotations

import sys

from nerve.errors import StartupError

# Linux takes this as "no core dump", neither into a file nor to a program (fs/coredump.c): memory holds texts.
_NO_CORE_DUMP_BYTES = 1


def explain(error: BaseException) -> str:
    """Say in one line why a process cannot start; nothing for a defect."""
    if isinstance(error, StartupError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; check that it is there and that this user may use it"
    if isinstance(error, MemoryError):
        return "there is not enough memory; give the process more, or choose a smaller model or fewer workers"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return "no more threads can be made; raise the limit of processes (ulimit -u, the container's pids limit)"
    return ""


def forbid_core_dumps() -> None:
    """Keep a crash of this process from writing its memory, where texts are, to a disk."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Unix only

        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        if most != 0:
            resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE_DUMP_BYTES, most))
