"""Forms of two operations that ONNX Runtime has no kernel for: DeBERTa's scores by distance, local attention.

Each form is a graph of attention alone (12 heads of 64), so that what surrounds it does not hide the difference. All
forms of an operation are checked to give the same numbers.

by distance: `pieces` multiplies with a row for each distance and copies pieces of rows, `few heads` does so for a few
heads at a time and blocks of tokens (what is built, the one for short and the other for long texts); `shifted` copies
twice; `looked up` multiplies with a row for each bucket and gathers each score (what exporters write); `spread and
shifted` gathers the scores of buckets to those of distances, then shifts.
local: `chunks`, and `masked`, which computes all scores and masks those beyond the window (both are built, by length);
`wide chunks` has chunks of twice the window.

usage: python -m bench.architectures.forms [--rounds 15] [--out NAME]
"""

import argparse
import json
import statistics
import time
from types import SimpleNamespace

import numpy as np
from onnx import TensorProto, helper

from bench.paths import RESULTS
from bench.serving import machine
from nerve.config import Device
from nerve.graph import disentangled
from nerve.graph.architectures.deberta import bucket_rows
from nerve.graph.attention import PaddedAttention
from nerve.graph.local import Windows
from nerve.graph.writing import GraphWriter
from nerve.runtime.sessions import create_session

HEADS, SIZE, BUCKETS, REACH, WINDOW = 12, 64, 256, 512, 64
WIDTH = HEADS * SIZE
LENGTHS = {"distance": (36, 128, 512), "local": (36, 128, 512, 2048)}
SCALE = float(1 / np.sqrt(3 * SIZE))


class Tables:
    """Stands for a layer: keys and queries of each bucket, nothing else."""

    rotary = window = sinks = None

    def __init__(self) -> None:
        self.projections = {part: SimpleNamespace(bias=None) for part in ("query", "key", "value")}
        random = np.random.default_rng(0)
        shape = (HEADS, 2 * BUCKETS, SIZE)
        self.position_keys = (random.standard_normal(shape) * 0.1).astype(np.float32)
        self.position_queries = (random.standard_normal(shape) * 0.1).astype(np.float32)


ENCODER = SimpleNamespace(
    heads=HEADS, head_size=SIZE, distance_rows=bucket_rows(BUCKETS, REACH), scale=SCALE, relative_bias=None,
    n_positions=512, key_heads=None, layers=[]
)  # fmt: skip


class Forms:
    """What the forms that are not built have in common: products with a row for each distance or bucket."""

    def __init__(self, graph: GraphWriter, rows: np.ndarray) -> None:
        self.graph = graph
        self.time = graph.node("Shape", ["input_ids"], "time", start=1, end=2)
        end = graph.node("Squeeze", [self.time], "end")
        zero, one = (graph.constant(f"bench_{v}", np.array(v, np.int64)) for v in (0, 1))
        self.at = graph.node("Range", [zero, end, one], "at")
        distances = graph.node("Range", [graph.node("Neg", [end], "start"), end, one], "distances")
        table, farthest = graph.constant("rows", rows), len(rows) // 2
        bounds = [graph.constant(f"bound_{v}", np.array(v, np.int64)) for v in (0, 2 * farthest)]

        def rows_of(values: str, name: str) -> str:
            place = graph.node("Add", [values, graph.integers(farthest)], f"{name}.at")
            return graph.node("Gather", [table, graph.node("Clip", [place, *bounds], f"{name}.in")], name)

        # Column j of a query's row is distance T - j, of a key's row j - T.
        self.rows = {False: rows_of(graph.node("Neg", [distances], "opposites"), "key_rows")}
        self.rows[True] = rows_of(distances, "query_rows")

    def bias(self, layer: Tables) -> str:
        """Return what is added to the scores, (1, heads, T, T)."""
        by_query = self.scores("query", layer.position_keys, "by_query", of_keys=False)
        by_key = self.scores("key", layer.position_queries, "by_key", of_keys=True)
        turned = self.graph.node("Transpose", [by_key], "turned", perm=[0, 1, 3, 2])
        return self.graph.node("Add", [by_query, turned], "bias")

    def scores(self, value: str, table: np.ndarray, name: str, *, of_keys: bool) -> str:
        """Return the scores of each token with each other one."""
        raise NotImplementedError

    def product(self, value: str, rows: str, name: str) -> str:
        """Return the products of tokens with rows, (1, heads, T, rows)."""
        graph = self.graph
        split = graph.node("Reshape", [value, graph.integers(0, 0, HEADS, SIZE)], f"{name}.split")
        heads = graph.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])
        return graph.node("FusedMatMul", [heads, rows], f"{name}.product", fused=True, transB=1)

    def shift(self, scores: str, name: str) -> str:
        """Begin each row one further left than the one before: (1, heads, T, 2T) to (1, heads, T, T)."""
        graph = self.graph
        flat = graph.node("Reshape", [scores, graph.integers(0, 0, -1)], f"{name}.flat")
        later = graph.node(
            "Slice", [flat, self.time, graph.integers(2**40), graph.integers(2)], f"{name}.later"
        )
        double = graph.node("Add", [self.time, self.time], f"{name}.double")
        width = graph.node("Sub", [double, graph.integers(1)], f"{name}.width")
        shape = graph.node("Concat", [graph.integers(0, 0), self.time, width], f"{name}.shape", axis=0)
        shifted = graph.node("Reshape", [later, shape], f"{name}.shifted")
        return graph.node("Slice", [shifted, graph.integers(0), self.time, graph.integers(3)], name)


class Shifted(Forms):
    """Multiplies with the rows of distances, then copies twice."""

    def scores(self, value, table, name, *, of_keys):  # noqa: D102 - as above
        by_row = self.graph.constant(f"{name}.table", table)
        rows = self.graph.node("Gather", [by_row, self.rows[of_keys]], f"{name}.rows", axis=1)
        return self.shift(self.product(value, rows, name), name)


class Spread(Forms):
    """Multiplies with the rows of buckets, then gathers the columns of distances."""

    def scores(self, value, table, name, *, of_keys):  # noqa: D102 - as above
        by_row = self.product(value, self.graph.constant(f"{name}.table", table), name)
        wide = self.graph.node("Gather", [by_row, self.rows[of_keys]], f"{name}.wide", axis=3)
        return self.shift(wide, name)


class LookedUp(Forms):
    """Multiplies with the rows of buckets, then gathers every score by its own index."""

    def scores(self, value, table, name, *, of_keys):  # noqa: D102 - as above
        graph = self.graph
        by_row = self.product(value, graph.constant(f"{name}.table", table), name)
        # Row t of the table of places holds the columns T - t to 2T - t of the rows of distances.
        column = graph.node("Unsqueeze", [self.at, graph.integers(0)], f"{name}.column")
        row = graph.node("Unsqueeze", [self.at, graph.integers(1)], f"{name}.row")
        ahead = graph.node("Add", [column, self.time], f"{name}.ahead")
        places = graph.node("Sub", [ahead, row], f"{name}.places")
        rows = graph.node("Gather", [self.rows[of_keys], places], f"{name}.index")
        shape = graph.node(
            "Concat", [graph.integers(1, HEADS), self.time, self.time], f"{name}.shape", axis=0
        )
        index = graph.node("Expand", [rows, shape], f"{name}.expanded")
        return graph.node("GatherElements", [by_row, index], name, axis=3)


def by_distance(kind: type[Forms]):
    graph = GraphWriter()
    bias = kind(graph, ENCODER.distance_rows).bias(Tables())
    graph.node(
        "MultiHeadAttention",
        ["query", "key", "value", "", "", bias],
        "out",
        fused=True,
        num_heads=HEADS,
        scale=SCALE,
    )
    return open_graph(graph)


def built(whole_tokens: int):
    """Return what is built; whole_tokens: texts up to here are computed with all heads at once."""
    disentangled._WHOLE_TOKENS = whole_tokens
    graph, layer = GraphWriter(), Tables()
    result = PaddedAttention(graph, ENCODER).attend(layer, ["query", "key", "value"], "layer")
    graph.node("Identity", [result], "leaves", output="out")
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
        "pieces": built(whole_tokens=2**40),
        "few heads": built(whole_tokens=0),
        "shifted": by_distance(Shifted),
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
