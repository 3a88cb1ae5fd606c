"""Turns a model folder into the ONNX graph to run: this is the whole interface.

`loading` decides, `architectures` names the weights (`weights` reads them), `builder`, `int8` and `packed` write
graphs, `ready` checks those that others made, `cache` keeps those of our own, and `prepared`
what a backend makes of them. docs/explanation/graphs.md says which
checkpoint becomes which. The packages above know these names only.
"""

from nerve.graph.architectures import local_windows
from nerve.graph.blocks import queries_at_once
from nerve.graph.disentangled import heads_at_once
from nerve.graph.loading import Graph, build_check, is_buildable, load_graph
from nerve.graph.prepared import is_prepared
from nerve.runtime.backend import GraphKind

__all__ = [
    "Graph",
    "GraphKind",
    "build_check",
    "heads_at_once",
    "is_buildable",
    "is_prepared",
    "load_graph",
    "local_windows",
    "queries_at_once",
]
