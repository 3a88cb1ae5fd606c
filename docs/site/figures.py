"""Makes the tables of figures that stand in pages, from the result files of the bench: nobody types a figure.

A page has `<!-- figures: NAME -->` before such a table and `<!-- end -->` after it; `make reference` writes what is
between them, and a test compares.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "bench/results"
_PART = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: Path) -> str:
    """Return a page with its tables of figures as the result files have them."""
    return _PART.sub(lambda part: f"{part[1]}\n{TABLES[part[2]]()}\n{part[3]}", page.read_text())


def pages() -> list[Path]:
    """Return the pages that have such tables."""
    candidates = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    return sorted(page for page in candidates if _PART.search(page.read_text()))


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


# --- against what a user would pick instead ----------------------------------------------------------------------

_SERVERS = (
    ("**nerve**", ("nerve/auto",)),
    ("**nerve**, int8", ("nerve-int8/auto",)),
    ("FastAPI + transformers (PyTorch)", ("fastapi-transformers/1 worker", "fastapi-transformers/1 thread")),
    ("FastAPI + ONNX Runtime", ("fastapi-onnx/1 worker", "fastapi-onnx/1 thread")),
    ("LitServe + ONNX Runtime", ("litserve/1 worker", "litserve/1 thread")),
    ("mosec + ONNX Runtime", ("mosec/1 worker", "mosec/1 thread")),
)
# Result file, scenario, what is read there, title.
_COLUMNS = (
    ("goals", "real-c1", "p50", "one request at a time, p50"),
    ("goals", "real-c32", "rps", "32 clients, requests/s"),
    ("rest", "real-doc-c1", "p50", "a text of 512 tokens, p50"),
    ("rest", "real-32texts-c1", "p50", "a request of 32 texts, p50"),
)


def speed() -> str:
    """Return the table of README: the default model, as each server does best; nerve as it comes."""
    lines = ["| | " + " | ".join(title for *_, title in _COLUMNS) + " |", "|---|" + "---|" * len(_COLUMNS)]
    for name, variants in _SERVERS:
        cells = [_cell(file, scenario, what, variants) for file, scenario, what, _ in _COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(file: str, scenario: str, what: str, variants: tuple[str, ...]) -> str:
    """Return the best of some variants; what was only measured to find the best variants has a `~`."""
    measured = _read(file)["scenarios"][scenario]
    for runs, sign in (
        (measured["summary"], ""),
        (measured["qualification"], "~"),
    ):
        values = [_value(runs[variant][0], what) for variant in variants if variant in runs]
        if values:
            best = min(values) if what == "p50" else max(values)
            return f"{sign}{_short(best)}{' ms' if what == 'p50' else ''}"
    return "-"


def _value(run: dict[str, Any], what: str) -> float:
    found = run["rps"] if what == "rps" else run["latency_ms"][what]
    return float(found["median"] if isinstance(found, dict) else found)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


# --- size a machine ----------------------------------------------------------------------------------------------


def sizes() -> str:
    """Return what one server on two cores answers and holds, by model, and so what one core does in a second."""
    found = _read("sizes")
    lines = [
        "| BERT | parameters | precision | memory | one request at a time, p50 | 32 clients, requests/s | per core |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in found["cases"].values():
        rate = case["c32"]["rps"]
        lines.append(
            f"| {case['layers']} layers x {case['hidden']} | {case['parameters'] / 1e6:.0f} million "
            f"| {case['precision']} | {case['loaded_mib']:,.0f} MiB | {_short(case['c1']['latency_ms']['p50'])} ms "
            f"| {_short(rate)} | {_short(rate / found['machine']['cores'])} |"
        )
    return "\n".join(lines)


_CALLS = (("bert", "BERT-base"), ("modernbert", "ModernBERT-base"), ("deberta-v2", "DeBERTa-v3-base"))


def calls() -> str:
    """Return how long one call of the model takes, by architecture, precision, tokens and threads."""
    found = _read("architectures")["calls"]
    kinds = ("1x36", "1x128", "1x512", "2x36", "2x512")
    titles = [f"{kind.split('x')[1]} tokens, {kind[0]} core{'s' if kind[0] == '2' else ''}" for kind in kinds]
    lines = ["| model | precision | " + " | ".join(titles) + " |", "|---|---|" + "---|" * len(kinds)]
    for family, name in _CALLS:
        for precision in ("float32", "int8"):
            times = found[f"{family} {precision}"]
            cells = [f"{_short(times[kind][1])} ms" for kind in kinds]  # the smallest of the rounds
            lines.append(f"| {name} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def isolation() -> str:
    """Return how long short requests take alone, and beside one large document."""
    lines = [
        "| round | alone, p50 / p99 ms | meanwhile, p50 / p99 ms | the document, s |",
        "|---|---|---|---|",
    ]
    for number, one in enumerate(_read("isolation")["rounds"], 1):
        alone, beside = (f"{one[part]['p50']} / {one[part]['p99']}" for part in ("alone", "meanwhile"))
        lines.append(f"| {number} | {alone} | {beside} | {one['document']['seconds']} |")
    return "\n".join(lines)


TABLES = {"isolation": isolation, "speed": speed, "sizes": sizes, "calls": calls}
