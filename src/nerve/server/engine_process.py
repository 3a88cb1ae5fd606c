"""The process that owns a device and runs the model for all workers: `python -m nerve.server.engine_process`.

The server process starts it (`engine_host`), writes what it needs to its standard input, and closes that when it shall
end. It knows no API key and no client: it takes token ids, and gives labels and scores.

Signals: a terminal, and systemd, send them to all processes of a server at once. This one ignores those that end a
process, since the workers still need it; it ends when the server process says so, or is gone, and no worker is left.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from nerve.channel.engine import EngineLoop, Hooks
from nerve.checkpoint import ModelFolder
from nerve.config import Config, cache_dir_of
from nerve.errors import REASONS, InvalidRequest
from nerve.models.front import greet
from nerve.models.loader import load_model
from nerve.observability.defects import log_what_escapes
from nerve.observability.logs import configure_logging
from nerve.observability.metrics import Metrics
from nerve.runtime.cores import limit_blas_threads
from nerve.scheduling.queue import Queue
from nerve.scheduling.threads import EngineThread
from nerve.server.process import explain, forbid_core_dumps
from nerve.server.signals import IGNORED, QUIT, note

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.models.model import Model

log = logging.getLogger(__name__)

# The status of a process that could not start, and of one whose device has failed.
CANNOT_START, HAS_FAILED = 1, 2
# Given to the last answers before the process of a device that has failed ends.
_LAST_ANSWERS_SECONDS = 0.2
_TEXT = "canary"


class Order(msgspec.Struct, frozen=True):
    """What the server process tells this one.

    config: with what all workers together may use as that of one. folder, model_id, revision, files: of the
    checkpoint (`ModelFolder`). listener: descriptor of the socket that fronts connect to. ready: descriptor to write a
    byte to, once, when the model is there. routes: what requests are counted by. metrics_dir: where all processes keep
    their numbers.
    """

    config: Config
    folder: str
    model_id: str
    revision: str
    files: tuple[str, ...]
    listener: int
    ready: int
    routes: list[tuple[str, str]]
    metrics_dir: str


def main() -> None:
    """Load the model, serve, and end the process."""
    limit_blas_threads()
    for number in (signal.SIGTERM, signal.SIGINT, *QUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in IGNORED:
        signal.signal(number, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*IGNORED, *QUIT})
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    configure_logging(order.config.server)
    log_what_escapes()
    forbid_core_dumps()
    try:
        folder = ModelFolder(Path(order.folder), order.model_id, order.revision, order.files)
        model = load_model(order.config, folder, cache_dir_of(order.config))
        loop = make_loop(order, model)
    except BaseException as error:
        reason = explain(error)
        log.critical("cannot start: %s", reason or "a defect", exc_info=None if reason else error)
        logging.shutdown()
        os._exit(CANNOT_START)
    gc.collect()
    gc.freeze()
    os.write(order.ready, b"r")
    os.close(order.ready)
    thread = model.thread or EngineThread("nerve-engine-0")
    thread.post(loop.serve)
    threading.Thread(target=loop.greet, name="nerve-fronts", daemon=True).start()
    if order.config.server.canary_interval_ms is not None:
        seconds = 2 * order.config.server.canary_timeout_ms / 1000
        threading.Thread(target=_watch, args=(loop, seconds), name="nerve-watchdog", daemon=True).start()
    sys.stdin.buffer.read()  # ends with the server process, or when it says so
    loop.close()
    thread.close()
    model.backend.close()
    logging.shutdown()
    os._exit(0)


def make_loop(order: Order, model: Model) -> EngineLoop:
    """Return the loop over a loaded model."""
    config = order.config
    metrics = Metrics(order.routes, REASONS, Path(order.metrics_dir))
    metrics.set_engine_threads(1)
    limit = config.batching.max_queue_ms
    interval = config.server.canary_interval_ms
    return EngineLoop(
        Queue(model.policy, config.batching.max_queue_tokens, math.inf if limit is None else limit / 1000),
        model.backend.run,
        socket.socket(fileno=order.listener),
        greet(model),
        Hooks(
            metrics.record_batch,
            metrics.set_queue,
            _end,
            make_probe(model),
            None if interval is None else interval / 1000,
        ),
    )


def make_probe(model: Model) -> Callable[[], None]:
    """Return what runs a short text through the model, and raises when its scores are not finite."""
    try:
        windows = model.tokenizer.tokenize([_TEXT])[0].windows
    except InvalidRequest:  # the model does not know the tokens of this text
        return lambda: None

    def probe() -> None:
        for scores in model.backend.run(windows, False):
            if not np.isfinite(scores.scores).all():
                raise ArithmeticError("scores are not finite")

    return probe


def _watch(loop: EngineLoop, seconds: float) -> None:
    """End the process when a call of the model takes longer than that."""
    while True:
        time.sleep(min(1.0, seconds / 4))
        since = loop.busy_since
        if since is not None and time.monotonic() - since > seconds:
            _end(f"a call of the model has not ended in {seconds:.1f} s")


def _end(reason: str) -> None:
    log.critical("the device has failed; this process ends: %s", reason)
    time.sleep(_LAST_ANSWERS_SECONDS)
    logging.shutdown()
    os._exit(HAS_FAILED)


if __name__ == "__main__":
    main()
