"""The golden files: their layout, and the made-up logits of the tokenizer families.

Used by `record.py` (where PyTorch is) and by the tests (where it is not), so it imports neither.

A golden is gzipped JSON: `versions`, `texts_sha256`, `labels`, `answers`. `answers` maps a strategy to
one list per text of `[label, start, end, score]`, where label indexes `labels`. Offsets are code points.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "golden"
RAMPART = FOLDER / "rampart.json.gz"
FAMILIES = FOLDER / "families.json.gz"
LONG = FOLDER / "long.json.gz"
STRATEGIES = ("none", "simple", "first", "average", "max")
# Labels of the families: two plain ones beside B- and I-, as some published models have.
FAMILY_LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "I-LOC", "MISC", "DATE")
# Every so many texts of the corpus: a family proves its word rules, not the model.
FAMILY_STEP = 6

# Where our answer is another one on purpose: (why, labels of the model, labels of five tokens).
# docs/explanation/aggregation.md gives the reasons.
DIFFERENCES = (
    ("BIOES: S- and E- close", "O B-PER I-PER E-PER S-PER", "S-PER S-PER B-PER E-PER I-PER"),
    ("BILOU: U- and L- close", "O B-PER I-PER L-PER U-PER", "U-PER U-PER B-PER L-PER I-PER"),
    ("plain names with a hyphen stay whole", "O first-name E-MAIL", "first-name first-name O E-MAIL O"),
)

Answers = dict[str, list[list[tuple[str, int, int, float]]]]


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a golden; the same content gives the same bytes."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def read(path: Path) -> dict[str, Any]:
    """Read a golden."""
    content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return content


def pack(answers: Answers) -> dict[str, Any]:
    """Give `labels` and `answers` as they stand in a golden."""
    labels = sorted({row[0] for texts in answers.values() for rows in texts for row in rows})
    number = {label: index for index, label in enumerate(labels)}
    return {
        "labels": labels,
        "answers": {
            strategy: [[[number[row[0]], *row[1:]] for row in rows] for rows in texts]
            for strategy, texts in answers.items()
        },
    }


def unpack(golden: dict[str, Any]) -> Answers:
    """Undo `pack`."""
    labels = golden["labels"]
    return {
        strategy: [[(labels[row[0]], row[1], row[2], row[3]) for row in rows] for rows in texts]
        for strategy, texts in golden["answers"].items()
    }


def synthetic_logits(ids: list[int]) -> np.ndarray:
    """Give float32 (T, L) logits from token ids by integer arithmetic, the same on every machine.

    Three tokens in a row tend to agree, so that entities of several tokens and words with inner
    disagreement both occur; no two logits of a token are equal.
    """
    width = len(FAMILY_LABELS)
    tokens = np.array(ids, dtype=np.int64).reshape(-1, 1)  # (T, 1)
    places = np.arange(len(ids), dtype=np.int64).reshape(-1, 1)  # (T, 1)
    labels = np.arange(width, dtype=np.int64)  # (L,)
    noise = (tokens * 7919 + labels * 104_729 + places * 1_299_709 + tokens * labels * 611_953) % 99_991
    wanted = (places // 3 * 5 + places // 7 + len(ids)) % (width + 4)  # above L: nothing is favoured
    logits = noise / 25_000 + np.where(labels == wanted, 3.0, 0.0) + labels / 1e3
    return np.asarray(logits, dtype=np.float32)
