"""Runs Granian from the configuration: listens, starts workers, stops them in order.

The checkpoint is fetched here, once, before any worker starts. Workers are started afresh ("spawn"), not
forked: a forked copy of a process that has downloaded with threads, or touched CUDA, is not dependable.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from nerve.checkpoint import fetch_checkpoint
from nerve.config import Interface, cache_dir_of, has_key_in_environment
from nerve.endpoints import create_endpoints
from nerve.errors import StartupError
from nerve.graph import build_check
from nerve.http.routing import routes_of
from nerve.observability.defects import log_what_escapes
from nerve.observability.logs import configure_logging, logging_settings
from nerve.runtime.cores import why_busy
from nerve.server.connections import keep_alive_seconds
from nerve.server.engine_host import EngineHost, needs_engine_process
from nerve.server.listening import (
    check_port,
    identify_socket,
    is_local,
    listening_host,
    remove_socket,
    remove_stale_socket,
    resolve_socket_path,
)
from nerve.server.rsgi_worker import serve_rsgi
from nerve.server.signals import QUIT, held_back, note
from nerve.server.tls import open_tls
from nerve.server.worker import Shared, create_worker_application

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from types import FrameType

    from nerve.config import Config, ServerConfig
    from nerve.server.listening import SocketFile

log = logging.getLogger(__name__)

# A replacement that could not start is followed by the next one after 0.5, 1, 2, ... s. When so many in a row have
# ended before they were ready, and no other worker serves, the server ends: whoever runs it must see that.
_MOST_FAILURES = 5
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_STOP_TICK_SECONDS = 0.01

# Descriptors that a worker needs for other things than connections.
_OTHER_DESCRIPTORS = 128
# Longest request head, over HTTP/1.1 and over HTTP/2.
_HEAD_BYTES = 64 * 1024
# Requests that may be under way on one HTTP/2 connection; fewer would slow good clients down (RFC 9113, 5.1.2).
_MOST_STREAMS = 100


class _DrainingServer(MPServer):
    """Granian's server, which first turns readiness off and lets load balancers look away."""

    shared: Shared
    drain_delay_seconds: float
    engine: EngineHost | None = None
    ready_pipe: Connection
    ready_pids: set[int]  # of workers that have been ready
    _n_failures: int = 0  # workers in a row that ended before they were ready
    _own_socket: SocketFile | None = None

    _spawn_rsgi_worker = staticmethod(serve_rsgi)

    @property
    def respawn_failed_workers(self) -> bool:
        """Replace workers that died, unless none can start at all."""
        return not self.shared.failed.is_set()

    @respawn_failed_workers.setter
    def respawn_failed_workers(self, value: bool) -> None:
        """Granian's constructor sets it; the property decides."""

    def give_up(self) -> None:
        """End the server with a failure; any thread may call this."""
        self.shared.failed.set()
        self.interrupt_signal = True
        self.main_loop_interrupt.set()

    def startup(self, spawn_target: Callable[..., None], target_loader: Callable[..., object]) -> None:
        """Listen, and start the workers."""
        super().startup(spawn_target, target_loader)  # type: ignore[no-untyped-call]
        for number in QUIT:
            signal.signal(number, self.signal_handler_interrupt)

    def signal_handler_reload(self, number: int, frame: FrameType | None) -> None:
        """Ignore SIGHUP: Granian would take the port away while the next worker loads its model."""
        note(number, frame)

    def _serve_loop(self, spawn_target: Callable[..., None], target_loader: Callable[..., object]) -> None:
        """Replace workers until told to stop.

        Granian's own loop looks first and clears the event then, so that what comes in between is lost.
        """
        while True:
            self.main_loop_interrupt.wait()
            self.main_loop_interrupt.clear()
            if self.interrupt_signal or (self.interrupt_children and not self.respawn_failed_workers):
                return
            dead = set()
            while self.interrupt_children:
                dead.add(self.interrupt_children.pop())
            if dead:
                self._respawn_workers(sorted(dead), spawn_target, target_loader)

    def _spawn_workers(self, spawn_target: Callable[..., None], target_loader: Callable[..., object]) -> None:
        """Start the workers; signals that a starting one could not handle yet wait."""
        if self.engine is not None:
            with held_back():
                self.engine.start()
        with held_back():
            super()._spawn_workers(spawn_target, target_loader)  # type: ignore[no-untyped-call]

    def _respawn_workers(
        self,
        workers: list[int],
        spawn_target: Callable[..., None],
        target_loader: Callable[..., object],
        delay: float = 0,
    ) -> None:
        """Replace workers that died; slowly, and not for ever, when they cannot even start."""
        shared = self.shared
        shared.settled.set()
        while self.ready_pipe.poll():
            self.ready_pids.add(self.ready_pipe.recv())
        processes = [worker.inner for worker in self.wrks]
        if any(processes[index].pid in self.ready_pids for index in workers):
            self._n_failures = 0
        else:
            self._n_failures += 1
            is_served = any(one.is_alive() and one.pid in self.ready_pids for one in processes)
            if self._n_failures >= _MOST_FAILURES and not is_served:
                log.critical("%d workers in a row could not start; the server ends", self._n_failures)
                self.give_up()
                return
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (self._n_failures - 1))
            log.warning("a worker ended before it was ready; the next one is started in %.1f s", pause)
            if self._is_interrupted_within(pause):
                return
        with held_back():
            super()._respawn_workers(workers, spawn_target, target_loader, delay)

    def _is_interrupted_within(self, seconds: float) -> bool:
        """Wait; returns True at once when the server is told to stop."""
        until = time.monotonic() + seconds
        while not self.interrupt_signal and (left := until - time.monotonic()) > 0:
            time.sleep(min(0.1, left))
        return self.interrupt_signal

    def shutdown(self, exit_code: int = 0) -> None:
        """Announce the end, wait, then stop the workers; they finish what they have."""
        self.shared.draining.set()
        if not self.interrupt_children and self.drain_delay_seconds:
            time.sleep(self.drain_delay_seconds)
        super().shutdown(1 if self.shared.failed.is_set() else exit_code)  # type: ignore[no-untyped-call]

    def _stop_workers(self) -> None:
        """Tell the workers to stop, and wait for them; whoever does not within the time is killed.

        Granian by itself asks once whether a worker lives, possibly while a thread of its own is just taking note
        of that worker's end, and then reports to have killed it.
        """
        until = time.monotonic() + (self.workers_kill_timeout or math.inf)
        for worker in self.wrks:
            worker.terminate()  # type: ignore[no-untyped-call]
        while any(worker.inner.is_alive() for worker in self.wrks) and time.monotonic() < until:
            time.sleep(_STOP_TICK_SECONDS)
        self.workers_kill_timeout = 1  # second; they had their time
        super()._stop_workers()  # type: ignore[no-untyped-call]
        if self.engine is not None:
            self.engine.close()

    def _init_shared_socket(self) -> None:
        """Listen. Raises `StartupError`, where Granian raises what its Rust side says."""
        where = self.bind_uds or f"{self.bind_addr}:{self.bind_port}"
        try:
            if self.bind_uds is None:
                check_port(self.bind_addr, self.bind_port)
            else:
                remove_stale_socket(self.bind_uds)
            super()._init_shared_socket()  # type: ignore[no-untyped-call]
            if self.bind_uds is not None:
                self._own_socket = identify_socket(self.bind_uds)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]  # a Rust backtrace follows
            raise StartupError(
                f"cannot listen on {where}: {reason}; free it, or change server.host, server.port or server.uds"
            ) from error

    def _unlink_pidfile(self) -> None:
        """Remove the Unix socket, if it is still ours; Granian would remove whatever stands there."""
        if self._own_socket is not None:
            remove_socket(self._own_socket)


def serve(config: Config, api_key: str | None, *, show_progress: bool) -> None:
    """Serve until a signal says stop; ends the process with a status.

    Raises `StartupError` when the server cannot start.
    """
    configure_logging(config.server)
    log_what_escapes()
    has_random_key = config.redaction.key_file is None and not has_key_in_environment()
    endpoints = create_endpoints(config)  # a wrong name must end the start here, in one line
    folder = fetch_checkpoint(
        config.model,
        cache_dir_of(config),
        is_buildable=build_check(config.model),
        show_progress=show_progress,
    )
    multiprocessing.set_start_method("spawn", force=True)
    host = listening_host(config.server, has_key=api_key is not None)
    if not is_local(config.server, host):
        if api_key is None:
            log.warning("listening on a public address without an API key; set NERVE_API_KEY to require one")
    elif config.server.uds is None and config.server.host is None:
        log.info("listening for this machine only; for others set an API key (NERVE_API_KEY), or server.host")
    if has_random_key:
        log.info(
            "the operator hash of /redact has a random key until this server ends; see redaction.key_file"
        )
    if busy := why_busy():
        log.info("%s (docs/guide/operations.md, Other programs on the machine)", busy)
    is_apart = needs_engine_process(config)
    server = _create_server(config.server, host)
    server.ready_pipe, ready = multiprocessing.Pipe(duplex=False)
    server.ready_pids = set()
    server.drain_delay_seconds = config.server.drain_delay_ms / 1000
    with _metrics_dir(config.server.workers) as metrics_dir:
        try:
            with held_back():  # from the process that Python starts for these events, for good
                server.shared = Shared(
                    was_ready=multiprocessing.Event(),
                    failed=multiprocessing.Event(),
                    draining=multiprocessing.Event(),
                    settled=multiprocessing.Event(),
                    ready=ready,
                    metrics_dir=metrics_dir,
                )
        except OSError as error:  # no shared memory, or a Python that this user may not start again
            raise StartupError(
                f"cannot start worker processes with {sys.executable}: {error}; check /dev/shm, or set "
                "server.workers: 1"
            ) from error
        if is_apart and metrics_dir is not None:
            routes = routes_of(endpoints)
            server.engine = EngineHost(config, folder, routes, metrics_dir, server.give_up)
            server.shared = replace(server.shared, engine=server.engine.path)
        try:
            server.serve(
                target_loader=partial(create_worker_application, config, api_key, folder, server.shared),
                wrap_loader=False,
            )
        finally:
            if server.engine is not None:
                server.engine.close()


@contextmanager
def _metrics_dir(n_workers: int) -> Iterator[Path | None]:
    """Give a folder in which several workers keep their metrics, for the block; None for one worker.

    Raises `StartupError` when none can be made.
    """
    if n_workers == 1:
        yield None
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix="nerve-metrics-"))
    except OSError as error:
        raise StartupError(
            f"server.workers above 1 need a folder for temporary files: {error}; set TMPDIR to one"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create_server(server: ServerConfig, host: str) -> _DrainingServer:
    made = _DrainingServer(
        "nerve",
        address=host,
        port=server.port,
        uds=resolve_socket_path(server.uds) if server.uds else None,
        uds_permissions=int(server.uds_permissions, 8),
        interface=Interfaces.RSGI if server.interface is Interface.RSGI else Interfaces.ASGI,
        workers=server.workers,
        runtime_threads=server.runtime_threads,
        # One runtime with as many threads, or as many runtimes with one: the latter wakes fewer threads.
        runtime_mode=RuntimeModes.st,
        loop=Loops(server.loop.value),
        http=HTTPModes.auto,
        websockets=False,
        backlog=server.backlog,
        backpressure=_allow_connections(server.max_connections),
        http1_settings=HTTP1Settings(
            header_read_timeout=round(keep_alive_seconds(server) * 1000), max_buffer_size=_HEAD_BYTES
        ),
        http2_settings=HTTP2Settings(max_headers_size=_HEAD_BYTES, max_concurrent_streams=_MOST_STREAMS),
        log_level=LogLevels(server.log_level.value),
        log_dictconfig=logging_settings(server),
        respawn_interval=0.1,
        workers_kill_timeout=math.ceil(server.drain_timeout_ms / 1000),
    )
    if server.tls is not None:
        made.ssl_ctx = open_tls(server.tls)  # type: ignore[assignment] # of one that speaks none
    return made


def _allow_connections(wanted: int) -> int:
    """Raise this process's limit of open files, which workers inherit; returns the connections that fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(1, soft - _OTHER_DESCRIPTORS)
    log.warning(
        "server.max_connections is %d, but the limit of open files leaves room for %d", wanted, allowed
    )
    return allowed
