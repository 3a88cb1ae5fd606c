"""The server process's side of the process that runs the model: starts it, replaces it, ends it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from nerve.config import environment_without_secrets
from nerve.errors import StartupError
from nerve.runtime.devices import choose_provider
from nerve.server.engine_process import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.checkpoint import ModelFolder
    from nerve.config import Config

log = logging.getLogger(__name__)

# A process that could not start is followed by the next one after 0.5, 1, 2, ... s; after so many in a row that were
# never ready the server ends.
_MOST_FAILURES = 5
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# From the end of the last worker to the end of that process.
_END_SECONDS = 10.0
_BACKLOG = 128


def needs_engine_process(config: Config) -> bool:
    """Tell whether several workers share one process that owns their device; on Linux only. Raises `ModelError`."""
    if config.server.workers == 1 or sys.platform != "linux":
        return False
    return choose_provider(config.model.device, config.model.device_id).has_one_owner


class EngineHost:
    """Keeps a process that runs the model while the server lives.

    routes: what requests are counted by. metrics_dir: where all processes keep their numbers.
    on_failure: called, on a thread, when no such process can start.
    path: socket that fronts connect to; it outlives the process, so they wait there for the next one.
    Raises `StartupError`.
    """

    def __init__(
        self,
        config: Config,
        folder: ModelFolder,
        routes: Sequence[tuple[str, str]],
        metrics_dir: Path,
        on_failure: Callable[[], None],
    ) -> None:
        self._config = structs.replace(config, server=structs.replace(config.server, workers=1))
        self._folder = folder
        self._routes = [(endpoint, route) for endpoint, route in routes]
        self._metrics_dir = metrics_dir
        self._on_failure = on_failure
        self._is_ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._private = Path(tempfile.mkdtemp(prefix="nerve-engine-"))  # for this user only
            self.path = self._private / "socket"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen(_BACKLOG)
        except OSError as error:
            raise StartupError(
                f"server.workers above 1 need a folder for temporary files: {error}; set TMPDIR to one"
            ) from error
        self._thread = threading.Thread(target=self._keep, name="nerve-engine-host", daemon=True)

    def start(self) -> None:
        """Start the process, and replace it whenever it ends."""
        self._thread.start()

    def close(self) -> None:
        """End the process, if there is one; the workers have ended. Blocks."""
        self._is_ending.set()
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()
        shutil.rmtree(self._private, ignore_errors=True)

    def _keep(self) -> None:
        n_failures = 0
        while not self._is_ending.is_set():
            was_ready, status = self._run()
            if self._is_ending.is_set():
                return
            n_failures = 0 if was_ready else n_failures + 1
            log.error("the process that runs the model has ended with status %d", status)
            if n_failures >= _MOST_FAILURES or (n_failures and not self._was_ever_ready):
                self._on_failure()
                return
            if n_failures:
                self._is_ending.wait(
                    min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (n_failures - 1))
                )

    _was_ever_ready = False

    def _run(self) -> tuple[bool, int]:
        """Run one process to its end; returns whether it was ready, and its status."""
        ready, tell = os.pipe()
        try:
            order = msgspec.json.encode(
                Order(
                    self._config,
                    str(self._folder.path),
                    self._folder.model_id,
                    self._folder.revision,
                    self._folder.files,
                    self._listener.fileno(),
                    tell,
                    self._routes,
                    str(self._metrics_dir),
                )
            )
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "nerve.server.engine_process"],
                stdin=subprocess.PIPE,
                env=environment_without_secrets(),
                pass_fds=[self._listener.fileno(), tell],
            )
            self._process = process
        except OSError as error:
            log.critical("cannot start the process that runs the model: %s", error)
            os.close(ready)
            return False, 1
        finally:
            os.close(tell)
        if process.stdin is not None:
            try:
                process.stdin.write(order + b"\n")
                process.stdin.flush()
            except OSError:  # it has ended already, and said why
                log.debug("the process that runs the model has not read its order")
        if self._is_ending.is_set() and process.stdin is not None:
            process.stdin.close()
        was_ready = os.read(ready, 1) == b"r"
        os.close(ready)
        self._was_ever_ready |= was_ready
        if was_ready:
            log.info("the model is loaded in process %d", process.pid)
        return was_ready, process.wait()
