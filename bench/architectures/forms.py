"""Forms of two operations that ONNX Runtime has no kernel for: DeBERTa's scores by distance, local attention.

Each form is a graph of attention alone (12 heads of 64), so that what surrounds it does not hide the difference. All
forms of an operation are checked to give the same numbers.

by distance: `shifted` multiplies with a row for each distance and shifts (what is built); `looked up` multiplies with a
row for each bucket and gathers each score (what exporters write); `spread and shifted` gathers the scores of buckets
to those of distances, then shifts.
local: `chunks` (what is built); `masked` computes all scores and masks those beyond the window; `wide chunks` has
chunks of twice the window.

usage: python -m bench.architectures.forms [--rounds 15] [--out NAME]
"""

import argparse
import json
import statistics
import time

import numpy as np
from onnx import TensorProto, helper

from bench.paths import RESULTS
from bench.serving import machine
from nerve.config import Device
from nerve.graph.architectures.deberta import bucket_rows
from nerve.graph.local import Windows
from nerve.graph.relative import Disentangled
from nerve.graph.writing import GraphWriter
from nerve.runtime.sessions import create_session

HEADS, SIZE, BUCKETS, REACH, WINDOW = 12, 64, 256, 512, 64
WIDTH = HEADS * SIZE
LENGTHS = {"distance": (36, 128, 512), "local": (36, 128, 512, 2048)}
SCALE = float(1 / np.sqrt(3 * SIZE))


class Tables:
    """Stands for a layer: keys and queries of each bucket."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        shape = (HEADS, 2 * BUCKETS, SIZE)
        self.position_keys = (random.standard_normal(shape) * 0.1).astype(np.float32)
        self.position_queries = (random.standard_normal(shape) * 0.1).astype(np.float32)


class Spread(Disentangled):
    """Multiplies with the rows of buckets, then gathers the columns of distances."""

    def _product(self, value, table, rows, name):
        graph = self._graph
        split = graph.node("Reshape", [value, self._split], f"{name}.split")
        heads = graph.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])
        by_row = graph.constant(f"{name}.table", table)
        scores = graph.node("FusedMatMul", [heads, by_row], f"{name}.by_row", fused=True, transB=1)
        wide = graph.node("Gather", [scores, rows], f"{name}.wide", axis=3)
        flat = graph.node("Reshape", [wide, self._flat], f"{name}.flat")
        later = graph.node(
            "Slice", [flat, self._time, graph.integers(2**40), graph.integers(2)], f"{name}.later"
        )
        shifted = graph.node("Reshape", [later, self._shifted], f"{name}.shifted")
        return graph.node("Slice", [shifted, graph.integers(0), self._time, graph.integers(3)], name)


class LookedUp(Disentangled):
    """Multiplies with the rows of buckets, then gathers every score by its own index."""

    def _product(self, value, table, rows, name):
        graph = self._graph
        split = graph.node("Reshape", [value, self._split], f"{name}.split")
        heads = graph.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])
        by_row = graph.constant(f"{name}.table", table)
        scores = graph.node("FusedMatMul", [heads, by_row], f"{name}.by_row", fused=True, transB=1)
        # Row t of the table of places holds the columns T - t to 2T - t of the rows of distances.
        zero, one = (graph.constant(f"bench_{v}", np.array(v, np.int64)) for v in (0, 1))
        end = graph.node("Squeeze", [self._time], f"{name}.end")
        at = graph.node("Range", [zero, end, one], f"{name}.at")
        column = graph.node("Unsqueeze", [at, graph.integers(0)], f"{name}.column")
        row = graph.node("Unsqueeze", [at, graph.integers(1)], f"{name}.row")
        ahead = graph.node("Add", [column, self._time], f"{name}.ahead")
        places = graph.node(
            "Gather", [rows, graph.node("Sub", [ahead, row], f"{name}.places")], f"{name}.index"
        )
        shape = graph.node(
            "Concat", [graph.integers(1, HEADS), self._time, self._time], f"{name}.shape", axis=0
        )
        index = graph.node("Expand", [places, shape], f"{name}.expanded")
        return graph.node("GatherElements", [scores, index], name, axis=3)


def by_distance(kind: type[Disentangled]):
    graph = GraphWriter()
    bias = kind(graph, bucket_rows(BUCKETS, REACH), HEADS, SIZE).bias(Tables(), "query", "key", "layer")
    graph.node(
        "MultiHeadAttention",
        ["query", "key", "value", "", "", bias],
        "out",
        fused=True,
        num_heads=HEADS,
        scale=SCALE,
    )
    return open_graph(graph)


def local(chunk: int | None):
    """chunk: tokens of a chunk; None for all scores with a mask."""
    graph = GraphWriter()
    parts = ["query", "key", "value"]

    def attention(inputs: list[str], mask: str) -> str:
        return graph.node(
            "MultiHeadAttention", [*inputs, "", "", mask], "attended", fused=True, num_heads=HEADS
        )

    if chunk is None:
        time_ = graph.node("Squeeze", [graph.node("Shape", ["input_ids"], "shape", start=1, end=2)], "time")
        zero, one = (graph.constant(f"bench_{v}", np.array(v, np.int64)) for v in (0, 1))
        at = graph.node("Range", [zero, time_, one], "at")
        distance = graph.node(
            "Sub",
            [
                graph.node("Unsqueeze", [at, graph.integers(0)], "a"),
                graph.node("Unsqueeze", [at, graph.integers(1)], "b"),
            ],
            "distance",
        )
        far = graph.node(
            "Greater",
            [graph.node("Abs", [distance], "far"), graph.constant("window", np.array(WINDOW, np.int64))],
            "is_far",
        )
        values = [
            graph.constant("masked", np.array(-1e30, np.float32)),
            graph.constant("kept", np.zeros((), np.float32)),
        ]
        mask = graph.node("Where", [far, *values], "mask")
        mask = graph.node("Unsqueeze", [mask, graph.integers(0, 1)], "mask4")
        result = attention(parts, mask)
    else:
        windows = Windows(graph, WINDOW, SIZE, chunk=chunk)
        result = graph.choose(
            windows.is_short,
            "local",
            lambda: graph.node("MultiHeadAttention", parts, "whole", fused=True, num_heads=HEADS),
            lambda: windows.attend(parts, (WIDTH, WIDTH), "windows", attention),
        )
    graph.node("Identity", [result], "leaves", output="out")
    return open_graph(graph)


def open_graph(graph: GraphWriter):
    graph.graph.name = "form"
    info = helper.make_tensor_value_info
    graph.graph.input.extend(
        info(name, TensorProto.FLOAT, ["B", "T", WIDTH]) for name in ("query", "key", "value")
    )
    graph.graph.input.append(info("input_ids", TensorProto.INT32, ["B", "T"]))
    graph.graph.input.append(info("lengths", TensorProto.INT32, ["B"]))
    graph.graph.output.append(info("out", TensorProto.FLOAT, None))
    return create_session(graph.model.SerializeToString(), Device.CPU, 0, n_threads=1)


def compare(forms: dict, lengths: tuple[int, ...], rounds: int) -> dict:
    random = np.random.default_rng(1)
    found: dict = {}
    for length in lengths:
        feeds = {
            name: random.standard_normal((1, length, WIDTH), dtype=np.float32)
            for name in ("query", "key", "value")
        }
        feeds |= {"input_ids": np.zeros((1, length), np.int32), "lengths": np.array([length], np.int32)}
        expected = None
        times: dict = {name: [] for name in forms}
        for _ in range(rounds + 1):
            for name, session in forms.items():
                started = time.perf_counter()
                (out,) = session.run(["out"], feeds)
                times[name].append((time.perf_counter() - started) * 1000)
                expected = out if expected is None else expected
                assert np.abs(out - expected).max() < 1e-5, (name, length)
        for name, measured in times.items():
            kept = measured[1:]
            row = [round(statistics.median(kept), 3), round(min(kept), 3)]
            found.setdefault(name, {})[length] = row
        print(length, {name: rows[length] for name, rows in found.items()}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default="architecture-forms")
    arguments = parser.parse_args()
    distance = {
        "shifted": by_distance(Disentangled),
        "looked up": by_distance(LookedUp),
        "spread and shifted": by_distance(Spread),
    }
    windows = {"chunks": local(WINDOW), "masked": local(None), "wide chunks": local(2 * WINDOW)}
    document = {
        **machine.describe(),
        "unit": "ms, median and smallest",
        "distance": compare(distance, LENGTHS["distance"], arguments.rounds),
        "local": compare(windows, LENGTHS["local"], arguments.rounds),
    }
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
