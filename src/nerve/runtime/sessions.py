"""Opens sessions of onnxruntime; the one module that imports it.

Others have `ort` from here. It imports nothing else of what runs models.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nerve.config import Device
from nerve.errors import ModelError
from nerve.runtime.driver import why_no_cuda

# What onnxruntime is told by variables, because it takes it in no other way.
_passed_on = os.environ
# Official builds since 1.29 send telemetry to Microsoft over HTTPS, and keep a device id in the user's cache,
# unless this is set before they are loaded (Privacy.md of the onnxruntime wheel).
_passed_on.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort  # noqa: E402 - see above

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["are_products_clipped", "create_session", "cuda_major", "has_provider", "ort"]

# As below for the session: this silences what concerns none.
ort.set_default_logger_severity(4)

_PROVIDERS = {Device.CPU: "CPUExecutionProvider", Device.CUDA: "CUDAExecutionProvider"}
# On the CPU the fused operator takes a quarter longer than the two that it stands for, to the same bits.
_SLOW_FUSION = "BiasGeluFusion"
_NEWEST_CUDA = 13
# One session is made at a time: the environment, which `_one_kind_of_attention` changes, is one for all threads.
_making = threading.Lock()
# The graph c = MatMulInteger(a, b), a uint8 (m, k), b int8 (k, n), of opset 10; made in the tests, too. Here, because
# the module `onnx` is known to `graph` only.
_INT8_PRODUCT = (
    b'\x08\x07:b\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01gZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03'
    b"\x12\x01m\n\x03\x12\x01kZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01k\n\x03\x12\x01nb\x15\n\x01c\x12"
    b"\x10\n\x0e\x08\x06\x12\n\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\n"
)


def has_provider(device: Device) -> bool:
    """Tell whether this onnxruntime was built with the provider of a device."""
    return _PROVIDERS[device] in ort.get_available_providers()


def cuda_major() -> int:
    """Return the major version of CUDA that this onnxruntime was built for; of the newest that is known without one."""
    return int(str(ort.cuda_version).partition(".")[0] or _NEWEST_CUDA)


def create_session(
    source: bytes | Path,
    device: Device,
    device_id: int,
    n_threads: int,
    settings: Mapping[str, str] | None = None,
    entries: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    saved_as: Path | None = None,
) -> ort.InferenceSession:
    """Load a graph on exactly the provider of `device`.

    settings: further options of the CUDA provider. entries: further configuration of the session.
    without: optimizers of onnxruntime that must leave the graph alone. saved_as: file for the graph as it is optimized.
    Raises `ModelError` when the graph cannot be loaded, or would run elsewhere.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    # Helper threads spin between the operators of a call, but give the core back when it ends.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if saved_as is not None:
        options.optimized_model_filepath = str(saved_as)
    # Nothing below fatal: failures are raised, too, and onnxruntime's own lines could hold token ids.
    options.log_severity_level = 4
    provider = _PROVIDERS[device]
    provider_options: dict[str, str] = {}
    if device is Device.CPU:
        without = [*without, _SLOW_FUSION]
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        if are_products_clipped():
            # Weights become unsigned, for which this CPU has another, exact, instruction: docs/decisions/0020.
            options.add_session_config_entry("session.x64quantprecision", "1")
    if device is Device.CUDA:
        ort.preload_dlls()
        provider_options = {
            "device_id": str(device_id),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",  # float32 means float32; float16 does not care
            # Layer norms add up in float32. Since 1.28 onnxruntime always does; nerve[gpu-cuda12] has an older one.
            "enable_skip_layer_norm_strict_mode": "1",
            **(settings or {}),
        }
    try:
        with _making, _one_kind_of_attention(device):
            session = ort.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=[(provider, provider_options)],
                disabled_optimizers=list(without),
                enable_fallback=0,  # else a failure, at load or in any later run, moves the session to the CPU
            )
    except Exception as error:  # onnxruntime raises its own classes, all plain `Exception`s
        _refuse_without_cuda(device, device_id, error)
        raise ModelError(
            f"onnxruntime cannot load the graph on {device.value}: {' '.join(str(error).split())}; fetch the "
            "checkpoint again, or export it anew"
        ) from error
    used = session.get_providers()[0]
    if used != provider:
        _refuse_without_cuda(device, device_id)
        raise ModelError(
            f"model.device is {device.value}, but onnxruntime runs the graph with {used}; set model.device: cpu"
        )
    return session


@functools.cache
def _share_arena() -> None:
    """Make the memory for what calls compute that all sessions on the CPU share; each would keep as much by itself.

    Of two sessions over one graph, both keep what the largest call has taken.
    """
    usual = ort.OrtArenaCfg(0, -1, -1, -1)
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, usual)


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
    text alone would not give the same bits as the same text in a padded batch. On CUDA the same variable would take
    the quickest operators away, so it cannot stay set. The caller holds `_making`.
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
    if device is not Device.CUDA:
        return
    reason = why_no_cuda(Path(ort.__file__).parent / "capi", device_id, cuda_major())
    if reason is not None:
        raise ModelError(
            f"CUDA cannot be used: {reason}; install nerve[gpu] on a machine with an NVIDIA GPU and its driver "
            "for CUDA 13 (nerve[gpu-cuda12]: for CUDA 12), or set model.device to cpu"
        ) from error
