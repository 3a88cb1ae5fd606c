"""Records what presidio-anonymizer's operators give: `pip install presidio-anonymizer`, then run this file.

Writes golden/operators.json; tests/text/test_operators.py compares.
"""

from __future__ import annotations

import itertools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from presidio_anonymizer import AnonymizerEngine
from presidio_anonymizer.entities import OperatorConfig, RecognizerResult

GOLDEN = Path(__file__).parent / "golden" / "operators.json"
VALUES = ["Anna", "", "4111 1111 1111 1111", "Ré\u0301né 😀👨‍👩‍👧", "محمد", "a\r\nb", "x" * 40]
SALT = "0123456789abcdef-é"
OPERATORS: list[dict[str, Any]] = [
    {"type": "replace"},
    {"type": "replace", "new_value": ""},
    {"type": "replace", "new_value": "[gone 😀]"},
    {"type": "redact"},
    {"type": "keep"},
    *(
        {"type": "mask", "masking_char": sign, "chars_to_mask": count, "from_end": from_end}
        for sign, count, from_end in itertools.product("*█", (0, 1, 4, 1000), (False, True))
    ),
    *({"type": "hash", "hash_type": kind, "salt": SALT} for kind in ("sha256", "sha512")),
    {"type": "hash", "salt": SALT},
]


def main() -> None:
    """Record."""
    engine = AnonymizerEngine()
    cases = []
    for value, operator in itertools.product(VALUES, OPERATORS):
        if not value:
            continue  # Presidio refuses empty spans
        text = f"before {value} after"
        parameters = {key: given for key, given in operator.items() if key != "type"}
        found = engine.anonymize(
            text,
            [RecognizerResult("PERSON", 7, 7 + len(value), 1.0)],
            {"PERSON": OperatorConfig(operator["type"], parameters)},
        )
        cases.append({"value": value, "operator": operator, "text": found.text})
    recorded = {"presidio_anonymizer": version("presidio-anonymizer"), "cases": cases}
    GOLDEN.write_text(json.dumps(recorded, indent=1, ensure_ascii=True) + "\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
