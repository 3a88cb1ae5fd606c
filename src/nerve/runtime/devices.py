"""The table of what can run models, and the choice from it.

Nothing here loads onnxruntime before it is asked about, so that commands which run no model start quickly.
"""

from __future__ import annotations

import glob
import logging
import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.runtime.backend import GraphKind, Preparation, Provider
from nerve.runtime.driver import device_memory, why_no_gpu
from nerve.runtime.memory import usable_memory

if TYPE_CHECKING:
    from pathlib import Path

    from nerve.runtime.backend import Backend, OpenOptions

log = logging.getLogger(__name__)

GROUP = "nerve.backends"

# Default of batching.max_padding on CPU: docs/decisions/0005.
_CPU_MAX_PADDING = 0.05
# Tokens of a call on CPU from which on more tokens make it no more efficient: docs/decisions/0005.
_CPU_ENOUGH_TOKENS = 256
# Longest window on CPU by default. Attention grows with the square of the window, all else with its tokens: with a
# model as wide as BERT-base a token costs 1.4 times as many operations in a window of 2,048 as in one of 128, and 2.7
# times as many in one of 8,192.
_CPU_WINDOW_TOKENS = 2048
# Default of batching.max_batch_tokens on a GPU for graphs that are not packed. For packed ones it is measured.
_CUDA_BATCH_TOKENS = 16384
# Most windows of a call on a GPU by default: as many as the largest captured step has room for (`packing`).
_CUDA_BATCH_SIZE = 256


def _open_cpu(options: OpenOptions) -> Backend:
    from nerve.runtime.padded import Session  # noqa: PLC0415 - see above

    return Session.open(options, Device.CPU)


def _name_cpu() -> str | None:
    from nerve.runtime.prepared import name_cpu  # noqa: PLC0415 - see above

    return name_cpu()


def _prepare_for_cpu(graph: Path, folder: Path) -> bool:
    from nerve.runtime.prepared import write_prepared  # noqa: PLC0415 - see above

    return write_prepared(graph, folder)


def _open_cuda(options: OpenOptions) -> Backend:
    from nerve.runtime.packed import PackedSession  # noqa: PLC0415 - see above
    from nerve.runtime.padded import Session  # noqa: PLC0415 - see above

    if options.kind is GraphKind.PACKED:
        return PackedSession.open(options, Device.CUDA)
    return Session.open(options, Device.CUDA)


def _open_bfloat16(options: OpenOptions) -> Backend:
    from nerve.runtime.openvino import open_openvino  # noqa: PLC0415 - see above

    return open_openvino(options)


def _why_no_bfloat16() -> str | None:
    from nerve.runtime.openvino import why_no_bfloat16  # noqa: PLC0415 - see above

    return why_no_bfloat16()


def _why_no_cuda() -> str | None:
    from nerve.runtime.sessions import has_provider  # noqa: PLC0415 - see above

    if has_provider(Device.CUDA):
        return None
    return "the installed onnxruntime has no CUDA provider; install nerve[gpu] instead of nerve[cpu]"


CPU = Provider(
    device=Device.CPU.value,
    open=_open_cpu,
    precisions=(Precision.FLOAT32, Precision.INT8),
    shares_cores=True,
    max_padding=_CPU_MAX_PADDING,
    enough_tokens=_CPU_ENOUGH_TOKENS,
    memory=lambda device_id: usable_memory(),
    most_window_tokens=_CPU_WINDOW_TOKENS,
    preparation=Preparation(_name_cpu, _prepare_for_cpu),
)
# The CPU in bfloat16: a provider of its own, since another runtime computes it.
CPU_BFLOAT16 = Provider(
    device=Device.CPU.value,
    open=_open_bfloat16,
    precisions=(Precision.BFLOAT16,),
    graph_kind=GraphKind.STANDARD,
    shares_cores=True,
    why_not=_why_no_bfloat16,
    max_padding=_CPU_MAX_PADDING,
    enough_tokens=_CPU_ENOUGH_TOKENS,
    memory=lambda device_id: usable_memory(),
    most_window_tokens=_CPU_WINDOW_TOKENS,
)
CUDA = Provider(
    device=Device.CUDA.value,
    open=_open_cuda,
    precisions=(Precision.FLOAT16, Precision.FLOAT32),
    graph_kind=GraphKind.PACKED,
    owned=frozenset({GraphKind.PACKED}),
    has_one_owner=True,
    why_not=_why_no_cuda,
    least_batch_tokens=_CUDA_BATCH_TOKENS,
    max_batch_size=_CUDA_BATCH_SIZE,
    memory=device_memory,
)
BUILT_IN = {provider.device: provider for provider in (CPU, CUDA)}


def choose_provider(device: str, device_id: int = 0, precision: Precision = Precision.AUTO) -> Provider:
    """Return the provider of a device; `auto` is CUDA where it can be used, else the CPU.

    device_id: the GPU that is meant. precision: the CPU computes bfloat16 by a provider of its own.
    Raises `ModelError` when the device is unknown or cannot be used here, or computes no bfloat16.
    """
    if device == Device.AUTO:
        provider = _choose_automatically(device_id)
    else:
        provider = BUILT_IN.get(device) or _find_installed(device)
    if provider is CPU and precision is Precision.BFLOAT16:
        if reason := CPU_BFLOAT16.why_not():
            raise ModelError(f"model.precision is bfloat16, but {reason}; use auto, float32 or int8")
        return CPU_BFLOAT16
    if device == Device.AUTO:
        return provider
    reason = provider.why_not()
    if reason is not None:
        raise ModelError(f"model.device is {device}, but {reason}, or set device: cpu")
    return provider


def _choose_automatically(device_id: int) -> Provider:
    if CUDA.why_not() is not None:
        return CPU
    from nerve.runtime.sessions import cuda_major  # noqa: PLC0415 - see above

    if not _has_nvidia_device():
        log.warning("the installed onnxruntime has CUDA, but there is no NVIDIA device here: using the CPU")
        return CPU
    reason = why_no_gpu(device_id, cuda_major())
    if reason is not None:
        log.warning(
            "there is an NVIDIA device, but CUDA cannot use it: %s; using the CPU (model.device: cuda would refuse)",
            reason,
        )
        return CPU
    return CUDA


def _has_nvidia_device() -> bool:
    """Tell whether the NVIDIA driver shows a device; the CUDA wheel also runs where there is none."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/dev/dxg")  # a container may have any one


def _find_installed(device: str) -> Provider:
    """Return the provider that a package of somebody else's adds. Raises `ModelError`."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if device not in found:
        known = ", ".join([Device.AUTO.value, *BUILT_IN, *sorted(found)])
        raise ModelError(f"model.device: unknown device {device}; known here: {known}")
    point = found[device]
    try:
        provider: Provider = point.load()
    except Exception as error:
        raise ModelError(
            f"model.device is {device}, of another package ({point.value}), which cannot be loaded: "
            f"{type(error).__name__}: {error}; mend that package, or set model.device: cpu"
        ) from error
    return provider
