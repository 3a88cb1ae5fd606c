"""What is said where CUDA cannot be used. The answers are this machine's: with a driver and without."""

from __future__ import annotations

import ctypes
from pathlib import Path

import onnxruntime

from nerve.runtime.driver import why_no_cuda

LIBRARIES = Path(onnxruntime.__file__).parent / "capi"


def has_driver() -> bool:
    """Tell whether there is an NVIDIA driver to ask."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def test_what_is_missing_is_named() -> None:
    """Without a driver that is the reason; with one, a device that is not there is."""
    reason = why_no_cuda(LIBRARIES, device_id=1000)
    assert reason is not None
    assert (
        ("devices, counted from 0" in reason or "driver" in reason) if has_driver() else "libcuda" in reason
    )


def test_missing_library_is_named(tmp_path: Path) -> None:
    """The linker's word for it is passed on; a machine without a driver lacks that first."""
    reason = why_no_cuda(tmp_path, device_id=0)
    assert reason is not None
    assert "driver" in reason or "libonnxruntime_providers_shared.so" in reason
