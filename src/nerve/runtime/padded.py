"""Runs batches of windows, padded to the longest, through one ONNX graph.

Two kinds of graph are served. A built one (`nerve.graph`) takes `input_ids` and `lengths` and gives the
best label and its probability, with the logits as a further output. A ready one, as found in a
checkpoint, takes `input_ids`, usually `attention_mask` and sometimes `token_type_ids`, and gives `logits`
only; softmax and argmax are then done here. Packed graphs are for `packed`.

Threads: `run` may be called from several threads; ONNX Runtime releases the interpreter lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.config import CpuMode, Device
from nerve.errors import DeviceFailed, ModelError
from nerve.runtime.backend import Backend, run_those_with_tokens
from nerve.runtime.faults import is_sticky
from nerve.runtime.sessions import create_session, ort
from nerve.types import TokenScores, Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    import numpy.typing as npt

    from nerve.runtime.backend import OpenOptions
    from nerve.types import FloatArray

    # Of a padded batch: label ids (B,T), scores (B,T), and the logits (B,T,L) where they are needed.
    BatchScores = tuple[npt.NDArray[Any], FloatArray, FloatArray | None]

_INTEGER_TYPES: dict[str, type[np.integer[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class Session(Backend):
    """One loaded graph on one execution provider.

    On CPU there are two ways to use the cores: all of them on one call, which halves the latency of a lone
    request on two cores, or a call on each, which computes a tenth to a third more when requests queue up
    (docs/decisions/0006). onnxruntime fixes the threads of a session when it is made, so with
    `CpuMode.AUTO` there are two sessions over the same graph, and the caller says for each call what it
    wants. Where the graph is prepared (`runtime.prepared`) both map the same weights; else each has its own.

    source: the serialised graph, or its path (needed when weights lie in external files).
    pad_id: id that fills rows up to the longest; some graphs derive positions from it.
    n_threads: threads that one call may use when it is spread (CPU).
    """

    def __init__(
        self,
        source: bytes | Path,
        device: Device,
        device_id: int,
        pad_id: int,
        n_threads: int = 1,
        mode: CpuMode = CpuMode.THROUGHPUT,
    ) -> None:
        self._pad_id = pad_id
        self.device = device
        is_cpu = device is Device.CPU
        self.n_threads = n_threads if is_cpu and mode is not CpuMode.LATENCY else 1
        self.can_spread = is_cpu and mode is CpuMode.AUTO
        self._session = create_session(source, device, device_id, n_threads if mode is CpuMode.LATENCY else 1)
        self.provider = str(self._session.get_providers()[0])
        self._wide = self._session
        if mode is CpuMode.AUTO and device is Device.CPU and n_threads > 1:
            self._wide = create_session(source, device, device_id, n_threads)
        self._inputs = {node.name: node.type for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        self._is_built = "lengths" in self._inputs
        self.n_labels = self._count_labels()
        self._id_type = self._integer_type("input_ids")
        self._logits_name = "logits" if "logits" in outputs else outputs[0]
        self._mask_type = self._integer_type("attention_mask") if "attention_mask" in self._inputs else None
        self._type_type = self._integer_type("token_type_ids") if "token_type_ids" in self._inputs else None

    @classmethod
    def open(cls, options: OpenOptions, device: Device) -> Self:
        """Open the graph as a backend. Raises `ModelError`."""
        session = cls(
            options.source, device, options.device_id, options.pad_id, options.n_threads, options.mode
        )
        session.policy = options.policy
        return session

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Compute one batch; returns the scores of each window, in order.

        spread: nothing else wants the cores now, so this call may use them all.
        Raises `DeviceFailed` when nothing will run any more, else whatever onnxruntime raises.
        """
        if not all(len(window.ids) for window in windows):
            return run_those_with_tokens(
                windows, self.n_labels or 1, lambda held: self.run(held, needs_logits, spread)
            )
        session = self._wide if spread else self._session
        return self._run_on(session, windows, needs_logits)

    def give_back_memory(self) -> None:
        """See `Backend`. The memory for what calls compute is that of all sessions on the CPU."""
        if self.device is Device.CPU:
            options = ort.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self._run_on(self._session, [Window([self._pad_id], 0)], False, options)

    def _run_on(
        self,
        session: ort.InferenceSession,
        windows: Sequence[Window],
        needs_logits: bool,
        options: ort.RunOptions | None = None,
    ) -> list[TokenScores]:
        ids, lengths = collate([window.ids for window in windows], self._pad_id, self._id_type)  # (B,T), (B,)
        try:
            run = self._run_built if self._is_built else self._run_ready
            label_ids, scores, logits = run(session, ids, lengths, needs_logits, options)
        except Exception as error:
            if self.device is Device.CUDA and is_sticky(error):
                raise DeviceFailed("the GPU has failed; this process ends") from error
            raise
        return [
            TokenScores(label_ids[b, :n], scores[b, :n], logits[b, :n] if logits is not None else None)
            for b, n in enumerate(lengths.tolist())
        ]

    def _run_built(
        self,
        session: ort.InferenceSession,
        ids: npt.NDArray[Any],
        lengths: npt.NDArray[np.int32],
        needs_logits: bool,
        options: ort.RunOptions | None,
    ) -> BatchScores:
        names = ["label_ids", "scores", "logits"] if needs_logits else ["label_ids", "scores"]
        label_ids, scores, *rest = session.run(names, {"input_ids": ids, "lengths": lengths}, options)
        return label_ids, scores, rest[0] if rest else None

    def _run_ready(
        self,
        session: ort.InferenceSession,
        ids: npt.NDArray[Any],
        lengths: npt.NDArray[np.int32],
        needs_logits: bool,
        options: ort.RunOptions | None,
    ) -> BatchScores:
        feeds: dict[str, npt.NDArray[Any]] = {"input_ids": ids}
        if self._mask_type is not None:
            mask = np.arange(ids.shape[1]) < lengths[:, None]  # (B,T)
            feeds["attention_mask"] = mask.astype(self._mask_type)
        if self._type_type is not None:
            feeds["token_type_ids"] = np.zeros(ids.shape, self._type_type)
        (logits,) = session.run([self._logits_name], feeds, options)  # (B,T,L)
        # Of all windows at once: each call of numpy gives the interpreter lock away, and has to wait for it.
        label_ids, scores, values = best_labels(logits)
        return label_ids, scores, values if needs_logits else None

    def _count_labels(self) -> int | None:
        """Return L as the graph declares it, or None when it leaves it open."""
        shape = next((o.shape for o in self._session.get_outputs() if o.name == "logits"), None)
        if shape is None:
            shape = self._session.get_outputs()[0].shape
        return shape[-1] if shape and isinstance(shape[-1], int) else None

    def _integer_type(self, name: str) -> type[np.integer[Any]]:
        kind = self._inputs.get(name)
        if kind not in _INTEGER_TYPES:
            raise ModelError(
                f"the graph's input {name} is {kind or 'missing'}, not int64 or int32; export it again with "
                "`nerve export`"
            )
        return _INTEGER_TYPES[kind]


def collate(
    rows: Sequence[list[int]], pad_id: int, dtype: type[np.integer[Any]]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Pad rows of ids on the right to the longest: returns ids (B,T) and lengths int32 (B,)."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    if min(lengths) == longest:
        ids = np.array(rows, dtype)
    else:
        ids = np.full((len(rows), longest), pad_id, dtype)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
    return ids, np.array(lengths, np.int32)


def best_labels(
    logits: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """Return the best label of each token, its softmax probability, and the logits, both in float32.

    logits: (..., L); the labels and probabilities are (...).
    """
    values: FloatArray = logits.astype(np.float32, copy=False)
    label_ids = values.argmax(axis=-1)  # (...); the first of equal values
    # The methods `max` and `sum` take a microsecond longer each.
    best = np.maximum.reduce(values, axis=-1, keepdims=True)  # (..., 1)
    scores = 1 / np.add.reduce(np.exp(values - best), axis=-1)  # softmax of the largest: exp(0) / sum
    return label_ids, scores, values
