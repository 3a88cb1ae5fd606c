"""Engine times, and the open points of the study, one process each: a fault of one leaves the others be.

python -m bench.gpu.engine NAME MODEL_FOLDER DEVICE      prints one JSON object as its last line
"""

import contextlib
import ctypes
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.gpu.branches import without_branches
from bench.paths import REPOSITORY

sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tests")]

from nerve.config import Device, Precision, default_cache_dir
from nerve.graph import load_graph
from nerve.runtime.devices import CUDA
from nerve.runtime.faults import is_sticky
from nerve.runtime.packed import WITHOUT, PackedSession, _run_options
from nerve.runtime.packing import (
    Bucket,
    PackingRules,
    StepInputs,
    StepLimits,
    choose_bucket,
    choose_budget,
    make_bucket,
)
from nerve.runtime.sessions import create_session, ort
from nerve.types import Window

N_RUNS = 60
IS_REHEARSAL = sys.argv[-1] == Device.CPU.value  # the numbers mean nothing then


def packed_graph(folder: Path, device: Device) -> bytes | Path:
    """Return the packed graph: float16 on the GPU; on the CPU a twin in standard operators."""
    if device is Device.CUDA:
        return load_graph(folder, Precision.FLOAT16, default_cache_dir(), provider=CUDA).source
    from packed_reference import on_cpu

    return on_cpu(load_graph(folder, Precision.FLOAT32, default_cache_dir(), provider=CUDA).source)


def open_session(folder: Path, device: Device, limits: StepLimits | None = None) -> PackedSession:
    """Open the packed graph as nerve does, all steps captured."""
    source = packed_graph(folder, device)
    limits = limits or (StepLimits(512, 32, 2048) if device is Device.CUDA else StepLimits(64, 8, 128))
    return PackedSession(source, device, 0, limits)


def window(length: int, seed: int = 0) -> Window:
    """Make a window of random ids."""
    return Window(np.random.default_rng(seed).integers(0, 900, length).tolist(), 0)


def median_ms(work: Callable[[], object], n_runs: int = N_RUNS) -> float:
    """Return the median time of `work`."""
    times = []
    if IS_REHEARSAL:
        n_runs = 3
    for _ in range(n_runs + 3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[3:]))


def windows_for(bucket: Bucket) -> list[Window]:
    """Make requests of 36 tokens, of more where 32 of those would not fill a step, that fill its T tokens."""
    room = bucket.tokens - bucket.sequences + 1  # every sequence that no window uses has a token
    length = max(36, room // 32)
    lengths: list[int] = []
    while room >= 4 and len(lengths) < min(32, bucket.sequences):
        lengths.append(min(length, room))
        room += 1 - lengths[-1]
    return [window(length, k) for k, length in enumerate(lengths)]


def steps(folder: Path, device: Device) -> dict:
    """Time of a step by its tokens: whole, its replay alone, its parts, and without a captured graph."""
    session = open_session(folder, device)
    rows = []
    for widest in {bucket.tokens: bucket for bucket in session.buckets}.values():
        windows = windows_for(widest)
        lengths = [len(w.ids) for w in windows]
        bucket = choose_bucket(session.buckets, lengths)
        step = session._steps[bucket]
        inputs = step.inputs
        rows.append(
            {
                "tokens": sum(lengths),
                "windows": len(windows),
                "bucket": [bucket.tokens, bucket.sequences, bucket.longest],
                "step_ms": median_ms(lambda w=windows: session.run(w, needs_logits=False)),
                "step_with_logits_ms": median_ms(lambda w=windows: session.run(w, needs_logits=True)),
                "replay_ms": median_ms(step.replay),
                "pack_ms": median_ms(lambda i=inputs, w=windows: i.fill(w)),
                "upload_ms": median_ms(lambda s=step, i=inputs: s._block.update_inplace(i.block)),
                "download_ms": median_ms(step.download),
                "no_graph_ms": median_ms(
                    lambda s=step: session._session.run_with_iobinding(s._binding, session._uncaptured)
                ),
            }
        )
    lone = choose_bucket(session.buckets, [36])
    replay = median_ms(session._steps[lone].replay, 200)
    request = [window(36)]
    whole = median_ms(lambda: session.run(request, needs_logits=False), 200)
    return {
        "steps": rows,
        "request_of_36_tokens": {"step_ms": whole, "replay_ms": replay, "ratio": whole / replay},
        "max_batch_tokens": choose_budget(session.buckets, session.step_seconds),
        "captured_shapes": len(session.buckets),
    }


def kernels(folder: Path, device: Device) -> dict:
    """Study 6.1: the attention kernel chosen; the parent sets ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO and reads it."""
    session = open_session(folder, device, StepLimits(512, 8, 512))
    session.run_uncaptured([window(36), window(300)], needs_logits=False)
    return {}


def placement(folder: Path, device: Device) -> dict:
    """Study 6.1: which provider runs which nodes, also when some land on the CPU, which nerve refuses."""
    source = packed_graph(folder, device)
    ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = tempfile.mkdtemp() + "/profile"
    names = ["CUDAExecutionProvider"] if device is Device.CUDA else []
    session = ort.InferenceSession(
        source if isinstance(source, bytes) else str(source),
        options,
        providers=[*names, "CPUExecutionProvider"],
        disabled_optimizers=list(WITHOUT),
    )
    facts = session.get_modelmeta().custom_metadata_map
    rules = PackingRules(int(facts["n_words"]), None, int(facts["n_positions"]), has_distances=False)
    inputs = StepInputs(make_bucket([36]), rules)
    inputs.fill([window(36)])
    session.run(["label_ids", "scores"], dict(inputs.views))
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if "provider" in event.get("args", {})]
    return dict(Counter(f"{node['op_name']} on {node['provider']}" for node in nodes))


def replays(folder: Path, device: Device) -> dict:
    """Study 6.2: largest difference of logits between a replay and an eager run, over all captured shapes."""
    session = open_session(folder, device)
    rng = np.random.default_rng(7)
    largest = 0.0
    for bucket in session.buckets:
        windows = fill_bucket(bucket, rng)
        eager = session.run_uncaptured(windows, needs_logits=True)
        session.run(
            [window(20)], needs_logits=False
        )  # another step, so that nothing old can be taken for new
        for one, other in zip(session.run(windows, needs_logits=True), eager, strict=True):
            largest = max(largest, float(np.abs(one.logits - other.logits).max()))
    return {"largest": largest, "shapes": len(session.buckets)}


def fill_bucket(bucket: Bucket, rng: np.random.Generator) -> list[Window]:
    """Make windows that fill about half of a step, the first one as long as fits."""
    room = bucket.tokens - bucket.sequences
    lengths = [max(1, min(bucket.longest, room // 2))]
    while len(lengths) < bucket.sequences // 2 and sum(lengths) + 8 <= room // 2:
        lengths.append(int(rng.integers(2, 9)))
    return [window(length, int(rng.integers(1 << 30))) for length in lengths]


def tails(folder: Path, device: Device) -> dict:
    """Study 6.3: sequences of no tokens, and tokens of no sequence, which nerve avoids, beside what it does."""
    session = open_session(folder, device)
    windows = [window(20, 1), window(30, 2)]
    (bucket,) = {make_bucket([20, 30])}
    expected = [scores.logits for scores in session.run_uncaptured(windows, needs_logits=True)]
    found = {}
    for name, sequences in (("empty sequences", 8), ("tokens of no sequence", 2)):
        inputs = StepInputs(Bucket(bucket.tokens, sequences, bucket.longest), session._rules)
        inputs.fill([])
        inputs.ids[:50] = windows[0].ids + windows[1].ids
        inputs.positions[:50] = [*range(20), *range(30)]
        ends = [0, 20, 50] + [50] * (sequences - 2)
        inputs.starts[:] = ends
        (logits,) = session._session.run(["logits"], dict(inputs.views), session._uncaptured)
        parts = (logits[:20], logits[20:50])
        found[name] = max(float(np.abs(a - b).max()) for a, b in zip(parts, expected, strict=True))
    return {"largest difference of logits": found}


def mapped(folder: Path, device: Device) -> dict:
    """Study 6.4: inputs and results in mapped pinned memory, read over PCIe, against one copy each way."""
    session = open_session(folder, device, StepLimits(64, 8, 128))
    step = session._steps[choose_bucket(session.buckets, [36])]
    inputs = step.inputs
    inputs.fill([window(36)])
    cudart = open_cudart() if device is Device.CUDA else None
    where = (device.value, 0)

    def allocate(n_bytes: int) -> tuple[np.ndarray, int]:
        if cudart is None:
            array = np.zeros(n_bytes // 4, np.int32)
            return array, array.ctypes.data
        host, card = ctypes.c_void_p(), ctypes.c_void_p()
        assert cudart.cudaHostAlloc(ctypes.byref(host), ctypes.c_size_t(n_bytes), 2) == 0  # mapped
        assert cudart.cudaHostGetDevicePointer(ctypes.byref(card), host, 0) == 0
        return np.ctypeslib.as_array((ctypes.c_int32 * (n_bytes // 4)).from_address(host.value)), card.value

    block, base = allocate(inputs.block.nbytes)
    block[:] = inputs.block
    results, results_base = allocate(12 * step._tokens + 512)
    binding = session._session.io_binding()
    for name, (start, shape) in inputs.places.items():
        binding.bind_input(name, *where, np.int32, list(shape), base + 4 * start)
    t = step._tokens
    binding.bind_output("label_ids", *where, np.int64, [t, 1], results_base)
    binding.bind_output("scores", *where, np.float32, [t, 1], results_base + 8 * t)
    binding.bind_ortvalue_output("logits", step._logits)
    options = _run_options("100000")
    session._session.run_with_iobinding(binding, options)

    def copied() -> None:
        step._block.update_inplace(inputs.block)
        step.replay()
        step.download()

    def direct() -> None:
        block[:] = inputs.block
        session._session.run_with_iobinding(binding, options)
        results.copy()

    times = {"copies_ms": median_ms(copied, 300), "mapped_ms": median_ms(direct, 300)}
    labels, _ = step.download()
    return {**times, "same_labels": bool((results[: 2 * t].view(np.int64) == labels).all())}


def open_cudart() -> ctypes.CDLL:
    """Return the CUDA runtime that onnxruntime has loaded."""
    for name in ("libcudart.so.13", "libcudart.so.12"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise OSError("no libcudart")


def memory(folder: Path, device: Device) -> dict:
    """Study 6.9: device memory per captured bucket."""
    ort.preload_dlls()
    cudart = open_cudart() if device is Device.CUDA else None

    def used() -> int:
        if cudart is None:  # pages in memory
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        assert cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
        return total.value - free.value

    start = used()
    few = open_session(folder, device, StepLimits(32, 1, 32))
    small = used()
    many = open_session(folder, device)
    whole = used()
    added = (whole - small) - (small - start)
    n_added = len(many.buckets) - len(few.buckets)
    return {
        "first_session_mib": (small - start) / 2**20,
        "full_session_mib": (whole - small) / 2**20,
        "captured_shapes": len(many.buckets),
        "mib_per_further_shape": added / n_added / 2**20,
    }


def quick_steps(folder: Path, device: Device) -> dict:
    """Replay times alone, for study 6.6: the parent runs it with and without settings of the environment."""
    session = open_session(folder, device, StepLimits(64, 8, 256))
    steps = {bucket.tokens: step for bucket, step in session._steps.items()}
    return {"replay_ms": {tokens: median_ms(step.replay) for tokens, step in steps.items()}}


def int8_weights(folder: Path, device: Device) -> dict:
    """Study 6.7: one product of BERT-base, T x 768 by 768 x 3072, with float16 and with 8-bit weights."""
    from onnx import helper, numpy_helper

    k, n, block = 768, 3072, 32
    rng = np.random.default_rng(0)
    half = np.float16 if device is Device.CUDA else np.float32
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(half))
    plain = helper.make_node("MatMul", ["x", "w"], ["y"])
    packed = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", K=k, N=n, bits=8, block_size=block
    )
    stored = {
        "w": rng.standard_normal((k, n)).astype(half),
        "q": rng.integers(0, 255, (n, k // block, block)).astype(np.uint8),
        "s": rng.random(n * k // block).astype(half),
    }
    times: dict[str, dict[int, float]] = {}
    for name, node in (("weights as they are", plain), ("8 bit", packed)):
        graph = helper.make_graph(
            [node],
            "product",
            [helper.make_tensor_value_info("x", kind, ["T", k])],
            [helper.make_tensor_value_info("y", kind, ["T", n])],
            [numpy_helper.from_array(stored[i], i) for i in node.input if i != "x"],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        session = create_session(model.SerializeToString(), device, 0, 1)
        times[name] = {}
        for tokens in (16, 32, 64):
            binding = session.io_binding()
            make = ort.OrtValue.ortvalue_from_numpy
            binding.bind_ortvalue_input("x", make(np.ones((tokens, k), half), device.value, 0))
            binding.bind_output("y", device.value)
            times[name][tokens] = median_ms(lambda b=binding, s=session: s.run_with_iobinding(b), 300)
    return {"ms by tokens": times}


def padded(folder: Path, device: Device) -> dict:
    """Study 6.10: padded `Attention` in float16, captured, against the packed graph, requests of 36 tokens."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = load_graph(folder, Precision.FLOAT32, default_cache_dir())
    assert isinstance(graph.source, bytes)
    model = without_branches(onnx.load_from_string(graph.source))
    if device is Device.CUDA:
        model = convert_float_to_float16(model, keep_io_types=False, disable_shape_infer=True)
    settings = {"enable_cuda_graph": "1"}
    session = create_session(model.SerializeToString(), device, 0, 1, settings)
    packed = open_session(folder, device)
    rows = []
    for number, batch in enumerate((1, 4, 16), start=1):
        binding = session.io_binding()
        make = ort.OrtValue.ortvalue_from_numpy
        inputs = {"input_ids": np.ones((batch, 40), np.int32), "lengths": np.full(batch, 36, np.int32)}
        kept = {name: make(value, device.value, 0) for name, value in inputs.items()}
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)
        kinds = {o.name: np.int64 if "int64" in o.type else np.float16 for o in session.get_outputs()}
        if device is Device.CPU:
            kinds = {name: np.int64 if kind is np.int64 else np.float32 for name, kind in kinds.items()}
        for name in ("label_ids", "scores"):
            value = ort.OrtValue.ortvalue_from_shape_and_type([batch, 40], kinds[name], device.value, 0)
            kept[name] = value
            binding.bind_ortvalue_output(name, value)
        options = _run_options(str(number))
        windows = [window(36, k) for k in range(min(batch, 8 if device is Device.CPU else 16))]
        bucket = choose_bucket(packed.buckets, [36] * len(windows))
        rows.append(
            {
                "windows": batch,
                "padded_ms": median_ms(lambda b=binding, o=options: session.run_with_iobinding(b, o)),
                "packed_ms": median_ms(packed._steps[bucket].replay) if bucket else None,
            }
        )
    return {"rows": rows}


def fault(folder: Path, device: Device) -> dict:
    """Read where no memory is, in this process alone: what onnxruntime says then, and whether nerve knows it."""
    session = open_session(folder, device, StepLimits(64, 8, 128))
    step = session._steps[choose_bucket(session.buckets, [36])]
    inputs = step.inputs
    inputs.fill([window(36)])
    inputs.ids[:] = 2**30  # the host refuses such ids in `fill`
    step.upload()
    said = []
    for work in (step.replay, lambda: session.run([window(36)], needs_logits=False)):
        try:
            work()
            said.append("no error")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            said.append(f"{type(error).__name__}: {error}"[:600])
    return {"fault": said[0], "is_sticky": is_sticky(RuntimeError(said[0])), "step after it": said[1]}


_PARTS = [fault, steps, kernels, placement, replays, tails, mapped, memory, quick_steps, int8_weights, padded]
NAMES = {part.__name__: part for part in _PARTS}

if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    name, folder, device = sys.argv[1:]
    print(json.dumps(NAMES[name](Path(folder), Device(device))))
