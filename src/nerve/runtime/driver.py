"""Finds out why the CUDA provider of onnxruntime cannot be used on this machine.

onnxruntime writes the reason to its log, if anywhere, and raises something else. So when it has failed, the
same steps are taken here, with the driver's own functions: nothing of this runs where all is well.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from nerve.runtime.memory import Memory

if TYPE_CHECKING:
    from pathlib import Path

_DRIVER = "libcuda.so.1"
# The oldest driver for Linux that libraries of a major version of CUDA run on, whatever their minor version (CUDA
# Compatibility, NVIDIA: "minor version compatibility"), and the extra of nerve that brings such libraries.
_DRIVERS = {12: (525, "gpu-cuda12"), 13: (580, "gpu")}


def why_no_cuda(libraries: Path, device_id: int, cuda: int) -> str | None:
    """Return what is missing for CUDA on device `device_id`, or None when nothing is found to be.

    libraries: folder of onnxruntime's provider libraries. cuda: the major version of CUDA that they were built for.
    """
    return why_no_gpu(device_id, cuda) or _missing_library(libraries)


def why_no_gpu(device_id: int, cuda: int) -> str | None:
    """Return why no program can use the GPU `device_id` for this major version of CUDA, or None when one can."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        return f"there is no NVIDIA driver ({error})"
    status = driver.cuInit(0)
    if status:
        return f"the NVIDIA driver does not start: {_describe(driver, status)}"
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = (
        version.value // 1000,
        version.value % 1000 // 10,
    )  # cuDriverGetVersion counts 1000 x + 10 y
    if major < cuda:
        return f"the NVIDIA driver is too old: it supports CUDA {major}.{minor}, and {_remedy(major, cuda)}"
    driver.cuDeviceGetCount(ctypes.byref(count))
    if device_id >= count.value:
        return f"model.device_id is {device_id}, but there are {count.value} devices, counted from 0"
    status = _try_context(driver, device_id)
    if status:
        return f"device {device_id} cannot be used: {_describe(driver, status)}"
    return None


def _remedy(supported: int, cuda: int) -> str:
    """Say which driver a major version of CUDA needs, and what runs on the one that is there."""
    needed = f"CUDA {cuda} is needed"
    if cuda in _DRIVERS:
        needed += f" (driver {_DRIVERS[cuda][0]} or newer)"
    if supported in _DRIVERS:
        needed += f"; nerve[{_DRIVERS[supported][1]}] runs on CUDA {supported}"
    return needed


def device_memory(device_id: int) -> Memory | None:
    """Return the memory of a GPU; None where the driver does not tell. Others may hold a part of it."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, size = ctypes.c_int(), ctypes.c_size_t()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), device_id)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    )
    return None if failed or not size.value else Memory(size.value, size.value)


def _try_context(driver: ctypes.CDLL, device_id: int) -> int:
    """Take the device's context, as every program that computes must, and give it back; returns the driver's status.

    A device that is taken by another program, has no memory left or has failed is seen here.
    """
    device, context = ctypes.c_int(), ctypes.c_void_p()
    status: int = driver.cuDeviceGet(ctypes.byref(device), device_id)
    if not status:
        status = driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        if not status:
            driver.cuDevicePrimaryCtxRelease_v2(device)
    return status


def _describe(driver: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    if driver.cuGetErrorString(status, ctypes.byref(text)) or text.value is None:
        return f"error {status}"
    return f"{text.value.decode()} (error {status})"


def _missing_library(libraries: Path) -> str | None:
    """Load the provider as onnxruntime does; the linker names the library that it does not find."""
    try:
        for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
            ctypes.CDLL(str(libraries / name))
    except OSError as error:
        return f"a library is missing ({error})"
    return None
