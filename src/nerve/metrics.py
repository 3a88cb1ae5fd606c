"""Declares the metrics, records them and renders `/metrics`.

One worker keeps its numbers in memory. Several workers write theirs to files that all of them read
(prometheus_client's multiprocess mode), so that a scrape of any worker counts all of them. The mode is
fixed when prometheus_client is imported, by the environment variable that `config.share_metrics` sets
before workers start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:
    from nerve.types import Prediction

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008),
    *(0.012, 0.016, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_STAGES = ("tokenize", "queue", "inference", "aggregate")


class Metrics:
    """All metrics of one worker; every name starts with `nerve_`.

    shared_dir: folder in which several workers keep their numbers; None for one worker.
    """

    def __init__(self, shared_dir: str | None = None) -> None:
        self._shared_dir = shared_dir
        if shared_dir is not None:
            _forget_dead_workers(Path(shared_dir))
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "nerve_requests_total", "Requests answered.", ["route", "status"], registry=registry
        )
        self._texts = Counter("nerve_texts_total", "Texts predicted.", registry=registry)
        self._tokens = Counter(
            "nerve_tokens_total", "Tokens computed, window overlaps included, padding not.", registry=registry
        )
        self._truncated = Counter("nerve_truncated_texts_total", "Texts that were cut.", registry=registry)
        self._seconds = Histogram(
            "nerve_request_duration_seconds",
            "Time from the request's head to its answer, for predictions.",
            buckets=_SECONDS,
            registry=registry,
        )
        stages = Histogram(
            "nerve_stage_duration_seconds",
            "Time of a prediction by stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = [stages.labels(stage) for stage in _STAGES]
        self._batches = Counter("nerve_batches_total", "Model calls.", registry=registry)
        self._batch_windows = Counter(
            "nerve_batch_windows_total", "Windows in model calls.", registry=registry
        )
        self._batch_tokens = Counter(
            "nerve_batch_tokens_total", "Tokens in model calls, padding included.", registry=registry
        )
        self._batch_seconds = Counter(
            "nerve_batch_seconds_total", "Time spent in model calls.", registry=registry
        )
        self._queued = Gauge(
            "nerve_queue_tokens",
            "Tokens waiting for the model.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._ready = Gauge(
            "nerve_ready_workers", "Workers that are ready.", multiprocess_mode="livesum", registry=registry
        )

    def record_answer(self, route: str, status: int) -> None:
        """Count one answered request."""
        self._requests.labels(route, str(status)).inc()

    def record_prediction(self, prediction: Prediction, seconds: float, queued_tokens: int) -> None:
        """Record what one answered prediction took, and the queue it leaves behind."""
        self._queued.set(queued_tokens)
        self._texts.inc(len(prediction.rows))
        self._tokens.inc(prediction.n_tokens)
        if prediction.truncated:
            self._truncated.inc(len(prediction.truncated))
        self._seconds.observe(seconds)
        timings = prediction.timings
        values = (timings.tokenize, timings.queue, timings.inference, timings.aggregate)
        for stage, value in zip(self._stages, values, strict=True):
            stage.observe(value)

    def record_batch(self, n_windows: int, n_tokens: int, seconds: float) -> None:
        """Record one model call; engine threads call this."""
        self._batches.inc()
        self._batch_windows.inc(n_windows)
        self._batch_tokens.inc(n_tokens)
        self._batch_seconds.inc(seconds)

    def set_ready(self, *, ready: bool) -> None:
        """Record whether this worker is ready."""
        self._ready.set(int(ready))

    def render(self, queued_tokens: int) -> bytes:
        """Return the Prometheus text of all workers together."""
        self._queued.set(queued_tokens)
        if self._shared_dir is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._shared_dir)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _forget_dead_workers(folder: Path) -> None:
    """Take the gauges of workers that died out of the sum; their counters stay."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
