"""Granian's RSGI worker, calling the application on the thread that received the request.

As Granian ships it, a request crosses five times between its network thread, its Python thread and the event loop
before the application has the body, and once more for the answer. Here its Python thread calls `handle` itself, and
what would be posted to the event loop is called there and then: three crossings and one. The event loop serves the
life of the worker only (docs/decisions/0003).

`serve_rsgi` stands for `MPServer._spawn_rsgi_worker` of Granian 2.8 with those things changed; it is not a public
seam, hence the upper bound on Granian's version in pyproject.toml.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from granian._granian import CallbackScheduler, RSGIWorker
from granian._signals import set_loop_signals
from granian.server.common import WORKERS_METHODS
from granian.server.mp import WorkerProcess

from nerve.http.rsgi import AtOnce, receive_with

if TYPE_CHECKING:
    from granian.constants import RuntimeModes

    from nerve.http.asgi import Application


class _Scheduler(CallbackScheduler):
    """Calls a function for each request, where Granian's own makes a coroutine and posts it to the event loop."""

    def __init__(self, loop: AtOnce, call: Callable[[Any], None], *_: None) -> None:
        super().__init__()  # the base takes its arguments in `__new__`
        self._schedule_fn = call


@WorkerProcess.wrap_target  # type: ignore[untyped-decorator] # Granian's Python side is untyped
def serve_rsgi(
    worker_id: int,
    application: Application,
    sock: tuple[Any, Any],
    ipc: Any,
    loop: asyncio.AbstractEventLoop,
    runtime_mode: RuntimeModes,
    *settings: Any,
) -> None:
    """Serve until a signal says stop.

    settings: in the order of `MPServer._spawn_rsgi_worker`, from `runtime_threads` to `metrics`.
    """
    threads, (_task_impl, *http), (_log_format, ssl, _scope_options, metrics) = (
        settings[:5],
        settings[5:11],
        settings[11:],
    )
    shutdown = set_loop_signals(loop)  # type: ignore[no-untyped-call]
    ended = asyncio.Event()
    shutdown.add_cb(lambda: loop.call_soon_threadsafe(ended.set))
    application.__rsgi_init__(loop)
    worker = RSGIWorker(worker_id, sock, ipc, *threads, *http, *ssl, metrics)  # type: ignore[call-arg]

    at_once = AtOnce()
    serve = getattr(worker, WORKERS_METHODS[runtime_mode][(sock[0] or sock[1]).is_uds()])
    serve(
        _Scheduler(at_once, receive_with(application.handle, application.pending), None, None, None),
        at_once,
        shutdown,
    )

    async def wait() -> None:
        await ended.wait()

    loop.run_until_complete(wait())
    application.__rsgi_del__(loop)
