"""Rewrites a graph for padded batches in ONNX's own operators, for runtimes that do not know ONNX Runtime's.

What ONNX Runtime has one operator for becomes the few that it stands for, by the definition of the operator
(ContribOperators.md of ONNX Runtime); a runtime that has a fused kernel finds the pattern. Where a branch only saves
what padding costs, or memory, the one for padding is taken, and the one for the whole text. The graph gives `logits`
only: label and score are made of them in float32, whatever the runtime computes in.

B = sequences, T = longest of them, S = keys, N = heads, D = numbers of a head, K = N x D.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nerve.graph.architectures.reading import NotBuildable
from nerve.graph.writing import FUSED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Added to the scores of keys beyond a text: nothing is left of them in a softmax, in bfloat16 neither.
_MASKED = -1e9
# The condition that no row has padding (`graph.attention`).
_IS_FULL = "is_full"
# Conditions that a text is computed in blocks of queries (`graph.blocks`), or a few heads at a time
# (`graph.disentangled`); here it is computed whole.
_IN_PARTS = ("blocks.are_needed", "relative.are_many")
# The condition of the masks for texts longer than a window (`graph.local`). The band below stands for both of them, so
# that neither is kept.
_IS_MASKED = re.compile(r"window_\d+(_with_sinks)?\.is_masked")
# The condition that no window is shorter than the text (`graph.local`); here all scores are computed, and those beyond
# the window are masked: OpenVINO 2026.4 computes the chunks of local attention wrongly, in float32, too.
_IS_SHORT = re.compile(r"window_(\d+)(_with_sinks)?\.is_short")


def standardize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes the same logits in operators of ONNX's own domain.

    Raises `NotBuildable` for an operator of ONNX Runtime's that is not known here.
    """
    rewriter = _Rewriter(model)
    nodes = rewriter.rewrite(model.graph.node)
    needed = {"logits"}
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(_needed(nodes, needed))
    graph.initializer.extend(one for one in model.graph.initializer if one.name in needed)
    graph.initializer.extend(one for name, one in rewriter.constants.items() if name in needed)
    graph.input.extend(model.graph.input)
    graph.output.extend(output for output in model.graph.output if output.name == "logits")
    opsets = [opset for opset in model.opset_import if opset.domain != FUSED]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="nerve")


def _needed(nodes: list[onnx.NodeProto], needed: set[str]) -> list[onnx.NodeProto]:
    """Keep the nodes that `needed` depends on, in their order; adds the names that they read."""
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


class _Rewriter:
    """Goes through nodes, and collects the constants that the new ones need."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants: dict[str, onnx.TensorProto] = {}
        self._shapes = {one.name: tuple(one.dims) for one in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._window: tuple[int, bool] | None = None
        self._bands: dict[tuple[int, bool], str] = {}
        self._rules: dict[str, Callable[[onnx.NodeProto], None]] = {
            "EmbedLayerNormalization": self._embed,
            "FastGelu": self._fast_gelu,
            "FusedMatMul": self._product,
            "Gelu": self._gelu,
            "MultiHeadAttention": self._attention,
            "QuickGelu": self._quick_gelu,
            "RotaryEmbedding": self._rotate,
            "SimplifiedLayerNormalization": self._rms_norm,
        }

    def rewrite(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return the nodes of a graph, or of a branch, in standard operators."""
        outside, self._nodes = self._nodes, []
        try:
            for node in nodes:
                self._rewrite_one(node)
            return self._nodes
        finally:
            self._nodes = outside

    def _rewrite_one(self, node: onnx.NodeProto) -> None:
        if node.op_type == "If":
            self._branches(node)
        elif node.op_type in self._rules:
            self._rules[node.op_type](node)
        elif node.domain == FUSED:
            raise NotBuildable(f"no standard form of {node.op_type}")
        else:
            self._nodes.append(node)

    def _branches(self, node: onnx.NodeProto) -> None:
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        condition = node.input[0]
        window = _IS_SHORT.fullmatch(condition)
        is_known = condition in (_IS_FULL, *_IN_PARTS) or _IS_MASKED.fullmatch(condition)
        if window is None and not is_known:
            raise NotBuildable(f"no standard form of a branch by {condition}")
        outside = self._window
        if window is not None:
            self._window = (int(window[1]), window[2] is not None)
            self._add_band(*self._window)
        branch = branches["else_branch" if window is None else "then_branch"]
        renamed = {inner.name: outer for inner, outer in zip(branch.output, node.output, strict=True)}
        for inner in self.rewrite(branch.node):
            inner.output[:] = [renamed.get(name, name) for name in inner.output]
            self._nodes.append(inner)
        self._window = outside

    def _add_band(self, window: int, has_sink: bool) -> None:
        """Add what is added to the scores of keys beyond a window, (T, S), once; a sink stands before the keys."""
        key = window, has_sink
        if key in self._bands:
            return
        name = self._bands[key] = f"band_{window}" + ("_with_sink" if has_sink else "")
        time = self._add("Shape", ["input_ids"], f"{name}.time", start=1, end=2)
        end = self._add("Squeeze", [time], f"{name}.end")
        zero, one = self._constant(0, np.int64), self._constant(1, np.int64)
        places = self._add("Range", [zero, end, one], f"{name}.places")
        queries = self._add("Unsqueeze", [places, self._integers(1)], f"{name}.queries")
        apart = self._add("Sub", [queries, places], f"{name}.apart")  # (T, T)
        distance = self._add("Abs", [apart], f"{name}.distance")
        is_near = self._add("LessOrEqual", [distance, self._constant(window, np.int64)], f"{name}.is_near")
        bounds = [self._constant(0), self._constant(_MASKED)]
        plain = f"{name}.of_tokens" if has_sink else name
        self._add("Where", [is_near, *bounds], plain)
        if has_sink:
            self._add("Pad", [plain, self._integers(0, 1, 0, 0)], name)

    def _add(
        self,
        operator: str,
        inputs: list[str],
        name: str,
        **attributes: Any,  # noqa: ANN401 - what an ONNX attribute can hold
    ) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def _constant(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        array = np.asarray(value, dtype)
        name = f"standard.{array.dtype}." + "_".join(
            map(str, (*array.shape, "of", *array.reshape(-1).tolist()))
        )
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def _integers(self, *values: int) -> str:
        return self._constant(values, np.int64)

    def _first_rows(self, table: str, name: str) -> str:
        """Return the first T rows of a table."""
        time = self._add("Shape", ["input_ids"], f"{name}.time", start=1, end=2)
        return self._add("Slice", [table, self._integers(0), time, self._integers(0)], f"{name}.rows")

    def _embed(self, node: onnx.NodeProto) -> None:
        """Norm of word plus position vector."""
        ids, _, words, table, _, weight, bias, *rest = node.input
        name, result = node.name, node.output[0]
        vectors = self._add("Gather", [words, ids], f"{name}.words")
        if len(rest) > 1:
            places = self._add("Gather", [table, rest[1]], f"{name}.places")
        else:
            places = self._first_rows(table, f"{name}.places")
        value = self._add("Add", [vectors, places], f"{name}.sum")
        epsilon = _attributes(node)["epsilon"]
        self._add("LayerNormalization", [value, weight, bias], result, axis=-1, epsilon=epsilon)

    def _rms_norm(self, node: onnx.NodeProto) -> None:
        """Give x / sqrt(mean(x^2) + epsilon) times the weight."""
        value, weight = node.input
        name = node.name
        squares = self._add("Mul", [value, value], f"{name}.squares")
        mean = self._add("ReduceMean", [squares], f"{name}.mean", axes=[-1], keepdims=1)
        shifted = self._add("Add", [mean, self._constant(_attributes(node)["epsilon"])], f"{name}.shifted")
        size = self._add("Sqrt", [shifted], f"{name}.size")
        unit = self._add("Div", [value, size], f"{name}.unit")
        self._add("Mul", [unit, weight], node.output[0])

    def _gelu(self, node: onnx.NodeProto) -> None:
        """Give x / 2 (1 + erf(x / sqrt 2))."""
        (value,), name = node.input, node.name
        scaled = self._add("Div", [value, self._constant(math.sqrt(2))], f"{name}.scaled")
        grown = self._add(
            "Add", [self._add("Erf", [scaled], f"{name}.erf"), self._constant(1)], f"{name}.grown"
        )
        product = self._add("Mul", [value, grown], f"{name}.product")
        self._add("Mul", [product, self._constant(0.5)], node.output[0])

    def _fast_gelu(self, node: onnx.NodeProto) -> None:
        """Give x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), of x plus a bias."""
        value, *bias = node.input
        name = node.name
        if bias:
            value = self._add("Add", [value, bias[0]], f"{name}.biased")
        cube = self._add("Mul", [self._add("Mul", [value, value], f"{name}.square"), value], f"{name}.cube")
        inner = self._add("Mul", [cube, self._constant(0.044715)], f"{name}.part")
        inner = self._add("Add", [value, inner], f"{name}.inner")
        inner = self._add("Mul", [inner, self._constant(math.sqrt(2 / math.pi))], f"{name}.scaled")
        grown = self._add(
            "Add", [self._add("Tanh", [inner], f"{name}.tanh"), self._constant(1)], f"{name}.grown"
        )
        product = self._add("Mul", [value, grown], f"{name}.product")
        self._add("Mul", [product, self._constant(0.5)], node.output[0])

    def _quick_gelu(self, node: onnx.NodeProto) -> None:
        """Give x sigmoid(alpha x)."""
        (value,), name = node.input, node.name
        scaled = self._add("Mul", [value, self._constant(_attributes(node)["alpha"])], f"{name}.scaled")
        self._add("Mul", [value, self._add("Sigmoid", [scaled], f"{name}.sigmoid")], node.output[0])

    def _product(self, node: onnx.NodeProto) -> None:
        """Product with the second factor, (N, blocks, S, D), transposed: the one form that graphs here have."""
        if _attributes(node) != {"transB": 1}:
            raise NotBuildable(f"no standard form of FusedMatMul with {_attributes(node)}")
        turned = self._add("Transpose", [node.input[1]], f"{node.name}.turned", perm=[0, 1, 3, 2])
        self._add("MatMul", [node.input[0], turned], node.output[0])

    def _rotate(self, node: onnx.NodeProto) -> None:
        """Each head's first half a and second half b become a cos - b sin and b cos + a sin (B, T, K)."""
        value, places, cosines, sines = node.input
        name, heads = node.name, _attributes(node)["num_heads"]
        if self._shapes.get(places) != (1,):
            raise NotBuildable("no standard form of RotaryEmbedding with positions of their own")
        split = self._add("Reshape", [value, self._integers(0, 0, heads, -1)], f"{name}.heads")
        half = self._shapes[cosines][1]
        ends = [(0, half, "first"), (half, 2 * half, "second")]
        first, second = (
            self._add(
                "Slice",
                [split, self._integers(start), self._integers(end), self._integers(3)],
                f"{name}.{part}",
            )
            for start, end, part in ends
        )
        cosine, sine = (
            self._add(
                "Unsqueeze", [self._first_rows(table, f"{name}.{kind}"), self._integers(1)], f"{name}.{kind}"
            )
            for table, kind in ((cosines, "cosine"), (sines, "sine"))
        )  # (T, 1, D / 2)
        turned = []
        for sign, one, other in (("Sub", first, second), ("Add", second, first)):
            kept = self._add("Mul", [one, cosine], f"{name}.{sign}.kept")
            crossed = self._add("Mul", [other, sine], f"{name}.{sign}.crossed")
            turned.append(self._add(sign, [kept, crossed], f"{name}.{sign}"))
        joined = self._add("Concat", turned, f"{name}.joined", axis=-1)
        self._add("Reshape", [joined, self._integers(0, 0, -1)], node.output[0])

    def _attention(self, node: onnx.NodeProto) -> None:
        """softmax(Q K^T scale + bias) V of each head, (B, T, K); keys beyond `lengths` have no weight."""
        query, key, value, biases, lengths, bias = [*node.input, "", "", ""][:6]
        name, options = node.name, _attributes(node)
        heads = options["num_heads"]
        parts = [query, key, value]
        if biases:
            kinds = ("query", "key", "value")
            width = self._shapes[biases][0] // 3
            parts = [
                self._add(
                    "Add",
                    [
                        part,
                        self._add(
                            "Slice",
                            [
                                biases,
                                self._integers(at * width),
                                self._integers((at + 1) * width),
                                self._integers(0),
                            ],
                            f"{name}.{kind}.bias",
                        ),
                    ],
                    f"{name}.{kind}.biased",
                )
                for at, (part, kind) in enumerate(zip(parts, kinds, strict=True))
            ]
        split = [
            self._add("Reshape", [part, self._integers(0, 0, heads, -1)], f"{name}.{kind}.split")
            for part, kind in zip(parts, "qkv", strict=True)
        ]
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        queries, keys, values = (
            self._add("Transpose", [part], f"{name}.{kind}.heads", perm=order)
            for part, kind, order in zip(split, "qkv", orders, strict=True)
        )
        scores = self._add("MatMul", [queries, keys], f"{name}.products")  # (B, N, T, S)
        scores = self._add("Mul", [scores, self._scale(options, queries, name)], f"{name}.scaled")
        if bias:
            scores = self._add("Add", [scores, bias], f"{name}.with_bias")
        if self._window is not None:
            scores = self._add("Add", [scores, self._bands[self._window]], f"{name}.within")
        if lengths:
            scores = self._add("Add", [scores, self._mask(lengths, scores, name)], f"{name}.masked")
        weights = self._add("Softmax", [scores], f"{name}.weights", axis=-1)
        context = self._add("MatMul", [weights, values], f"{name}.context")
        context = self._add("Transpose", [context], f"{name}.context.rows", perm=[0, 2, 1, 3])
        self._add("Reshape", [context, self._integers(0, 0, -1)], node.output[0])

    def _scale(self, options: dict[str, Any], queries: str, name: str) -> str:
        """Return the factor of the scores: as it is given, or 1 / sqrt(D)."""
        if options.get("scale"):
            return self._constant(options["scale"])
        size = self._add("Shape", [queries], f"{name}.size", start=3, end=4)
        size = self._add("Cast", [size], f"{name}.real_size", to=TensorProto.FLOAT)
        return self._add("Reciprocal", [self._add("Sqrt", [size], f"{name}.root")], f"{name}.scale")

    def _mask(self, lengths: str, scores: str, name: str) -> str:
        """Return what is added to scores (B, N, T, S) for the keys beyond `lengths`, (B, 1, 1, S)."""
        time = self._add("Shape", [scores], f"{name}.mask.time", start=3, end=4)
        end = self._add("Squeeze", [time], f"{name}.mask.end")
        zero, one = self._constant(0, np.int64), self._constant(1, np.int64)
        places = self._add("Range", [zero, end, one], f"{name}.mask.places")
        long = self._add("Cast", [lengths], f"{name}.mask.lengths", to=TensorProto.INT64)
        column = self._add("Reshape", [long, self._integers(-1, 1, 1, 1)], f"{name}.mask.column")
        inside = self._add("Less", [places, column], f"{name}.mask.inside")
        bounds = [self._constant(0), self._constant(_MASKED)]
        return self._add("Where", [inside, *bounds], f"{name}.mask")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
