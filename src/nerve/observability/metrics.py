"""Declares the metrics, records them and renders `/metrics`.

All numbers of a worker lie in one vector of float64, so that recording a request is a handful of additions
(prometheus_client's own objects took 30 us of each request, several times as much). One worker keeps its
vector in memory. Several workers keep theirs together (`shared_numbers`), so that a scrape of any worker counts all
of them; the counts of workers that died stay, their gauges do not.

Threads: any may call anything; what adds up numbers holds a lock.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from nerve.observability.shared_numbers import SharedNumbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from nerve.types import Summary

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Upper bounds of the buckets. Up to 1 ms in steps of 0.1 ms, above in steps of at most a half.
_SECONDS = (
    *(0.00005, 0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0007, 0.0008, 0.0009, 0.001),
    *(0.00125, 0.0015, 0.002, 0.0025, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.0125, 0.016, 0.02, 0.025),
    *(0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 30.0),
)
_BATCH_WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512)
_STAGES = ("tokenize", "queue", "inference", "aggregate")
# Plain counters and gauges: name (a counter's without `_total`), help; the position is the index in the vector.
_COUNTERS = (
    ("nerve_texts", "Texts predicted."),
    ("nerve_tokens", "Tokens computed, window overlaps included, padding not."),
    ("nerve_truncated_texts", "Texts that were cut."),
    ("nerve_batches", "Model calls."),
    ("nerve_batch_tokens", "Tokens in model calls, padding included."),
    ("nerve_batch_padding_tokens", "Padding in model calls."),
    ("nerve_batch_seconds", "Time spent in model calls."),
    (
        "nerve_engine_busy_seconds",
        "Time that engine threads were at work; a call on all cores counts for all.",
    ),
)
_GAUGES = (
    ("nerve_queue_tokens", "Tokens waiting for the model."),
    ("nerve_queue_requests", "Requests of which something waits for the model."),
    ("nerve_engine_threads", "Engine threads that can be at work."),
    ("nerve_ready_workers", "Workers that are ready."),
)
_TEXTS, _TOKENS, _TRUNCATED, _BATCHES, _PADDED, _PADDING, _CALLS, _BUSY = range(len(_COUNTERS))
_GAUGE_SLICE = slice(len(_COUNTERS), len(_COUNTERS) + len(_GAUGES))
_QUEUED_TOKENS, _QUEUED_REQUESTS, _THREADS, _READY = range(_GAUGE_SLICE.start, _GAUGE_SLICE.stop)
# A histogram: a count per bucket, one for what is above the last, and the sum.
_WIDTH = len(_SECONDS) + 2
_DURATIONS = _GAUGE_SLICE.stop
_SIZES = _DURATIONS + (1 + len(_STAGES)) * _WIDTH
_REQUESTS = _SIZES + len(_BATCH_WINDOWS) + 2
_N_STATUSES = 600


# What is served, as `nerve_info` says it.
INFO_LABELS = ("model", "revision", "version", "precision", "provider")


class Metrics(Collector):
    """All metrics of one worker; every name starts with `nerve_`.

    routes: what requests are counted by, pairs of endpoint and route.
    reasons: why predictions are not answered.
    shared_dir: folder in which several workers keep their numbers; None for one worker.
    """

    def __init__(
        self, routes: Sequence[tuple[str, str]], reasons: Sequence[str], shared_dir: Path | None = None
    ) -> None:
        self._routes = {route: _REQUESTS + index * _N_STATUSES for index, route in enumerate(routes)}
        self._reasons = {
            reason: index for index, reason in enumerate(reasons, _REQUESTS + len(routes) * _N_STATUSES)
        }
        n_numbers = _REQUESTS + len(routes) * _N_STATUSES + len(reasons)
        self._shared: SharedNumbers | None = None
        if shared_dir is None:
            self._numbers = memoryview(bytearray(8 * n_numbers)).cast("d")
        else:
            self._shared = SharedNumbers(shared_dir, n_numbers, _GAUGE_SLICE)
            self._numbers = self._shared.own
        self._info: list[str] | None = None
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def record_answer(self, route: tuple[str, str], status: int) -> None:
        """Count one answered request; `route` is one of the constructor's."""
        with self._lock:
            self._numbers[self._routes[route] + status] += 1

    def record_rejection(self, reason: str) -> None:
        """Count one prediction that was not answered; `reason` is one of the constructor's."""
        with self._lock:
            self._numbers[self._reasons[reason]] += 1

    def record_prediction(
        self, prediction: Summary, seconds: float, queued_tokens: int, queued_requests: int
    ) -> None:
        """Record what one answered prediction took, and the queue it leaves behind."""
        numbers = self._numbers
        with self._lock:
            numbers[_QUEUED_TOKENS] = queued_tokens
            numbers[_QUEUED_REQUESTS] = queued_requests
            numbers[_TEXTS] += prediction.n_texts
            numbers[_TOKENS] += prediction.n_tokens
            numbers[_TRUNCATED] += len(prediction.truncated)
            timings = prediction.timings
            start = _DURATIONS
            for value in (seconds, timings.tokenize, timings.queue, timings.inference, timings.aggregate):
                numbers[start + bisect_left(_SECONDS, value)] += 1
                numbers[start + _WIDTH - 1] += value
                start += _WIDTH

    def record_batch(
        self, n_windows: int, n_tokens: int, n_padding: int, seconds: float, n_threads: int
    ) -> None:
        """Record one model call: windows, real tokens, padding, time, and the engine threads it stands for."""
        numbers = self._numbers
        bucket = _SIZES + bisect_left(_BATCH_WINDOWS, n_windows)
        with self._lock:
            numbers[bucket] += 1
            numbers[_REQUESTS - 1] += n_windows
            numbers[_BATCHES] += 1
            numbers[_PADDED] += n_tokens + n_padding
            numbers[_PADDING] += n_padding
            numbers[_CALLS] += seconds
            numbers[_BUSY] += seconds * n_threads

    def set_queue(self, n_tokens: int, n_requests: int) -> None:
        """Record what waits for the model."""
        self._numbers[_QUEUED_TOKENS] = n_tokens
        self._numbers[_QUEUED_REQUESTS] = n_requests

    def set_engine_threads(self, n_threads: int) -> None:
        """Record how many engine threads can be at work."""
        self._numbers[_THREADS] = n_threads

    def set_info(self, facts: Mapping[str, str]) -> None:
        """Record what is served: a word for each of `INFO_LABELS`."""
        self._info = [facts[name] for name in INFO_LABELS]

    def set_ready(self, *, ready: bool) -> None:
        """Record whether this worker is ready."""
        self._numbers[_READY] = int(ready)

    def count_ready(self) -> int:
        """Return how many workers are ready."""
        return int(self._sum_workers()[_READY])

    def render(self, queued_tokens: int, queued_requests: int) -> bytes:
        """Return the Prometheus text of all workers together."""
        self._numbers[_QUEUED_TOKENS] = queued_tokens
        self._numbers[_QUEUED_REQUESTS] = queued_requests
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, summed over the workers; prometheus_client calls this."""
        numbers = self._sum_workers()
        for index, (name, text) in enumerate(_COUNTERS):
            yield CounterMetricFamily(name, text, value=numbers[index])
        for index, (name, text) in enumerate(_GAUGES, _GAUGE_SLICE.start):
            yield GaugeMetricFamily(name, text, value=numbers[index])
        if self._info is not None:
            info = GaugeMetricFamily("nerve_info", "What is served, in labels; always 1.", labels=INFO_LABELS)
            info.add_metric(self._info, 1)
            yield info
        requests = CounterMetricFamily(
            "nerve_requests", "Requests answered.", labels=["endpoint", "route", "status"]
        )
        for (endpoint, route), start in self._routes.items():
            for status, count in enumerate(numbers[start : start + _N_STATUSES]):
                if count:
                    requests.add_metric([endpoint, route, str(status)], count)
        yield requests
        rejections = CounterMetricFamily(
            "nerve_rejections", "Predictions not answered, by reason.", labels=["reason"]
        )
        for reason, index in self._reasons.items():
            rejections.add_metric([reason], numbers[index])
        yield rejections
        duration = HistogramMetricFamily(
            "nerve_request_duration_seconds", "Time from the request's head to its answer, for predictions."
        )
        duration.add_metric([], *_histogram(numbers, _DURATIONS, _SECONDS))
        yield duration
        stages = HistogramMetricFamily(
            "nerve_stage_duration_seconds", "Time of a prediction by stage.", labels=["stage"]
        )
        for index, stage in enumerate(_STAGES, 1):
            stages.add_metric([stage], *_histogram(numbers, _DURATIONS + index * _WIDTH, _SECONDS))
        yield stages
        sizes = HistogramMetricFamily("nerve_batch_size_windows", "Windows in a model call.")
        sizes.add_metric([], *_histogram(numbers, _SIZES, _BATCH_WINDOWS))
        yield sizes

    def _sum_workers(self) -> Sequence[float]:
        return self._numbers.tolist() if self._shared is None else self._shared.total()


def _histogram(
    numbers: Sequence[float], start: int, bounds: Sequence[float]
) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets and the sum of one histogram."""
    end = start + len(bounds) + 1
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(numbers[start:end]), strict=True)), numbers[end]
