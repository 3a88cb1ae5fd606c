"""The life of one worker process: load the model, become ready, drain, end.

At the first start a worker accepts connections at once and answers 503 until its model is loaded, so that
probes see it live. A worker that replaces another one loads first and accepts then: its siblings are
ready, and must get the requests meanwhile.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.channel.front import Link, Remote
from nerve.checkpoint import ModelFolder, fetch_checkpoint
from nerve.config import cache_dir_of, choose_config, load_api_key
from nerve.endpoints import create_endpoints
from nerve.errors import REASONS
from nerve.graph import build_check
from nerve.http.access_log import with_access_log
from nerve.http.app import App, answer_defects
from nerve.http.asgi import Application
from nerve.http.request import multiplexed_ports
from nerve.http.routing import routes_of
from nerve.models.front import load_front
from nerve.models.loader import load_model
from nerve.observability.defects import log_what_escapes
from nerve.observability.logs import configure_logging
from nerve.observability.metrics import Metrics
from nerve.server.connections import Heads, keep_alive_seconds, watch_connections
from nerve.server.process import explain, forbid_core_dumps
from nerve.server.signals import handle_signals

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from nerve.config import Config
    from nerve.http.request import Handler
    from nerve.models.model import Model

log = logging.getLogger(__name__)

# How long a thread may hold the interpreter lock against the others; Python's default is 5 ms.
_SWITCH_SECONDS = 0.0005

# Before a worker asks again for the process that runs the model, which has ended while it started.
_PAUSE_SECONDS = 0.1

# After the device has failed: time for the last answers to go out, and for probes to see readiness off.
_LAST_ANSWERS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Shared:
    """Facts that the server process and its workers tell each other.

    was_ready: some worker has been ready once.
    failed: a worker could not start, and the server must end.
    draining: the server is about to stop.
    settled: a worker has been replaced; from then on none waits for the others before it says that it is ready.
    ready: a pipe into which each worker writes its process id when it has become ready; without a lock, which a
        worker that is killed would keep.
    metrics_dir: folder in which the workers keep their metrics; None for one worker.
    engine: socket of the process that runs the model for all workers; None where each runs its own.
    """

    was_ready: Event
    failed: Event
    draining: Event
    settled: Event
    ready: Connection
    metrics_dir: Path | None
    engine: Path | None = None


class Worker:
    """Loads the model for an `App`, at the moment the server says."""

    def __init__(
        self, config: Config, api_key: str | None, folder: ModelFolder, shared: Shared | None = None
    ) -> None:
        forbid_core_dumps()
        endpoints = create_endpoints(config)
        metrics_dir = shared.metrics_dir if shared is not None else None
        metrics = Metrics(routes_of(endpoints), REASONS, metrics_dir)
        self.app = App(config, api_key, metrics, endpoints)
        self._metrics = metrics
        self._config = config
        self._folder = folder
        self._shared = shared
        self._loading: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load the model: in the background at the first start, at once in a worker that replaces another."""
        loop.call_soon(self._stop_if_draining)
        with or_give_up(self._shared):
            if self._shared is not None and self._shared.was_ready.is_set():
                self._become_ready(self._load())
                return
            self._loading = threading.Thread(target=self._load_for, args=(loop,), name="nerve-loader")
            self._loading.start()

    def _stop_if_draining(self) -> None:
        """Send SIGTERM again: one that came before the event loop ran was lost (uvloop listens while it runs)."""
        if self._shared is not None and self._shared.draining.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        """Finish what was admitted. Blocks."""
        if self._loading is not None and self._loading.is_alive():
            logging.shutdown()
            os._exit(0)  # nothing was admitted, and loading cannot be cut short in any other way
        self.app.close()

    def _load_for(self, loop: asyncio.AbstractEventLoop) -> None:
        with or_give_up(self._shared):
            loop.call_soon_threadsafe(self._become_ready, self._load())

    def _load(self) -> Model:
        engine = self._shared.engine if self._shared is not None else None
        if engine is not None:
            return load_front(self._config, self._folder, Remote(_connect(engine), partial(_connect, engine)))
        return load_model(self._config, self._folder, cache_dir_of(self._config))

    def _become_ready(self, model: Model) -> None:
        shared = self._shared
        is_draining = shared.draining.is_set if shared is not None else lambda: False
        with or_give_up(shared):
            self.app.start(
                model, self._config, is_draining, self._end_soon, self._announce, self._are_all_ready
            )
            log.info("ready")

    def _are_all_ready(self) -> bool:
        shared = self._shared
        if shared is None or shared.settled.is_set():
            return True
        return self._metrics.count_ready() >= self._config.server.workers

    def _announce(self) -> None:
        """Do what must be done before anybody can see this worker ready."""
        # Whatever lives now lives for ever: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_SECONDS)
        if self._shared is not None:
            self._shared.was_ready.set()
            self._shared.ready.send(os.getpid())

    def _end_soon(self) -> None:
        """End the process: its device is lost to it, and the server starts another one."""
        log.critical("the device has failed; this worker ends")

        def end() -> None:
            time.sleep(_LAST_ANSWERS_SECONDS)
            logging.shutdown()
            os._exit(1)

        try:
            threading.Thread(target=end, name="nerve-end", daemon=True).start()
        except RuntimeError:  # no thread can be made
            end()


def _connect(engine: Path) -> Link:
    """Wait until there is a process that runs the model. Raises `OSError` when the server process is gone."""
    while True:
        try:
            return Link(engine)
        except ConnectionResetError:  # that one has ended while it loaded the model; another one starts
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def or_give_up(shared: Shared | None) -> Iterator[None]:
    """End the process when the block raises, whatever it is: a worker that cannot start must not stay.

    In a thread or in a callback of the event loop nobody else would see it. One worker says why for all. The server
    starts another one, or ends.
    """
    try:
        yield
    except KeyboardInterrupt:  # at the terminal, while it was starting
        os._exit(130)
    except BaseException as error:
        if shared is None or not shared.failed.is_set():
            if shared is not None and not shared.was_ready.is_set():
                shared.failed.set()
            reason = explain(error)
            log.critical("cannot start: %s", reason or "a defect", exc_info=None if reason else error)
        logging.shutdown()
        os._exit(1)


def create_worker_application(
    config: Config, api_key: str | None, folder: ModelFolder, shared: Shared
) -> Application:
    """Build the application inside a worker process that `server` started."""
    configure_logging(config.server)
    log_what_escapes()
    handle_signals()
    with or_give_up(shared):
        threading.Thread(target=_end_with_server, name="nerve-orphan", daemon=True).start()
        worker = Worker(config, api_key, folder, shared)
        if config.server.uds is None:
            client_seconds = config.server.client_timeout_ms / 1000
            idle_seconds = max(
                config.limits.request_timeout_ms / 1000 + client_seconds, keep_alive_seconds(config.server)
            )
            heads = Heads(client_seconds, worker.app.busy_ports, multiplexed_ports)
            watch_connections(idle_seconds, client_seconds, heads)
        return _application(worker, config)


def _end_with_server() -> None:
    """Stop this worker once the server process is gone; it would hold the port for ever."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        log.critical("the server process has died; this worker ends, too")
        os.kill(os.getpid(), signal.SIGTERM)


def create_app() -> Application:
    """Build the application for any ASGI server: `uvicorn --factory nerve.server.worker:create_app`.

    The model is found as `nerve serve` finds it without MODEL.
    Raises `StartupError`.
    """
    config = choose_config()
    configure_logging(config.server)
    folder = fetch_checkpoint(config.model, cache_dir_of(config), is_buildable=build_check(config.model))
    return _application(Worker(config, load_api_key(config.server), folder), config)


def _application(worker: Worker, config: Config) -> Application:
    """Give the worker's handler what the configuration wants around it; by itself it pays for nothing."""
    handle: Handler = worker.app.handle
    close: Callable[[], None] = worker.close
    if config.server.access_log:
        handle = with_access_log(handle, worker.app.route_of)
    if config.tracing.endpoint is not None:
        from nerve.http.tracing import Tracing  # noqa: PLC0415 - OpenTelemetry is optional

        tracing = Tracing(config.tracing.endpoint)
        handle = tracing.wrap(handle, worker.app.route_of)

        def close_both() -> None:
            worker.close()
            tracing.close()

        close = close_both

    return Application(answer_defects(handle), worker.start, close, worker.app.pending)
