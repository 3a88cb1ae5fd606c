"""Runs batches of windows in bfloat16 on the CPU, with OpenVINO.

For CPUs that multiply in bfloat16 (AVX512-BF16, AMX): ONNX Runtime's CPU provider does not. Weights and activations of
products are rounded to bfloat16 and summed in float32; softmax and the best label are made of the logits in float32.

Threads: `run` may be called from several threads; each has an infer request of its own, and OpenVINO releases the
interpreter lock.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.config import CpuMode
from nerve.errors import ModelError
from nerve.runtime.backend import Backend, run_those_with_tokens
from nerve.runtime.padded import best_labels, collate
from nerve.types import TokenScores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from nerve.runtime.backend import OpenOptions
    from nerve.types import Window

PRECISION = "bf16"  # of products; OpenVINO's name
_TYPES: dict[str, type[np.integer[Any]]] = {"i64": np.int64, "i32": np.int32}
# The product by which precisions are compared at a start: tokens, and the width and inner width of BERT-base.
_PROBE = (64, 768, 3072)
_PROBE_RUNS = 5


class OpenVinoSession(Backend):
    """One graph, compiled for a call on each core, and with `CpuMode.AUTO` once more for one call on all of them."""

    provider = "OpenVINO"

    def __init__(self, options: OpenOptions) -> None:
        self.policy = options.policy
        self._pad_id = options.pad_id
        self.n_threads = 1 if options.mode is CpuMode.LATENCY else options.n_threads
        self.can_spread = options.mode is CpuMode.AUTO
        model = _read(options.source)
        self._calls = _Compiled(model, options.n_threads, self.n_threads)
        self._wide = self._calls
        if self.can_spread and options.n_threads > 1:
            self._wide = _Compiled(model, options.n_threads, 1)
        self._inputs = {name: _type_of(one) for one in model.inputs for name in one.names}
        if "input_ids" not in self._inputs:
            raise ModelError("the graph has no input input_ids; export it again with `nerve export`")
        self._output = _logits_of(model)
        labels = self._output.partial_shape[-1]
        self.n_labels = labels.get_length() if labels.is_static else None

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """See `Backend`."""
        if not all(len(window.ids) for window in windows):
            return run_those_with_tokens(
                windows, self.n_labels or 1, lambda held: self.run(held, needs_logits, spread)
            )
        ids, lengths = collate([window.ids for window in windows], self._pad_id, self._inputs["input_ids"])
        feeds: dict[str, npt.NDArray[Any]] = {"input_ids": ids}
        if "lengths" in self._inputs:
            feeds["lengths"] = lengths
        if "attention_mask" in self._inputs:
            mask = np.arange(ids.shape[1]) < lengths[:, None]  # (B, T)
            feeds["attention_mask"] = mask.astype(self._inputs["attention_mask"])
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros(ids.shape, self._inputs["token_type_ids"])
        logits = (self._wide if spread else self._calls).run(feeds, self._output)  # (B, T, L)
        label_ids, scores, values = best_labels(logits)
        return [
            TokenScores(label_ids[b, :n], scores[b, :n], values[b, :n] if needs_logits else None)
            for b, n in enumerate(lengths.tolist())
        ]


class _Compiled:
    """A model compiled for so many calls at a time, over so many threads in all."""

    def __init__(self, model: Any, n_threads: int, n_calls: int) -> None:  # noqa: ANN401 - openvino has no types
        from openvino import Core  # noqa: PLC0415 - an extra

        settings = {
            "INFERENCE_PRECISION_HINT": PRECISION,
            "INFERENCE_NUM_THREADS": n_threads,
            "NUM_STREAMS": n_calls,
            "ENABLE_CPU_PINNING": False,  # others may have the core
        }
        self._model = Core().compile_model(model, "CPU", settings)
        self._of_thread = threading.local()

    def run(self, feeds: dict[str, npt.NDArray[Any]], output: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401
        """Return one output; the array is the caller's."""
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._model.create_infer_request()
        request.infer(feeds, share_inputs=True)
        found: npt.NDArray[np.float32] = request.get_tensor(output).data.copy()
        return found


def open_openvino(options: OpenOptions) -> OpenVinoSession:
    """Open a graph in bfloat16. Raises `ModelError`."""
    try:
        return OpenVinoSession(options)
    except RuntimeError as error:  # all that openvino raises
        raise ModelError(f"OpenVINO cannot load the graph: {error}; set model.precision: float32") from error


def why_no_bfloat16() -> str | None:
    """Return why bfloat16 is not to be had here, or None: the package, the CPU's instructions, or its speed.

    Whether a CPU has instructions for bfloat16 does not say that they are faster: one product is computed both ways.
    """
    try:
        from openvino import Core  # noqa: PLC0415 - an extra
    except ImportError:
        return (
            "bfloat16 on the CPU is computed with OpenVINO, which is not installed; install nerve[openvino]"
        )
    if "BF16" not in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU has no instructions for bfloat16 (AVX512-BF16 or AMX)"
    ours, theirs = compare_products()
    if ours >= theirs:
        return (
            f"bfloat16 is slower than float32 on this CPU: {1000 * ours:.1f} against {1000 * theirs:.1f} ms for a "
            "product of BERT-base's size"
        )
    return None


@functools.cache
def compare_products() -> tuple[float, float]:
    """Return the CPU seconds of one product on one thread, in bfloat16 and in float32, both by OpenVINO.

    CPU time, because the clock on the wall also measures what else runs here, which must not decide about a start.

    Its products in float32 take as long as ONNX Runtime's (docs/decisions/0021).
    """
    from openvino import Core, Model, opset13  # noqa: PLC0415 - an extra

    tokens, width, inner = _PROBE
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((width, inner)).astype(np.float32)
    values = rng.standard_normal((tokens, width)).astype(np.float32)
    given = opset13.parameter([tokens, width], np.float32)
    model = Model([opset13.matmul(given, opset13.constant(weights), False, False)], [given])
    requests = []
    for precision in (PRECISION, "f32"):
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        requests.append(Core().compile_model(model, "CPU", settings).create_infer_request())
    # In turns, so that a change of the cores' frequency hits both. The first calls prepare.
    times = [[_seconds_of(request, values) for request in requests] for _ in range(_PROBE_RUNS + 1)]
    ours, theirs = (min(found) for found in zip(*times[1:], strict=True))
    return ours, theirs


def _seconds_of(request: Any, values: npt.NDArray[Any]) -> float:  # noqa: ANN401
    started = time.process_time()
    request.infer([values])
    return time.process_time() - started


def _read(source: bytes | Path) -> Any:  # noqa: ANN401
    from openvino import Core  # noqa: PLC0415 - an extra

    return Core().read_model(source, b"") if isinstance(source, bytes) else Core().read_model(str(source))


def _type_of(node: Any) -> type[np.integer[Any]]:  # noqa: ANN401
    kind = node.element_type.get_type_name()
    if kind not in _TYPES:
        raise ModelError(
            f"the graph's input {node.any_name} is {kind}, not int64 or int32; export it again with `nerve export`"
        )
    return _TYPES[kind]


def _logits_of(model: Any) -> Any:  # noqa: ANN401
    return next((one for one in model.outputs if "logits" in one.names), model.outputs[0])
