"""What an int8 model spends outside its products, and other forms of those parts, in this process on one thread.

Profile: ONNX Runtime's own, of each node the fastest of several runs; what the nodes of a kind take together is a share
of their sum. Forms: small graphs of the part alone, run in turns; the ratio of the fastest runs says which is quicker.

attention: `float32` is what is built; `integer` rounds queries, keys, values and probabilities to 8 bits and multiplies
those (MatMulInteger), the rest in float32.
GELU: `exact` is what is built; `by tanh` is ONNX Runtime's FastGelu.

usage: .venv-bench/bin/python -m bench.int8_parts [--runs 25] [--out bench/results/int8-parts.json]
"""

import argparse
import json
import tempfile
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bench.paths import RESULTS
from bench.serving import machine
from bench.serving.models import built_graph, find_folder, rampart_folder

SIZES = [(1, 36), (8, 36), (1, 128), (1, 512)]  # sequences, tokens
HEADS, HEAD_SIZE = 12, 64
WIDTH, INNER = HEADS * HEAD_SIZE, 4 * HEADS * HEAD_SIZE
PRODUCTS = "MatMulIntegerToFloat"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--out", type=Path, default=RESULTS / "int8-parts.json")
    options = parser.parse_args()
    result = {**machine.describe(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    folders = {"rampart": rampart_folder(), "base": find_folder("base")}
    result["profile"] = {
        name: profile_sizes(built_graph(folder, "int8", name), options.runs)
        for name, folder in folders.items()
    }
    result["attention"] = compare(
        {"float32": float_attention(), "integer": integer_attention()},
        {f"{b} x {t}": {x: (b, t, WIDTH) for x in "qkv"} for b, t in SIZES},
        options.runs,
    )
    result["GELU"] = compare(
        {"exact": gelu("Gelu"), "by tanh": gelu("FastGelu")},
        {f"{b} x {t}": {"x": (b * t, INNER)} for b, t in SIZES},
        options.runs,
    )
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("profile", "attention", "GELU")}, indent=1))


def profile_sizes(graph: Path, runs: int) -> dict:
    return {f"{b} x {t}": profile(graph, b, t, runs) for b, t in SIZES}


def profile(graph: Path, sequences: int, tokens: int, runs: int) -> dict:
    """Return the sum of the nodes' times in ms, the share of each kind, and what is left to gain.

    at most: how many times as fast the model were if all but the products cost nothing.
    """
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": random.integers(1000, 5000, (sequences, tokens)).astype(np.int32),
        "lengths": np.full(sequences, tokens, np.int32),
    }
    with tempfile.TemporaryDirectory() as folder:
        options = one_thread()
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(["label_ids", "scores"], inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    fastest: dict[tuple[str, str], float] = defaultdict(lambda: float("inf"))
    for event in events:
        kind = event.get("args", {}).get("op_name")
        # `If` holds the attention of either branch, whose own node is counted.
        if event["name"].endswith("_kernel_time") and kind != "If":
            key = event["name"], kind
            fastest[key] = min(fastest[key], event["dur"])
    times: Counter[str] = Counter()
    for (_, kind), duration in fastest.items():
        times[kind] += duration
    total = sum(times.values())
    return {
        "ms": round(total / 1000, 3),
        "share": {kind: round(time / total, 3) for kind, time in times.most_common(8)},
        "at most": round(total / times[PRODUCTS], 3),
    }


def compare(forms: dict[str, ModelProto], sizes: dict[str, dict[str, tuple[int, ...]]], runs: int) -> dict:
    """Return for each size the fastest run of each form in ms, and the first's time over the second's."""
    sessions = {
        name: onnxruntime.InferenceSession(
            form.SerializeToString(), one_thread(), providers=["CPUExecutionProvider"]
        )
        for name, form in forms.items()
    }
    found = {}
    for size, shapes in sizes.items():
        random = np.random.default_rng(0)
        inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        times: dict[str, list[float]] = {name: [] for name in forms}
        answers = {}
        for _ in range(runs):
            for name, session in sessions.items():
                started = time.perf_counter()
                answers[name] = session.run(None, inputs)[0]
                times[name].append(1000 * (time.perf_counter() - started))
        first, second = forms
        fastest = {name: round(min(values), 4) for name, values in times.items()}
        found[size] = {
            **fastest,
            "gain": round(fastest[first] / fastest[second], 3),
            "largest difference": round(float(np.abs(answers[first] - answers[second]).max()), 5),
        }
    return found


def one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def model_of(nodes: list, inputs: dict[str, list], constants: dict[str, np.ndarray]) -> ModelProto:
    """Return a model whose output is `y`."""

    def value(name: str, shape: list) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "part",
        [value(name, shape) for name, shape in inputs.items()],
        [value("y", next(iter(inputs.values())))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def gelu(kind: str) -> ModelProto:
    return model_of([helper.make_node(kind, ["x"], ["y"], domain="com.microsoft")], {"x": ["N", INNER]}, {})


def float_attention() -> ModelProto:
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=HEADS
    )
    return model_of([node], {name: ["B", "T", WIDTH] for name in "qkv"}, {})


def integer_attention() -> ModelProto:
    """Return attention with integer products.

    A query and a key have a scale of their own, and so has a channel of a head's values; probabilities have 1/255. None
    depends on another window.
    """
    nodes: list = []
    constants = {
        "split": np.array([0, 0, HEADS, HEAD_SIZE], np.int64),
        "join": np.array([0, 0, WIDTH], np.int64),
        "one": np.float32(1),
        "step": np.float32(1 / 127),
        "floor": np.float32(1e-9),
        "by_root": np.float32(HEAD_SIZE**-0.5),
        "step_of_probability": np.float32(1 / 255),
        "zero": np.uint8(0),
        "middle": np.uint8(128),
        "signed_zero": np.int8(0),
    }

    def add(kind: str, inputs: list[str], name: str, **attributes) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def quantize(name: str, order: list[int], axis: int, zero: str) -> tuple[str, str]:
        heads = add("Transpose", [add("Reshape", [name, "split"], f"{name}.4")], f"{name}.heads", perm=order)
        size = add("Abs", [heads], f"{name}.size")
        top = add("ReduceMax", [size], f"{name}.top", axes=[axis], keepdims=1)
        scale = add("Max", [add("Mul", [top, "step"], f"{name}.step"), "floor"], f"{name}.scale")
        steps = add("Div", [heads, scale], f"{name}.steps")
        return add("QuantizeLinear", [steps, "one", zero], f"{name}.whole"), scale

    queries, of_query = quantize("q", [0, 2, 1, 3], 3, "middle")
    keys, of_key = quantize("k", [0, 2, 3, 1], 2, "signed_zero")
    values, of_value = quantize("v", [0, 2, 1, 3], 2, "signed_zero")
    whole = add("MatMulInteger", [queries, keys, "middle", "signed_zero"], "whole_scores")
    sums = add("Cast", [whole], "sums", to=TensorProto.FLOAT)
    by_query = add("Mul", [sums, add("Mul", [of_query, "by_root"], "row_scale")], "by_query")
    shares = add("Softmax", [add("Mul", [by_query, of_key], "scores")], "shares", axis=-1)
    rounded = add("QuantizeLinear", [shares, "step_of_probability", "zero"], "rounded")
    context = add("MatMulInteger", [rounded, values, "zero", "signed_zero"], "whole_context")
    context = add("Cast", [context], "context", to=TensorProto.FLOAT)
    column = add("Mul", [of_value, "step_of_probability"], "column_scale")
    context = add("Mul", [context, column], "scaled")
    context = add("Transpose", [context], "rows", perm=[0, 2, 1, 3])
    add("Reshape", [context, "join"], "y")
    return model_of(nodes, {name: ["B", "T", WIDTH] for name in "qkv"}, constants)


if __name__ == "__main__":
    main()
