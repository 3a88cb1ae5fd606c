"""`nerve`: a server for named-entity recognition and any other token classifier.

In Python: `from nerve import load` (docs/guide/python.md). The names below are imported when first used, so
that `import nerve` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nerve.api import TokenClassifier, load
    from nerve.errors import NerveError
    from nerve.types import AggregationStrategy, OffsetUnit, Row

__all__ = ["AggregationStrategy", "NerveError", "OffsetUnit", "Row", "TokenClassifier", "__version__", "load"]

__version__ = "0.1.0"

_HOMES = {
    "AggregationStrategy": "nerve.types",
    "NerveError": "nerve.errors",
    "OffsetUnit": "nerve.types",
    "Row": "nerve.types",
    "TokenClassifier": "nerve.api",
    "load": "nerve.api",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
