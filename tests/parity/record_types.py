"""Compare the recorded token-classification types with those of the transformers that is installed.

usage: python tests/parity/record_types.py
Prints what is new and what is gone, and ends with 1 if there is any. Needs transformers, no PyTorch (`make types-new`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

TYPES = Path(__file__).parent / "types.json"


def main() -> int:
    """Print the differences."""
    recorded = json.loads(TYPES.read_text())
    now = set(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    new, gone = sorted(now - set(recorded["types"])), sorted(set(recorded["types"]) - now)
    print(f"recorded: transformers {recorded['transformers']}; installed: {transformers.__version__}")
    print(f"new: {', '.join(new) or 'none'}; gone: {', '.join(gone) or 'none'}")
    return int(bool(new or gone))


if __name__ == "__main__":
    sys.exit(main())
