"""Declares the metrics, records them and renders `/metrics`.

All numbers of a worker lie in one vector of float64, so that recording a request is a handful of additions
(prometheus_client's own objects took 30 us of each request, several times as much). One worker keeps its
vector in memory. Several workers keep theirs in files that each of them can read, so that a scrape of any
worker counts all of them; the counts of workers that died stay, their gauges do not.

Threads: `record_batch` may be called from any thread, everything else from the event loop's only.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nerve.types import Prediction

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008),
    *(0.012, 0.016, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_STAGES = ("tokenize", "queue", "inference", "aggregate")
# Plain counters and gauges: name (a counter's without `_total`), help; the position is the index in the vector.
_COUNTERS = (
    ("nerve_texts", "Texts predicted."),
    ("nerve_tokens", "Tokens computed, window overlaps included, padding not."),
    ("nerve_truncated_texts", "Texts that were cut."),
    ("nerve_batches", "Model calls."),
    ("nerve_batch_windows", "Windows in model calls."),
    ("nerve_batch_tokens", "Tokens in model calls, padding included."),
    ("nerve_batch_seconds", "Time spent in model calls."),
)
_GAUGES = (
    ("nerve_queue_tokens", "Tokens waiting for the model."),
    ("nerve_ready_workers", "Workers that are ready."),
)
_TEXTS, _TOKENS, _TRUNCATED, _BATCHES, _WINDOWS, _PADDED, _BUSY = range(len(_COUNTERS))
_QUEUED, _READY = range(len(_COUNTERS), len(_COUNTERS) + len(_GAUGES))
# A histogram: a count per bucket, one for what is above the last, and the sum.
_WIDTH = len(_SECONDS) + 2
_HISTOGRAMS = len(_COUNTERS) + len(_GAUGES)
_REQUESTS = _HISTOGRAMS + (1 + len(_STAGES)) * _WIDTH
_N_STATUSES = 600


class Metrics(Collector):
    """All metrics of one worker; every name starts with `nerve_`.

    routes: the routes that requests are counted by.
    shared_dir: folder in which several workers keep their numbers; None for one worker.
    """

    def __init__(self, routes: Sequence[str], shared_dir: Path | None = None) -> None:
        self._routes = {route: _REQUESTS + index * _N_STATUSES for index, route in enumerate(routes)}
        self._shared_dir = shared_dir
        self._size = 8 * (_REQUESTS + len(routes) * _N_STATUSES)  # bytes
        self._numbers = memoryview(self._create_storage()).cast("d")
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def record_answer(self, route: str, status: int) -> None:
        """Count one answered request; `route` is one of the constructor's."""
        self._numbers[self._routes[route] + status] += 1

    def record_prediction(self, prediction: Prediction, seconds: float, queued_tokens: int) -> None:
        """Record what one answered prediction took, and the queue it leaves behind."""
        numbers = self._numbers
        numbers[_QUEUED] = queued_tokens
        numbers[_TEXTS] += len(prediction.rows)
        numbers[_TOKENS] += prediction.n_tokens
        numbers[_TRUNCATED] += len(prediction.truncated)
        timings = prediction.timings
        start = _HISTOGRAMS
        for value in (seconds, timings.tokenize, timings.queue, timings.inference, timings.aggregate):
            numbers[start + bisect_left(_SECONDS, value)] += 1
            numbers[start + _WIDTH - 1] += value
            start += _WIDTH

    def record_batch(self, n_windows: int, n_tokens: int, seconds: float) -> None:
        """Record one model call."""
        numbers = self._numbers
        with self._lock:
            numbers[_BATCHES] += 1
            numbers[_WINDOWS] += n_windows
            numbers[_PADDED] += n_tokens
            numbers[_BUSY] += seconds

    def set_ready(self, *, ready: bool) -> None:
        """Record whether this worker is ready."""
        self._numbers[_READY] = int(ready)

    def render(self, queued_tokens: int) -> bytes:
        """Return the Prometheus text of all workers together."""
        self._numbers[_QUEUED] = queued_tokens
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, summed over the workers; prometheus_client calls this."""
        numbers = self._sum_workers()
        for index, (name, text) in enumerate(_COUNTERS):
            yield CounterMetricFamily(name, text, value=numbers[index])
        for index, (name, text) in enumerate(_GAUGES, len(_COUNTERS)):
            yield GaugeMetricFamily(name, text, value=numbers[index])
        requests = CounterMetricFamily("nerve_requests", "Requests answered.", labels=["route", "status"])
        for route, start in self._routes.items():
            for status in range(_N_STATUSES):
                if numbers[start + status]:
                    requests.add_metric([route, str(status)], numbers[start + status])
        yield requests
        duration = HistogramMetricFamily(
            "nerve_request_duration_seconds", "Time from the request's head to its answer, for predictions."
        )
        duration.add_metric([], *_histogram(numbers, _HISTOGRAMS))
        yield duration
        stages = HistogramMetricFamily(
            "nerve_stage_duration_seconds", "Time of a prediction by stage.", labels=["stage"]
        )
        for index, stage in enumerate(_STAGES, 1):
            stages.add_metric([stage], *_histogram(numbers, _HISTOGRAMS + index * _WIDTH))
        yield stages

    def _create_storage(self) -> bytearray | mmap.mmap:
        """Return zeroed memory of this process, or a file of its own that the other workers read."""
        if self._shared_dir is None:
            return bytearray(self._size)
        path = self._shared_dir / str(os.getpid())
        with path.open("w+b") as file:
            file.truncate(self._size)
            return mmap.mmap(file.fileno(), self._size)

    def _sum_workers(self) -> Sequence[float]:
        if self._shared_dir is None:
            return self._numbers.tolist()
        total = [0.0] * (self._size // 8)
        for path in self._shared_dir.iterdir():
            content = path.read_bytes()
            if len(content) != self._size:
                continue  # a worker that is just starting
            numbers = list(memoryview(content).cast("d"))
            if not _is_alive(int(path.name)):
                numbers[_QUEUED] = numbers[_READY] = 0.0
            total = [left + right for left, right in zip(total, numbers, strict=True)]
        return total


def _histogram(numbers: Sequence[float], start: int) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets and the sum of one histogram."""
    counts = numbers[start : start + _WIDTH - 1]
    bounds = [*map(str, _SECONDS), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True)), numbers[start + _WIDTH - 1]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, as somebody else
        return True
    return True
