"""What the hardware of this machine is: the processor and its instructions, the cards.

For people who ask (`nerve doctor`); nothing decides by it.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path

from nerve.runtime.cgroups import read_text

_CPUINFO = Path("/proc/cpuinfo")
_DRIVER = "libcuda.so.1"
_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
# Instructions that a model's speed depends on, and the flags of /proc/cpuinfo that show them: any one of them.
_INSTRUCTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "AVX2": ("avx2",),
        "AVX512": ("avx512f",),
        "VNNI": ("avx512_vnni", "avx_vnni"),
        "bf16": ("avx512_bf16", "amx_bf16"),
        "AMX": ("amx_tile",),
    },
    "aarch64": {
        "NEON": ("asimd",),
        "dot product": ("asimddp",),
        "i8mm": ("i8mm",),
        "bf16": ("bf16",),
        "SVE": ("sve",),
    },
}


@dataclass(frozen=True, slots=True)
class Processor:
    """name: as the kernel tells it, or the architecture. instructions: those that matter, and whether it has them."""

    name: str
    architecture: str
    instructions: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Card:
    """An NVIDIA GPU. capability: of its arithmetic, as 9.0. memory: bytes."""

    name: str
    capability: str
    memory: int


def read_processor(cpuinfo: Path = _CPUINFO, architecture: str | None = None) -> Processor:
    """Return what the kernel tells of the processor; no instruction is known where it tells nothing."""
    architecture = architecture or platform.machine()
    facts: dict[str, str] = {}
    for line in read_text(cpuinfo).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    known = _INSTRUCTIONS.get(architecture, {}) if flags else {}
    found = {name: any(flag in flags for flag in signs) for name, signs in known.items()}
    return Processor(facts.get("model name", architecture), architecture, found)


def read_cards() -> tuple[str | None, list[Card]]:
    """Return the CUDA version of the driver, as 13.0, and the cards that it shows; (None, []) without a driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None, []
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    interface = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return interface, []
    cards = [_read_card(driver, number) for number in range(count.value)]
    return interface, [card for card in cards if card is not None]


def _read_card(driver: ctypes.CDLL, number: int) -> Card | None:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), number)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    if failed:
        return None
    return Card(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", size.value)
