"""Runs steps of token-packed windows on the GPU, by replaying CUDA graphs.

For every bucket (`nerve.runtime.packing`) there is one `_Step`: buffers at fixed addresses on the device, bound once,
and a captured graph. A step is one upload, one replay, one download:

    pack -> host block -> device block -> replay -> results block -> packing.split_results

Logits stay on the device unless a request needs them. Windows that no bucket holds run uncaptured.

Threads: everything here belongs to one thread, the one that made the session; onnxruntime keeps captured
graphs per thread, and a capture is disturbed by any other CUDA call of the process. So all buckets are
captured in the constructor, before anything is served. Only `pack`, which touches no device, may be called
from elsewhere, to fill the next step's host block while a step runs.

Nothing below names CUDA but `_CUDA_SETTINGS`: given a graph whose operators the CPU has, the same code runs
there, which is how the tests cover it without a GPU.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.config import Device
from nerve.errors import DeviceFailed, ModelError
from nerve.runtime.backend import Backend, run_those_with_tokens
from nerve.runtime.faults import is_out_of_memory, is_sticky
from nerve.runtime.packing import (
    PackingRules,
    StepInputs,
    StepLimits,
    choose_bucket,
    choose_budget,
    halve,
    lay_out,
    list_buckets,
    longest_windows,
    make_bucket,
    split_results,
)
from nerve.runtime.sessions import create_session, ort
from nerve.types import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from nerve.runtime.backend import OpenOptions
    from nerve.runtime.packing import Bucket
    from nerve.types import FloatArray, IntArray, TokenScores

log = logging.getLogger(__name__)

_CUDA_SETTINGS = {"enable_cuda_graph": "1"}
# A node that would run on the CPU ends the start: it could not be captured.
_SESSION_ENTRIES = {"session.disable_cpu_ep_fallback": "1"}
# It would make a Gemm of a product and its bias. On CUDA that reads a row of ones which onnxruntime frees when a
# longer one is needed (`GetConstOnes`): captured graphs would go on reading it after a step beyond the buckets.
WITHOUT = ("MatMulAddFusion",)
# `gpu_graph_id` of a run that is neither captured nor a replay; ids of captured graphs count from 1.
_UNCAPTURED = "-1"
# Largest step that is prepared and timed where the configuration does not say it.
_LARGEST_STEP = 2048
# Memory for the scores of attention, where its kernels keep them: those of float32 for long windows do. A batch of 32
# with one window of 512 tokens would take 415 MB of BERT-base's.
_SCORE_BYTES = 128 * 2**20
# Replays that the time of a step is the median of; the first runs of a graph are not among them.
_TIMED_RUNS = 5
# Probabilities of one step, computed twice by the same kernels, differ by less than this.
_MOST_DIFFERENCE = 0.02


class PackedSession(Backend):
    """One packed graph with its steps. Make it, and run it, on one thread.

    source: the serialised graph of `graph.packed`, or its path.
    limits: what steps must hold; they decide which shapes are captured.
    """

    def __init__(self, source: bytes | Path, device: Device, device_id: int, limits: StepLimits) -> None:
        self.device = device
        self._device_id = device_id
        is_cuda = device is Device.CUDA
        self._session = create_session(
            source, device, device_id, 1, _CUDA_SETTINGS, _SESSION_ENTRIES if is_cuda else None, WITHOUT
        )
        self.provider = str(self._session.get_providers()[0])
        facts = self._session.get_modelmeta().custom_metadata_map
        padding_id = facts.get("padding_id")
        self._rules = PackingRules(
            n_words=int(facts["n_words"]),
            padding_id=None if padding_id is None else int(padding_id),
            n_positions=int(facts["n_positions"]),
            has_distances=any(node.name == "distances" for node in self._session.get_inputs()),
        )
        self.n_labels = next(o.shape[-1] for o in self._session.get_outputs() if o.name == "logits")
        self._thread = threading.get_ident()
        self._uncaptured = _run_options(_UNCAPTURED)
        self.step_seconds: dict[int, float] = {}
        self._steps: dict[Bucket, _Step] = {}
        self._max_cells = None
        if "n_score_heads" in facts:
            self._max_cells = _SCORE_BYTES // (4 * int(facts["n_score_heads"]))
        self._capture(list_buckets(replace(limits, max_cells=self._max_cells)), limits.max_length)
        self._buckets = tuple(self._steps)

    @classmethod
    def open(cls, options: OpenOptions, device: Device) -> Self:
        """Prepare all steps; unless the configuration says it, their measured times tell how large one may be.

        Raises `ModelError`.
        """
        policy, asked = options.policy, options.max_batch_tokens
        limits = StepLimits(
            options.max_length, policy.max_batch_size, asked or max(options.max_length, _LARGEST_STEP)
        )
        session = cls(options.source, device, options.device_id, limits)
        # A window longer than that has a step to itself.
        budget = asked or choose_budget(session.buckets, session.step_seconds)
        log.info("steps of up to %d tokens", budget)
        session.policy = replace(policy, token_budget=budget, is_packed=True)
        return session

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The captured shapes, small to large."""
        return self._buckets

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """See `Backend`. A step that the device has no memory for is computed in two halves."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("a packed session runs on the thread that made it only")
        if not all(len(window.ids) for window in windows):
            return run_those_with_tokens(
                windows, self.n_labels or 1, lambda held: self.run(held, needs_logits)
            )
        try:
            return self._run(windows, needs_logits, self._run_once)
        except Exception as error:
            if len(windows) == 1 or not is_out_of_memory(error):
                raise
            log.warning("the device has no memory for a step of %d windows; it runs in two", len(windows))
        return [scores for half in halve(windows) for scores in self._run(half, needs_logits, self._run_once)]

    def run_uncaptured(self, windows: Sequence[Window], needs_logits: bool) -> list[TokenScores]:
        """Compute one step without a captured graph: to compare with, and for shapes that have none."""
        return self._run(windows, needs_logits, self._run_eagerly)

    def _run(
        self,
        windows: Sequence[Window],
        needs_logits: bool,
        run: Callable[[Sequence[Window], bool], list[TokenScores]],
    ) -> list[TokenScores]:
        try:
            return run(windows, needs_logits)
        except Exception as error:
            if self.device is Device.CUDA and is_sticky(error):
                raise DeviceFailed("the GPU has failed; this process ends") from error
            raise

    def _run_once(self, windows: Sequence[Window], needs_logits: bool) -> list[TokenScores]:
        lengths = [len(window.ids) for window in windows]
        bucket = choose_bucket(self._buckets, lengths)
        if bucket is None:
            if (
                self._max_cells is not None
                and make_bucket(lengths).cells > self._max_cells
                and len(windows) > 1
            ):
                halves = (self._run_once(half, needs_logits) for half in halve(windows))
                return [scores for half in halves for scores in half]
            return self._run_eagerly(windows, needs_logits)
        step = self._steps[bucket]
        step.inputs.fill(windows)
        step.upload()
        step.replay()
        label_ids, scores = step.download()
        return split_results(windows, label_ids, scores, step.download_logits() if needs_logits else None)

    def _run_eagerly(self, windows: Sequence[Window], needs_logits: bool) -> list[TokenScores]:
        inputs = StepInputs(make_bucket([len(window.ids) for window in windows]), self._rules)
        inputs.fill(windows)
        names = ["label_ids", "scores", "logits"] if needs_logits else ["label_ids", "scores"]
        label_ids, scores, *rest = self._session.run(names, dict(inputs.views), self._uncaptured)
        return split_results(windows, label_ids[:, 0], scores[:, 0], rest[0] if rest else None)

    def _capture(self, buckets: Sequence[Bucket], max_length: int) -> None:
        """Make a step of every bucket, large ones first, so that the arena grows once; time and prove them.

        `step_seconds` then has the median time of the slowest step of each T, which has room for the longest windows
        and is filled with them: the limit that is chosen from it holds for whatever comes. Raises `ModelError`.
        """
        started = time.monotonic()
        for graph_id, bucket in reversed(list(enumerate(buckets, start=1))):
            try:
                step = _Step(self, bucket, graph_id)
                step.inputs.fill([])
                step.upload()
                step.replay()  # runs twice, captures and replays
                lengths = longest_windows(bucket, max_length)
                step.inputs.fill([self._some_window(length) for length in lengths])
                step.upload()
                seconds = max(self.step_seconds.get(bucket.tokens, 0.0), step.measure(_TIMED_RUNS))
                difference = self._compare(step, bucket.room(max_length))
            except Exception as error:  # onnxruntime raises its own classes, all plain `Exception`s
                raise ModelError(
                    f"the step of {bucket.tokens} tokens cannot be prepared on {self.device.value}: {error}; lower "
                    "batching.max_batch_tokens, or set model.device: cpu"
                ) from error
            if not difference <= _MOST_DIFFERENCE:
                raise ModelError(
                    f"the captured step of {bucket.tokens} tokens gives scores that differ by {difference:.3f} "
                    "from those of an eager run; the driver or onnxruntime is at fault: change one of the two, "
                    "or set model.device: cpu"
                )
            self.step_seconds[bucket.tokens] = seconds
            self._steps[bucket] = step
        self._steps = {bucket: self._steps[bucket] for bucket in buckets}
        log.info("%d step shapes prepared in %.1f s", len(buckets), time.monotonic() - started)

    def _some_window(self, n_tokens: int) -> Window:
        return Window([k % self._rules.n_words for k in range(1, n_tokens + 1)], 0)

    def _compare(self, step: _Step, n_tokens: int) -> float:
        """Return the largest difference of scores between a replay and an eager run of one window.

        A replay that computed what it was captured with, or began before the upload was complete, would give
        the scores of dummies.
        """
        step.inputs.fill([self._some_window(n_tokens)])
        step.upload()
        step.replay()
        _, replayed = step.download()
        step.run(self._uncaptured)
        _, eager = step.download()
        # Values that are not finite are refused later, as the fault of the model.
        return float(np.nan_to_num(np.abs(replayed[:n_tokens] - eager[:n_tokens])).max())


class _Step:
    """One bucket: fixed buffers on the device, their binding, and the id of the captured graph."""

    def __init__(self, session: PackedSession, bucket: Bucket, graph_id: int) -> None:
        self._session = session._session
        self.inputs = inputs = StepInputs(bucket, session._rules)
        where = (session.device.value, session._device_id)
        t = bucket.tokens
        # Label ids (int64) and scores lie in one block, in units of 4 bytes, so that one copy fetches both.
        self._results_at, size = lay_out({"label_ids": (2 * t,), "scores": (t,)})
        make = ort.OrtValue.ortvalue_from_shape_and_type
        self._block = make([len(inputs.block)], np.int32, *where)
        self._results = make([size], np.int32, *where)
        self._logits = make([t, session.n_labels], np.float32, *where)
        self._tokens = t
        self._options = _run_options(str(graph_id))
        self._binding = self._session.io_binding()
        base = self._block.data_ptr()
        for name, (start, shape) in inputs.places.items():
            self._binding.bind_input(name, *where, np.int32, list(shape), base + 4 * start)
        base = self._results.data_ptr()
        for name, dtype in (("label_ids", np.int64), ("scores", np.float32)):
            start, _ = self._results_at[name]
            self._binding.bind_output(name, *where, dtype, [t, 1], base + 4 * start)
        self._binding.bind_ortvalue_output("logits", self._logits)

    def upload(self) -> None:
        """Copy the inputs to the device; returns when they are there."""
        self._block.update_inplace(self.inputs.block)

    def replay(self) -> None:
        """Compute the step (the first time: capture it); returns when the results are there."""
        self.run(self._options)

    def run(self, options: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        """Compute the step with other options than its own; returns when the results are there."""
        self._session.run_with_iobinding(self._binding, options)

    def download(self) -> tuple[IntArray, FloatArray]:
        """Return label ids and scores of all T tokens; the arrays are the caller's."""
        block = self._results.numpy().copy() if self._is_host() else self._results.numpy()  # (n,)
        labels_at, _ = self._results_at["label_ids"]
        scores_at, _ = self._results_at["scores"]
        return (
            block[labels_at : labels_at + 2 * self._tokens].view(np.int64),
            block[scores_at : scores_at + self._tokens].view(np.float32),
        )

    def download_logits(self) -> FloatArray:
        """Return the logits (T, L) of the last replay; the array is the caller's."""
        logits: FloatArray = self._logits.numpy().copy() if self._is_host() else self._logits.numpy()
        return logits

    def measure(self, n_runs: int) -> float:
        """Return the median time of a replay, in seconds."""
        times: list[float] = []
        for _ in range(n_runs):
            started = time.perf_counter()
            self.replay()
            times.append(time.perf_counter() - started)
        return float(np.median(times))

    def _is_host(self) -> bool:
        """Tell whether `numpy()` gives the buffer itself, and not a copy (in tests on the CPU)."""
        return bool(self._block.device_name() == "cpu")


def _run_options(graph_id: str) -> Any:  # noqa: ANN401 - onnxruntime has no types
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph_id)
    return options
