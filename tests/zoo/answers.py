"""Compares rows with what transformers' pipeline answered (references of the zoo; make_zoo.py says their form).

Numbers in names of differences are those of docs/explanation/aggregation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

STRATEGIES = ("none", "simple", "first", "average", "max")
TOLERANCE = 1e-4
Reference = dict[str, Any]
# label, score, start, end; of `none` also the token id
Flat = tuple[Any, ...]


def flatten(rows: Sequence[Any]) -> list[Flat]:
    """Return rows of the Python API as (label, score, start, end, token id)."""
    return [
        (next(iter(row.results)), next(iter(row.results.values())), row.start, row.end, row.token_id)
        for row in rows
    ]


def find_difference(reference: Reference, number: int, strategy: str, got: Sequence[Flat]) -> str | None:
    """Say how the answer for text `number` differs from transformers' in a way that is not documented; None if not."""
    if reference["rows"][strategy][number] is None:  # the reference itself fails
        return None
    what = _compare(reference, reference["tokens"][number], reference["rows"], number, strategy, got)
    alternative = reference["alternative"] or {"numbers": [], "texts": {}}
    if what is None or number not in alternative["numbers"]:
        return what
    again = alternative["texts"].get(str(number))  # difference 9: tokenizer.json as it is
    if again is None:  # the reference keeps the answers for the first ten
        return None
    rows = {name: {number: found} for name, found in again["rows"].items()}
    return _compare(reference, again["tokens"], rows, number, strategy, got)


def _compare(
    reference: Reference,
    tokens: dict[str, list[int]],
    rows: dict[str, Any],
    number: int,
    strategy: str,
    got: Sequence[Flat],
) -> str | None:
    offsets = list(zip(tokens["offsets"][::2], tokens["offsets"][1::2], strict=True))
    real = [place for place, is_special in zip(offsets, tokens["special"], strict=True) if not is_special]
    plain = [(*row, *place) for row, place in zip(rows["none"][number], real, strict=True)]
    if strategy == "none":
        if [row[4] for row in got] != tokens["ids"]:
            return "ids"
        if [(row[2], row[3]) for row in got] != offsets:
            return "offsets"
        got = [row for row, is_special in zip(got, tokens["special"], strict=True) if not is_special]
        return _differ(plain, got)
    expected = [tuple(row) for row in rows[strategy][number]]
    what = _differ(expected, got)
    letters = closing_letters(reference["labels"])
    if what is not None and strategy == "simple":  # differences 3 and 4
        return _differ(_group(plain, letters), got)
    if what is not None and letters:  # difference 3
        return None if _covered(expected, plain, letters) == _covered(got, plain, letters) else what
    if what is not None:  # difference 4: a label is cut at its hyphen
        cut = [(row[0].split("-", 1)[-1], *row[1:]) for row in got]
        return what if _differ(expected, [row for row in cut if row[0] != "O"]) else None
    return None


def _covered(rows: Sequence[Flat], plain: Sequence[Flat], letters: str) -> set[tuple[str, int]]:
    """Return what is found, by tag and token: which neighbours are one entity does not matter."""
    found = set()
    for label, _, start, end, *_ in rows:
        tag = label[2:] if label[1:2] == "-" and label[0] in letters else label
        found |= {(tag, number) for number, row in enumerate(plain) if start <= row[2] < row[3] <= end}
    return found


def _differ(expected: Sequence[Flat], got: Sequence[Flat]) -> str | None:
    if [row[2:4] for row in expected] != [row[2:4] for row in got]:
        return "spans"
    names = [(a[0], b[0]) for a, b in zip(expected, got, strict=True) if a[0] != b[0]]
    if names:
        return f"labels, {names[0][1]!r} for {names[0][0]!r}"
    worst = max((abs(a[1] - b[1]) for a, b in zip(expected, got, strict=True)), default=0.0)
    return f"scores by {worst:.1e}" if worst > TOLERANCE else None


def closing_letters(labels: Sequence[str]) -> str:
    """Return the prefixes beyond B and I of a label set, in words of difference 3."""
    tags: dict[str, set[str]] = {}
    for name in labels:
        if name[1:2] == "-":
            tags.setdefault(name[0], set()).add(name[2:])
    for letters in ("ESM", "LU"):
        closing: set[str] = set().union(*(tags.get(letter, set()) for letter in letters))
        if closing and closing <= tags.get("B", set()):
            return letters
    return ""


def _group(plain: Sequence[Flat], letters: str) -> list[Flat]:
    """Group the best labels of tokens as `simple` does by docs/explanation/aggregation.md."""
    groups: list[dict[str, Any] | None] = []
    for label, score, start, end in plain:
        if label == "O":
            groups.append(None)
            continue
        is_prefixed = label[1:2] == "-" and label[0] in "BI" + letters
        prefix, tag = (label[0], label[2:]) if is_prefixed else ("", label)
        last = groups[-1] if groups else None
        closing = ("E", "S") if "E" in letters else ("L", "U")
        is_closed = last is not None and bool(letters) and last["prefix"] in closing
        if last is not None and last["tag"] == tag and prefix not in ("B", "S", "U") and not is_closed:
            last["scores"].append(score)
            last["end"], last["prefix"] = end, prefix
        else:
            groups.append({"tag": tag, "prefix": prefix, "scores": [score], "start": start, "end": end})
    return [
        (group["tag"], float(np.mean(group["scores"])), group["start"], group["end"])
        for group in groups
        if group
    ]
