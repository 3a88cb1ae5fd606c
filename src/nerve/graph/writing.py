"""Adds operators to an ONNX graph: the small ones that every form of graph is made of.

B = sequences, T = longest of them, H = hidden size. "For the CPU" and "for CUDA" are forms of the same function, of
which each is the quickest there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from nerve.graph.architectures.encoder import Activation

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from nerve.graph.architectures.encoder import Linear, Norm
    from nerve.types import FloatArray

OPSET = 17
IR_VERSION = 8  # belongs to opset 17; older than what the oldest onnxruntime we allow reads
FUSED = "com.microsoft"


class GraphWriter:
    """A model under construction; each method returns the name of what it added.

    half: whether it computes in float16.
    """

    half = False

    def __init__(self) -> None:
        self.model = onnx.ModelProto(
            ir_version=IR_VERSION,
            producer_name="nerve",
            opset_import=[helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)],
        )
        self.graph = self.model.graph
        self._names: set[str] = set()
        self._nodes = self.graph.node
        self._shared: dict[tuple[int, tuple[int, ...]], tuple[str, FloatArray]] = {}

    def weight(self, name: str, value: FloatArray) -> str:
        """Add a weight of the encoder as an initializer, once however many layers share it."""
        key = (value.__array_interface__["data"][0], value.strides)
        if key not in self._shared:
            # The array is kept, so that no other takes its address.
            self._shared[key] = (self.constant(name, value), value)
        return self._shared[key][0]

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add `value` as an initializer, once per name."""
        if name not in self._names:
            self._names.add(name)
            array = np.ascontiguousarray(value)
            self.graph.initializer.add(
                name=name,
                dims=value.shape,
                data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                raw_data=array.tobytes(),
            )
        return name

    def integers(self, *values: int) -> str:
        """Add a list of whole numbers, int64, as shapes and axes are."""
        name = "integers_" + "_".join(map(str, values))
        return self.constant(name.replace("-", "minus"), np.array(values, np.int64))

    def node(
        self,
        operator: str,
        inputs: list[str],
        name: str,
        *,
        fused: bool = False,
        output: str | None = None,
        outputs: list[str] | None = None,
        **attributes: Any,  # noqa: ANN401 - what an ONNX attribute can hold
    ) -> str:
        """Add a node and return its first output; fused operators are ONNX Runtime's own."""
        results = outputs or [output or name]
        self._nodes.append(
            helper.make_node(
                operator, inputs, results, name=name, domain=FUSED if fused else None, **attributes
            )
        )
        return results[0]

    def choose(self, condition: str, name: str, then: Callable[[], str], other: Callable[[], str]) -> str:
        """Add a float32 result that one of two functions adds the operators of, as a bool decides at run time."""
        branches = {}
        for branch, add in (("then_branch", then), ("else_branch", other)):
            with self._inside() as nodes:
                result = add()
            info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
            branches[branch] = helper.make_graph(nodes, f"{name}.{branch}", [], [info])
        return self.node("If", [condition], name, **branches)

    def repeat(self, count: str, name: str, body: Callable[[str], str]) -> str:
        """Add float32 results of one shape, one after the other; they stand side by side on a new first axis.

        count: int64, how many there are. body: adds the operators of one, whose number it gets, int64 (1,).
        """
        with self._inside() as nodes:
            number = self.node("Unsqueeze", [f"{name}.turn", self.integers(0)], f"{name}.number")
            result = body(number)
            self.node("Identity", [f"{name}.goes_on"], f"{name}.goes_on_still")
        info = helper.make_tensor_value_info
        inside = helper.make_graph(
            nodes,
            f"{name}.body",
            [
                info(f"{name}.turn", TensorProto.INT64, []),
                info(f"{name}.goes_on", TensorProto.BOOL, []),
            ],
            [
                info(f"{name}.goes_on_still", TensorProto.BOOL, []),
                info(result, TensorProto.FLOAT, None),
            ],
        )
        return self.node("Loop", [count, ""], name, body=inside)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[list[onnx.NodeProto]]:
        """Collect the nodes that are added meanwhile; constants stay where they are."""
        outside, self._nodes = self._nodes, []
        try:
            yield self._nodes
        finally:
            self._nodes = outside


def add_bias(graph: GraphWriter, value: str, bias: FloatArray | None, name: str) -> str:
    """Add a bias over the last axis, if there is one."""
    return (
        value
        if bias is None
        else graph.node("Add", [value, graph.constant(f"{name}.bias", bias)], f"{name}.add")
    )


def product(graph: GraphWriter, value: str, layer: Linear, name: str) -> str:
    """Multiply over the last axis: x W^T."""
    weight = graph.weight(f"{name}.weight", layer.weight.T)  # (in, out)
    return graph.node("MatMul", [value, weight], f"{name}.matmul")


def linear(graph: GraphWriter, value: str, layer: Linear, name: str) -> str:
    """Add x W^T + b over the last axis."""
    return add_bias(graph, product(graph, value, layer, name), layer.bias, name)


def normalize(graph: GraphWriter, value: str, norm: Norm, epsilon: float, name: str) -> str:
    """Normalise over the last axis."""
    inputs = [value, graph.constant(f"{name}.norm.weight", norm.weight)]
    if norm.is_rms:
        # ONNX Runtime's own, although it stands in ONNX's domain.
        return graph.node("SimplifiedLayerNormalization", inputs, f"{name}.norm", axis=-1, epsilon=epsilon)
    if norm.bias is not None:
        inputs.append(graph.constant(f"{name}.norm.bias", norm.bias))
    return graph.node("LayerNormalization", inputs, f"{name}.norm", axis=-1, epsilon=epsilon)


def skip_sum(graph: GraphWriter, value: str, skip: str, bias: FloatArray | None, name: str) -> str:
    """Add value + skip + bias."""
    return add_bias(graph, graph.node("Add", [value, skip], f"{name}.sum"), bias, f"{name}.sum")


def activate(
    graph: GraphWriter, activation: Activation, value: str, bias: FloatArray | None, name: str
) -> str:
    """Activation of x + bias, for the CPU.

    BiasGelu takes a quarter longer there than Add and Gelu, to the same bits.
    """
    if activation is Activation.GELU_TANH:
        shift = [] if bias is None else [graph.constant(f"{name}.bias", bias)]
        return graph.node("FastGelu", [value, *shift], f"{name}.gelu", fused=True)
    total = add_bias(graph, value, bias, name)
    if activation in _ONE_OPERATOR:
        operator, options = _ONE_OPERATOR[activation]
        return graph.node(operator, [total], f"{name}.{operator.lower()}", **options)
    return _SEVERAL_OPERATORS[activation](graph, total, name)


_ONE_OPERATOR: dict[Activation, tuple[str, dict[str, Any]]] = {
    Activation.GELU: ("Gelu", {"fused": True}),
    Activation.QUICK_GELU: ("QuickGelu", {"fused": True, "alpha": 1.702}),
    Activation.SILU: ("QuickGelu", {"fused": True, "alpha": 1.0}),
    Activation.RELU: ("Relu", {}),
    Activation.TANH: ("Tanh", {}),
    Activation.HARD_SWISH: ("HardSwish", {}),
    Activation.LEAKY_RELU: ("LeakyRelu", {"alpha": 0.01}),
    Activation.SIGMOID: ("Sigmoid", {}),
}


def _number(graph: GraphWriter, value: float) -> str:
    return graph.constant(f"number_{value}", np.array(value, np.float32))


def _gelu_10(graph: GraphWriter, value: str, name: str) -> str:
    value = graph.node("Gelu", [value], f"{name}.gelu", fused=True)
    return graph.node("Clip", [value, _number(graph, -10), _number(graph, 10)], f"{name}.clipped")


def _mish(graph: GraphWriter, value: str, name: str) -> str:
    """Give x tanh(log(1 + e^x)) as x n / (n + 2), where n is e^x (e^x + 2).

    ONNX Runtime's Softplus and Log compute the last numbers of an array otherwise than the rest: what a token gets
    would depend on the batch. Beyond the bound the factor is 1, and in float16 n would be none.
    """
    few = graph.node("Clip", [value, "", _number(graph, 5.5 if graph.half else 20)], f"{name}.few")
    power = graph.node("Exp", [few], f"{name}.power")
    above = graph.node(
        "Mul", [power, graph.node("Add", [power, _number(graph, 2)], f"{name}.power_2")], f"{name}.n"
    )
    below = graph.node("Add", [above, _number(graph, 2)], f"{name}.n_2")
    return graph.node("Mul", [value, graph.node("Div", [above, below], f"{name}.part")], f"{name}.mish")


def _laplace(graph: GraphWriter, value: str, name: str) -> str:
    value = graph.node("Sub", [value, _number(graph, 0.707107)], f"{name}.centred")
    value = graph.node("Div", [value, _number(graph, 0.282095 * math.sqrt(2))], f"{name}.scaled")
    value = graph.node(
        "Add", [graph.node("Erf", [value], f"{name}.erf"), _number(graph, 1)], f"{name}.raised"
    )
    return graph.node("Mul", [value, _number(graph, 0.5)], f"{name}.laplace")


def _relu_2(graph: GraphWriter, value: str, name: str) -> str:
    value = graph.node("Relu", [value], f"{name}.relu")
    return graph.node("Mul", [value, value], f"{name}.squared")


def _sqrt_softplus(graph: GraphWriter, value: str, name: str) -> str:
    """Give the root of log(1 + e^x), which is max(x, 0) + 2 atanh(t / (t + 2)), where t is e^-|x|; see `_mish`."""
    size = graph.node("Neg", [graph.node("Abs", [value], f"{name}.size")], f"{name}.minus_size")
    power = graph.node("Exp", [size], f"{name}.power")
    below = graph.node("Add", [power, _number(graph, 2)], f"{name}.power_2")
    rest = graph.node("Atanh", [graph.node("Div", [power, below], f"{name}.part")], f"{name}.atanh")
    rest = graph.node("Mul", [rest, _number(graph, 2)], f"{name}.rest")
    total = graph.node("Add", [graph.node("Relu", [value], f"{name}.relu"), rest], f"{name}.softplus")
    return graph.node("Sqrt", [total], f"{name}.root")


_SEVERAL_OPERATORS: dict[Activation, Callable[[GraphWriter, str, str], str]] = {
    Activation.LINEAR: lambda graph, value, name: value,
    Activation.GELU_10: _gelu_10,
    Activation.MISH: _mish,
    Activation.LAPLACE: _laplace,
    Activation.RELU_2: _relu_2,
    Activation.RELU_6: lambda graph, value, name: graph.node(
        "Clip", [value, _number(graph, 0), _number(graph, 6)], f"{name}.relu6"
    ),
    Activation.SQRT_SOFTPLUS: _sqrt_softplus,
}
