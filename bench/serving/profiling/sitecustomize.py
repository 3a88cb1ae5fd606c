"""Count the CPU time that threads spend in calls of onnxruntime, or of the simulated card.

Python imports this file at start, from PYTHONPATH. Each process writes its own file in the folder BENCH_MODEL_CPU,
named by its process id: pairs of float64, a thread's id and its CPU seconds inside `run`. stages.py reads them; without
the variable nothing is counted.
"""

import mmap
import os
import sys
import threading
import time
from pathlib import Path

THREADS = 64
CALLS = ("run", "run_with_iobinding", "run_with_ort_values", "run_with_ortvaluevector")


def install(folder: Path) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415  only when it is asked for

    with (folder / str(os.getpid())).open("w+b") as file:
        file.truncate(16 * THREADS)
        numbers = memoryview(mmap.mmap(file.fileno(), 16 * THREADS)).cast("d")
    slots: dict[int, int] = {}  # thread id -> position of its seconds

    def count(call):
        def counted(*arguments, **keywords):
            start = time.thread_time()
            try:
                return call(*arguments, **keywords)
            finally:
                thread = threading.get_native_id()
                slot = slots.get(thread)
                if slot is None:
                    slot = slots[thread] = 2 * len(slots) + 1
                    numbers[slot - 1] = thread
                numbers[slot] += time.thread_time() - start

        return counted

    if "BENCH_CARD" in os.environ:
        sys.path.append(str(Path(__file__).parents[1]))
        from card import Card  # noqa: PLC0415  as its backend in plugins/ imports it

        Card.compute = count(Card.compute)
    for name in CALLS:
        if hasattr(state.InferenceSession, name):
            setattr(state.InferenceSession, name, count(getattr(state.InferenceSession, name)))


if "BENCH_MODEL_CPU" in os.environ:
    install(Path(os.environ["BENCH_MODEL_CPU"]))
