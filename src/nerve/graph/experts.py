"""Adds a mixture of experts: only those that a token takes compute, each over all of its tokens at once.

Every token is written down once for each expert that it takes, and these rows are sorted by expert. Cut where the
expert changes, they enter one matrix product for each expert, whose weights are constants; experts that nobody takes
get no rows. So the weights are laid out once, at start, and each row is computed on its own
(docs/decisions/0052).

N = tokens, K = experts that each takes, E = experts, H = hidden size, F = inner size of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from nerve.graph.writing import linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.graph.architectures.encoder import Experts, Stack
    from nerve.graph.writing import GraphWriter
    from nerve.types import FloatArray


@dataclass(frozen=True, slots=True)
class Routes:
    """Which rows go where, by name: NK rows, sorted by expert.

    experts, tokens: int64 (NK,), of each row. counts: int64 (E,), rows of each expert.
    back: int64 (NK,), where the row of each token's first expert lies, that of its second, and so on.
    shares: float32 (N, K), how much of each expert's result a token takes.
    """

    experts: str
    tokens: str
    counts: str
    back: str
    shares: str


def mix(
    graph: GraphWriter,
    experts: Experts,
    value: str,
    name: str,
    products: Callable[[str, str | None, Routes, Stack, str], str],
) -> str:
    """Add the mixture over `value` (N, H): (N, H).

    products: adds the product of rows with the weights of their experts, (NK, out). It gets the rows, the token that
    each is of (None where the rows are there already), the routes, the weights and a name.
    """
    routes = _route(graph, experts, value, name)
    wide = products(value, routes.tokens, routes, experts.wide, f"{name}.wide")
    wide = _add_bias(graph, wide, experts.wide.bias, routes, f"{name}.wide")
    inner = experts.wide.shape[1] // 2
    parts = [f"{name}.gate", f"{name}.up"]
    graph.node("Split", [wide, graph.integers(inner, inner)], f"{name}.halves", outputs=parts, axis=1)
    limits = [
        graph.constant(f"{name}.{kind}", np.array(limit, np.float32))
        for kind, limit in (("least", -experts.limit), ("most", experts.limit))
    ]
    gate = graph.node("Min", [parts[0], limits[1]], f"{name}.gate.bounded")
    gate = graph.node("QuickGelu", [gate], f"{name}.gate.act", fused=True, alpha=experts.steepness)
    up = graph.node("Clip", [parts[1], *limits], f"{name}.up.bounded")
    up = graph.node("Add", [up, graph.constant("expert_one", np.array(1, np.float32))], f"{name}.up.more")
    value = graph.node("Mul", [up, gate], f"{name}.gated")
    value = products(value, None, routes, experts.down, f"{name}.down")
    value = _add_bias(graph, value, experts.down.bias, routes, f"{name}.down")
    value = graph.node("Gather", [value, routes.back], f"{name}.back")
    apart = graph.integers(-1, experts.n_chosen, experts.down.shape[1])
    value = graph.node("Reshape", [value, apart], f"{name}.apart")  # (N, K, H)
    shares = graph.node("Unsqueeze", [routes.shares, graph.integers(2)], f"{name}.shares_column")
    value = graph.node("Mul", [value, shares], f"{name}.weighted")
    value = graph.node("Reshape", [value, graph.integers(0, -1)], f"{name}.beside")
    parts = [f"{name}.{place}.chosen" for place in range(experts.n_chosen)]
    sizes = graph.integers(*[experts.down.shape[1]] * experts.n_chosen)
    graph.node("Split", [value, sizes], f"{name}.parts", outputs=parts, axis=1)
    # ReduceSum adds in another order where there is one token only.
    return graph.node("Sum", parts, f"{name}.sum")


def split_rows(graph: GraphWriter, value: str, routes: Routes, n_experts: int, name: str) -> list[str]:
    """Cut the sorted rows into those of each expert."""
    parts = [f"{name}.{expert}.rows" for expert in range(n_experts)]
    graph.node("Split", [value, routes.counts], f"{name}.rows", outputs=parts, axis=0)
    return parts


def float_products(
    graph: GraphWriter, value: str, tokens: str | None, routes: Routes, stack: Stack, name: str
) -> str:
    """Multiply in float32, as `mix` wants it."""
    if tokens is not None:
        value = graph.node("Gather", [value, tokens], f"{name}.taken")
    parts = split_rows(graph, value, routes, stack.shape[0], name)
    done = [
        graph.node(
            "MatMul",
            [rows, graph.constant(f"{name}.{expert}.weight", weight.T)],
            f"{name}.{expert}",
        )
        for expert, (rows, weight) in enumerate(zip(parts, stack.read(), strict=True))
    ]
    return graph.node("Concat", done, f"{name}.all", axis=0)


def _route(graph: GraphWriter, experts: Experts, value: str, name: str) -> Routes:
    """Let each token choose its experts; of equals, the first ones."""
    integers, n_chosen = graph.integers, experts.n_chosen
    scores = linear(graph, value, experts.router, f"{name}.router")  # (N, E)
    chosen = [f"{name}.best", f"{name}.chosen"]
    graph.node("TopK", [scores, integers(n_chosen)], f"{name}.choice", outputs=chosen, axis=-1)
    shares = graph.node("Softmax", [chosen[0]], f"{name}.shares", axis=-1)
    flat = graph.node("Reshape", [chosen[1], integers(-1)], f"{name}.flat")  # (NK,)
    n_rows = graph.node("Shape", [flat], f"{name}.n_rows")
    # A sorted TopK leaves equals in their order, so it sorts rows by expert; sorting what it did to them undoes it.
    order = [f"{name}.experts", f"{name}.order"]
    graph.node("TopK", [flat, n_rows], f"{name}.sorted", outputs=order, axis=0, largest=0)
    back = [f"{name}.unused", f"{name}.places"]
    graph.node("TopK", [order[1], n_rows], f"{name}.unsorted", outputs=back, axis=0, largest=0)
    times = graph.constant(f"{name}.times", np.array(n_chosen, np.int64))
    tokens = graph.node("Div", [order[1], times], f"{name}.tokens")
    column = graph.node("Unsqueeze", [flat, integers(1)], f"{name}.column")
    numbers = graph.constant(f"{name}.numbers", np.arange(len(experts.router.weight))[None])
    hits = graph.node("Equal", [column, numbers], f"{name}.hits")
    hits = graph.node("Cast", [hits], f"{name}.ones", to=TensorProto.INT64)
    counts = graph.node("ReduceSum", [hits, integers(0)], f"{name}.counts", keepdims=0)  # (E,)
    return Routes(order[0], tokens, counts, back[1], shares)


def _add_bias(graph: GraphWriter, value: str, bias: FloatArray | None, routes: Routes, name: str) -> str:
    """Add to each row the bias of its expert, (E, out)."""
    if bias is None:
        return value
    rows = graph.node(
        "Gather", [graph.constant(f"{name}.bias", bias), routes.experts], f"{name}.bias_of_rows"
    )
    return graph.node("Add", [value, rows], f"{name}.add")
