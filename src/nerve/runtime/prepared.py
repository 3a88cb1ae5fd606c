"""Writes a graph as a session of ONNX Runtime on the CPU holds it, so that sessions share it instead of making it.

A session lays the weights of its matrix products out for the kernels of this CPU, in memory of its own: each session
and each process has a copy. Here they are written to a file once. Sessions over that file map it, so that all of them,
of all processes, have the same pages.

What fits one CPU may crash on another, or compute something else. So whoever keeps the file asks `name_cpu` first.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nerve.config import Device
from nerve.runtime.cgroups import read_text
from nerve.runtime.memory import give_back_free_memory
from nerve.runtime.sessions import create_session

if TYPE_CHECKING:
    from nerve.runtime.sessions import ort

MODEL = "model.onnx"
DATA = "model.data"

_CPUINFO = Path("/proc/cpuinfo")
# What tells one kind of CPU from another there, on x86 and ARM; the rest are clocks, caches and counts.
_KIND_KEYS = frozenset(
    {"vendor_id", "cpu family", "model", "stepping", "flags"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"}
)
# Tensors of fewer bytes stay in the graph.
_SMALL_TENSOR_BYTES = 1024
# Lengths of the windows that the written graph is tried with.
_LENGTHS = (16, 9)


def name_cpu(cpuinfo: Path = _CPUINFO) -> str | None:
    """Return a name for this kind of CPU; None where nothing tells which it is."""
    if sys.platform != "linux":
        return None
    # Cores of one machine may differ.
    facts = {line for line in read_text(cpuinfo).splitlines() if line.partition(":")[0].strip() in _KIND_KEYS}
    if not facts:
        return None
    return hashlib.sha256("\n".join([platform.machine(), *sorted(facts)]).encode()).hexdigest()[:12]


def write_prepared(graph: Path, folder: Path) -> bool:
    """Write a built graph into `folder` as `MODEL` and `DATA`; False where the result does not compute the same.

    graph: the file of one that is built for the CPU. Raises `ModelError`, or whatever onnxruntime raises.
    """
    entries = {
        "session.optimized_model_external_initializers_file_name": DATA,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(_SMALL_TENSOR_BYTES),
        "session.save_external_prepacked_constant_initializers": "1",
    }
    written = folder / MODEL
    made = create_session(graph, Device.CPU, 0, 1, entries=entries, saved_as=written)
    expected = _try(made)
    del made  # and its weights, before the next one is made
    give_back_free_memory()
    found = _try(create_session(written, Device.CPU, 0, 1))
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def _try(session: ort.InferenceSession) -> list[np.ndarray]:
    """Return what a session gives for a small batch."""
    ids = np.zeros((len(_LENGTHS), max(_LENGTHS)), np.int32)
    outputs = session.run(
        ["label_ids", "scores", "logits"], {"input_ids": ids, "lengths": np.array(_LENGTHS, np.int32)}
    )
    return [
        np.concatenate([row[:n].ravel() for row, n in zip(output, _LENGTHS, strict=True)])
        for output in outputs
    ]
