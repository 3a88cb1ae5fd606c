"""Takes the branches out of a graph for padded batches, which a CUDA graph cannot capture."""

from __future__ import annotations

import onnx


def without_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the `else` of every `If`, and without the nodes that only its conditions needed.

    The graph that nerve builds asks whether any row has padding (`graph.attention`); `else` is right for both.
    """
    short = onnx.ModelProto()
    short.CopyFrom(model)
    nodes = list(_inlined(short.graph.node))
    needed = {output.name for output in short.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del short.graph.node[:]
    short.graph.node.extend(reversed(kept))
    return short


def _inlined(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    found: list[onnx.NodeProto] = []
    for node in nodes:
        if node.op_type != "If":
            found.append(node)
            continue
        branch = next(attribute.g for attribute in node.attribute if attribute.name == "else_branch")
        inner = _inlined(list(branch.node))
        names = dict(zip((output.name for output in branch.output), node.output, strict=True))
        for one in inner:
            one.output[:] = [names.get(name, name) for name in one.output]
        found += inner
    return found
