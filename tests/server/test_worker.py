from __future__ import annotations

import asyncio
import multiprocessing
import signal
from pathlib import Path

import pytest

from builders import write_config
from nerve.checkpoint import ModelFolder
from nerve.config import load_config
from nerve.server.worker import Shared, Worker


@pytest.mark.parametrize("is_draining", [True, False])
def test_signal_that_came_before_the_event_loop_is_sent_again(
    lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_draining: bool
) -> None:
    """Uvloop loses a SIGTERM that comes before it runs; a worker that starts while the server stops must end."""
    monkeypatch.setattr("gc.freeze", lambda: None)  # pytest's process goes on to make garbage
    config = load_config(write_config(tmp_path / "config.yaml", lookup_model))
    events = [multiprocessing.Event() for _ in range(4)]
    reader, ready = multiprocessing.Pipe(duplex=False)
    shared = Shared(*events, ready=ready, metrics_dir=None)
    if is_draining:
        shared.draining.set()
    worker = Worker(config, None, ModelFolder(lookup_model, "lookup", ""), shared)
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))

    async def run_for_a_moment() -> None:
        worker.start(asyncio.get_running_loop())
        await asyncio.to_thread(worker._loading.join)  # type: ignore[union-attr]
        await asyncio.sleep(0.05)

    try:
        asyncio.run(run_for_a_moment())
    finally:
        signal.signal(signal.SIGTERM, before)
        worker.app.close()
        reader.close()
        ready.close()
    assert received == ([signal.SIGTERM] if is_draining else [])
