"""Serve every repository of a hub by its name alone, as a user's first start does: nothing is here but what is fetched.

usage: HF_ENDPOINT=... python -m zoo.by_name ZOO (from tests/; the address is read when huggingface_hub is imported)
Says of each entry what `nerve show` foresaw before anything was fetched, why a start was refused, the files that it
needs, and where answers differ from transformers'.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nerve
from nerve.config import cache_dir_of, choose_config
from nerve.errors import StartupError
from nerve.models.outlook import foresee
from zoo.answers import find_difference, flatten

STRATEGY = "simple"


def serve(zoo: Path, slug: str, name: str, texts: list[str]) -> dict[str, Any]:
    """Show and load one repository; compare its answers."""
    config = choose_config(name, None)
    outlook = foresee(config, cache_dir_of(config))
    row: dict[str, Any] = {
        "foreseen": outlook.refused,
        "tokenizer": outlook.tokenizer.get("file"),
        "files": [file.name for file in outlook.files],
        "refused": None,
        "differences": [],
    }
    try:
        classifier = nerve.load(name, threads=1)
    except StartupError as error:
        row["refused"] = str(error)
        return row
    reference = json.loads((zoo / "references" / f"{slug}.json").read_text())
    with classifier:
        for number, rows in enumerate(classifier.predict(texts, STRATEGY, truncate=True)):
            if what := find_difference(reference, number, STRATEGY, flatten(rows)):
                row["differences"].append([number, what])
    return row


def main() -> None:
    """Serve each repository that a line of the standard input names; answer with a line."""
    zoo = Path(sys.argv[1])
    texts = json.loads((zoo / "texts.json").read_text())["texts"]
    for line in sys.stdin:
        slug = line.strip()
        row = serve(zoo, slug, slug.replace("--", "/", 1), texts)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
