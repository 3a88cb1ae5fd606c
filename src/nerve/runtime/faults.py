"""Tells from what onnxruntime says which faults of a device can be survived.

onnxruntime raises plain exceptions whose text quotes CUDA, such as "CUDA failure 700: an illegal memory
access was encountered ; GPU=0 ; ...". After a sticky error every later CUDA call of the process fails, too
(CUDA runtime API, "Error handling": the process must be terminated and relaunched).
"""

from __future__ import annotations

import re

_CODE = re.compile(r"CUDA (?:failure|error)[ :]+(\d+)", re.IGNORECASE)
_NAME = re.compile(r"cudaError([A-Z]\w+)")
_OUT_OF_MEMORY = re.compile(
    r"out of memory|Failed to allocate memory|Available memory of \S+ is smaller than requested"
    r"|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_OUT_OF_MEMORY_CODE = 2  # cudaErrorMemoryAllocation

# driver_types.h of CUDA 13, enum cudaError: those whose text says that the process must be terminated, and those after
# which the device is gone or broken.
_STICKY = {
    46: "DevicesUnavailable",
    214: "ECCUncorrectable",
    220: "NvlinkUncorrectable",
    226: "Contained",
    700: "IllegalAddress",
    702: "LaunchTimeout",
    709: "ContextIsDestroyed",
    710: "Assert",
    714: "HardwareStackError",
    715: "IllegalInstruction",
    716: "MisalignedAddress",
    717: "InvalidAddressSpace",
    718: "InvalidPc",
    719: "LaunchFailure",
    721: "TensorMemoryLeak",
    810: "MpsClientTerminated",
    911: "ExternalDevice",
    999: "Unknown",
}
_STICKY_TEXT = re.compile(
    r"illegal memory access|unspecified launch failure|device-side assert|misaligned address"
    r"|illegal instruction|uncorrectable|GPU is lost|fallen off the bus|CUBLAS_STATUS_EXECUTION_FAILED",
    re.IGNORECASE,
)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether the device had no room for a step; a smaller one may fit."""
    text = str(error)
    return _OUT_OF_MEMORY_CODE in _codes(text) or _OUT_OF_MEMORY.search(text) is not None


def is_sticky(error: Exception) -> bool:
    """Tell whether nothing will run on the device any more, in this process."""
    text = str(error)
    names = set(_NAME.findall(text))
    return (
        not _codes(text).isdisjoint(_STICKY)
        or not names.isdisjoint(_STICKY.values())
        or _STICKY_TEXT.search(text) is not None
    )


def _codes(text: str) -> set[int]:
    return {int(code) for code in _CODE.findall(text)}
