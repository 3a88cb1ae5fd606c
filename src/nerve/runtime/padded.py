"""Runs batches of windows, padded to the longest, through one ONNX graph.

Two kinds of graph are served. A built one (`nerve.graph`) takes `input_ids` and `lengths` and gives the
best label and its probability, with the logits as a further output. A ready one, as found in a
checkpoint, takes `input_ids`, usually `attention_mask` and sometimes `token_type_ids`, and gives `logits`
only; softmax and argmax are then done here. Packed graphs are for `packed_session`.

The one module that imports `onnxruntime`; `packed_session` has it from here.
Threads: `run` may be called from several threads; ONNX Runtime releases the interpreter lock.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.config import CpuMode, Device
from nerve.errors import DeviceFailed, ModelError
from nerve.runtime.driver import why_no_cuda
from nerve.runtime.faults import is_sticky
from nerve.types import TokenScores

# What onnxruntime is told by variables, because it takes it in no other way.
_passed_on = os.environ
# Official builds since 1.29 send telemetry to Microsoft over HTTPS, and keep a device id in the user's cache,
# unless this is set before they are loaded (Privacy.md of the onnxruntime wheel).
_passed_on.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort  # noqa: E402 - see above

__all__ = ["Session", "best_labels", "choose_device", "collate", "create_session", "ort"]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from nerve.types import FloatArray, TokenIds, Window

    # Of a padded batch: label ids (B,T), scores (B,T), and the logits (B,T,L) where they are needed.
    BatchScores = tuple[npt.NDArray[Any], FloatArray, FloatArray | None]

log = logging.getLogger(__name__)

# As below for the session: this silences what concerns none.
ort.set_default_logger_severity(4)

_PROVIDERS = {Device.CPU: "CPUExecutionProvider", Device.CUDA: "CUDAExecutionProvider"}
_INTEGER_TYPES: dict[str, type[np.integer[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
# On the CPU the fused operator takes a quarter longer than the two that it stands for, to the same bits.
_SLOW_FUSION = "BiasGeluFusion"
_FLOAT_TYPES = ("tensor(float)", "tensor(float16)")
# The graph c = MatMulInteger(a, b), a uint8 (m, k), b int8 (k, n), of opset 10; made in the tests, too. Here, because
# the module `onnx` is known to `graph` only.
_INT8_PRODUCT = (
    b'\x08\x07:b\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01gZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03'
    b"\x12\x01m\n\x03\x12\x01kZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01k\n\x03\x12\x01nb\x15\n\x01c\x12"
    b"\x10\n\x0e\x08\x06\x12\n\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\n"
)


def choose_device(asked: Device) -> Device:
    """Resolve `auto`: CUDA where this onnxruntime has the provider and a device answers, else CPU.

    Raises `ModelError` when CUDA is asked for and this onnxruntime was built without it.
    """
    has_cuda = _PROVIDERS[Device.CUDA] in ort.get_available_providers()
    if asked is Device.CUDA and not has_cuda:
        raise ModelError(
            "model.device is cuda, but the installed onnxruntime has no CUDA provider; "
            "install nerve[gpu] instead of nerve[cpu], or set device: cpu"
        )
    if asked is not Device.AUTO:
        return asked
    if has_cuda and not _has_nvidia_device():
        log.warning("the installed onnxruntime has CUDA, but there is no NVIDIA device here: using the CPU")
    return Device.CUDA if has_cuda and _has_nvidia_device() else Device.CPU


def _has_nvidia_device() -> bool:
    """Tell whether the NVIDIA driver shows a device; the CUDA wheel also runs where there is none."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/dev/dxg")  # a container may have any one


class Session:
    """One loaded graph on one execution provider.

    On CPU there are two ways to use the cores: all of them on one call, which halves the latency of a lone
    request on two cores, or a call on each, which computes a tenth to a third more when requests queue up
    (docs/design.md, "CPU threads"). onnxruntime fixes the threads of a session when it is made, so with
    `CpuMode.AUTO` there are two sessions over the same graph, and the caller says for each call what it
    wants. That holds the weights in memory twice; the other modes hold them once.

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
        self._session = create_session(source, device, device_id, n_threads if mode is CpuMode.LATENCY else 1)
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

    @property
    def provider(self) -> str:
        """Name of the execution provider that runs the graph."""
        return str(self._session.get_providers()[0])

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Compute one batch; returns the scores of each window, in order.

        spread: nothing else wants the cores now, so this call may use them all.
        Raises `DeviceFailed` when nothing will run any more, else whatever onnxruntime raises.
        """
        session = self._wide if spread else self._session
        ids, lengths = collate([window.ids for window in windows], self._pad_id, self._id_type)  # (B,T), (B,)
        try:
            run = self._run_built if self._is_built else self._run_ready
            label_ids, scores, logits = run(session, ids, lengths, needs_logits)
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
    ) -> BatchScores:
        names = ["label_ids", "scores", "logits"] if needs_logits else ["label_ids", "scores"]
        label_ids, scores, *rest = session.run(names, {"input_ids": ids, "lengths": lengths})
        return label_ids, scores, rest[0] if rest else None

    def _run_ready(
        self,
        session: ort.InferenceSession,
        ids: npt.NDArray[Any],
        lengths: npt.NDArray[np.int32],
        needs_logits: bool,
    ) -> BatchScores:
        feeds: dict[str, npt.NDArray[Any]] = {"input_ids": ids}
        if self._mask_type is not None:
            mask = np.arange(ids.shape[1]) < lengths[:, None]  # (B,T)
            feeds["attention_mask"] = mask.astype(self._mask_type)
        if self._type_type is not None:
            feeds["token_type_ids"] = np.zeros(ids.shape, self._type_type)
        (logits,) = session.run([self._logits_name], feeds)  # (B,T,L)
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
            raise ModelError(f"the graph's input {name} is {kind or 'missing'}; it must be int64 or int32")
        return _INTEGER_TYPES[kind]


def collate(
    rows: Sequence[TokenIds], pad_id: int, dtype: type[np.integer[Any]]
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


def create_session(
    source: bytes | Path,
    device: Device,
    device_id: int,
    n_threads: int,
    settings: Mapping[str, str] | None = None,
    entries: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
) -> ort.InferenceSession:
    """Load a graph on exactly the provider of `device`.

    settings: further options of the CUDA provider. entries: further configuration of the session.
    without: optimizers of onnxruntime that must leave the graph alone.
    Raises `ModelError` when the graph cannot be loaded, or would run elsewhere.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    # Helper threads spin between the operators of a call, but give the core back when it ends.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    # Nothing below fatal: failures are raised, too, and onnxruntime's own lines could hold token ids.
    options.log_severity_level = 4
    provider = _PROVIDERS[device]
    provider_options: dict[str, str] = {}
    if device is Device.CPU:
        without = [*without, _SLOW_FUSION]
        if are_products_clipped():
            # Weights become unsigned, for which this CPU has another, exact, instruction: docs/graphs.md, "int8".
            options.add_session_config_entry("session.x64quantprecision", "1")
    if device is Device.CUDA:
        ort.preload_dlls()
        provider_options = {
            "device_id": str(device_id),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",  # float32 means float32; float16 does not care
            **(settings or {}),
        }
    try:
        with _one_kind_of_attention(device):
            session = ort.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=[(provider, provider_options)],
                disabled_optimizers=list(without),
                enable_fallback=0,  # else a failure, at load or in any later run, moves the session to the CPU
            )
    except Exception as error:  # onnxruntime raises its own classes, all plain `Exception`s
        _refuse_without_cuda(device, device_id, error)
        raise ModelError(f"onnxruntime cannot load the graph on {device.value}: {error}") from error
    used = session.get_providers()[0]
    if used != provider:
        _refuse_without_cuda(device, device_id)
        raise ModelError(f"model.device is {device.value}, but onnxruntime runs the graph with {used}")
    return session


@functools.cache
def are_products_clipped() -> bool:
    """Tell whether this CPU adds products of uint8 and int8 up in 16 bits, where large ones do not fit.

    That is so for x86 without VNNI. It is measured, since onnxruntime does not tell: what it asks itself before it
    heeds `session.x64quantprecision` (`MlasPlatformU8S8Overflow`) is true with VNNI, too, and would cost speed there.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(_INT8_PRODUCT, options, providers=[_PROVIDERS[Device.CPU]])
    largest = {"a": np.full((1, 2), 255, np.uint8), "b": np.full((2, 1), 127, np.int8)}
    (product,) = session.run(None, largest)
    return int(product[0, 0]) != 2 * 255 * 127


@contextlib.contextmanager
def _one_kind_of_attention(device: Device) -> Iterator[None]:
    """Keep the CPU's attention operators from another way to compute where there is no padding.

    They read the variable when a session is made. The other way (flash attention) adds up in another order, so a
    text alone would not give the same bits as the same text in a padded batch.
    """
    name = "ORT_DISABLE_FLASH_ATTENTION"
    before = _passed_on.get(name)
    if device is Device.CPU:
        _passed_on[name] = "1"
    try:
        yield
    finally:
        if before is None:
            _passed_on.pop(name, None)
        else:
            _passed_on[name] = before


def _refuse_without_cuda(device: Device, device_id: int, error: Exception | None = None) -> None:
    """Raise `ModelError` if a session could not be had because this machine lacks something of CUDA.

    Without the driver or a library onnxruntime either takes the CPU or raises something about that.
    """
    reason = why_no_cuda(Path(ort.__file__).parent / "capi", device_id) if device is Device.CUDA else None
    if reason is not None:
        raise ModelError(
            f"CUDA cannot be used: {reason}; install nerve[gpu] on a machine with an NVIDIA GPU and its driver "
            "for CUDA 13, or set model.device to cpu"
        ) from error
