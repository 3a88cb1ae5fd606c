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
    return _PART.sub(lambda part: f"{part[1]}\n{TABLES[part[2]](page)}\n{part[3]}", page.read_text())


def pages() -> list[Path]:
    """Return the pages that have such tables."""
    candidates = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    return sorted(page for page in candidates if _PART.search(page.read_text()))


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


# --- against what a user would pick instead ----------------------------------------------------------------------

# The result files of the table of README, without `.json`; a scenario is looked for in the first, then in the next.
# After a new measurement change this alone, and run `make reference`: columns, machine, commits and ratios follow.
SPEED = ("goals-zen5", "rest-zen5")

_SERVERS = (
    ("**nerve**", ("nerve/auto",)),
    ("**nerve**, int8", ("nerve-int8/auto",)),
    ("FastAPI + transformers (PyTorch)", ("fastapi-transformers/1 worker", "fastapi-transformers/1 thread")),
    ("FastAPI + ONNX Runtime", ("fastapi-onnx/1 worker", "fastapi-onnx/1 thread")),
    ("LitServe + ONNX Runtime", ("litserve/1 worker", "litserve/1 thread")),
    ("mosec + ONNX Runtime", ("mosec/1 worker", "mosec/1 thread")),
)
_OURS, _TORCH, _RIVALS = _SERVERS[0][1], _SERVERS[2][1], tuple(variants for _, variants in _SERVERS[3:])
# Scenario, what is read there, title. One that no file has is left out.
_COLUMNS = (
    ("real-c1", "p50", "one request at a time, p50"),
    ("real-c8", "rps", "8 clients, requests/s"),
    ("real-c32", "rps", "32 clients, requests/s"),
    ("real-doc-c1", "p50", "a text of 512 tokens, p50"),
    ("real-32texts-c1", "p50", "a request of 32 texts, p50"),
)


def speed(page: Path) -> str:
    """Return the table of README: the default model, as each server does best; nerve as it comes.

    Its last rows are ratios; below it is where the figures are from.
    """
    files = {name: _read(name) for name in SPEED}
    columns = []
    for scenario, what, title in _COLUMNS:
        measured = [file["scenarios"][scenario] for file in files.values() if scenario in file["scenarios"]]
        if measured:
            columns.append((measured[0], what, title))
    lines = ["| | " + " | ".join(title for *_, title in columns) + " |", "|---|" + "---|" * len(columns)]
    for name, variants in _SERVERS:
        cells = [_cell(*_best(measured, what, variants), what) for measured, what, _ in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, rivals in (("FastAPI + transformers", (_TORCH,)), ("best of the ONNX servers", _RIVALS)):
        ratios = [_ratio(measured, what, rivals) for measured, what, _ in columns]
        lines.append(f"| nerve / {name} | {' | '.join(ratios)} |")
    return "\n".join([*lines, "", _sources(files, page)])


def _best(measured: dict[str, Any], what: str, variants: tuple[str, ...]) -> tuple[float | None, str]:
    """Return the best of some variants, and its sign: what was only measured to find the best variants has a `~`."""
    for runs, sign in (
        (measured["summary"], ""),
        (measured["qualification"], "~"),
    ):
        values = [_value(runs[variant][0], what) for variant in variants if variant in runs]
        if values:
            return (min(values) if what == "p50" else max(values)), sign
    return None, ""


def _cell(value: float | None, sign: str, what: str) -> str:
    return "-" if value is None else f"{sign}{_short(value)}{' ms' if what == 'p50' else ''}"


def _ratio(measured: dict[str, Any], what: str, rivals: tuple[tuple[str, ...], ...]) -> str:
    """Return what nerve's figure is of the best of others."""
    ours = _best(measured, what, _OURS)[0]
    theirs = [value for each in rivals if (value := _best(measured, what, each)[0]) is not None]
    if ours is None or not theirs:
        return "-"
    return f"{ours / (min(theirs) if what == 'p50' else max(theirs)):.2f}"


def _sources(files: dict[str, dict[str, Any]], page: Path) -> str:
    """Return which machine the figures are of, and which files and commits."""
    up = "../" * (len(page.relative_to(REPOSITORY).parts) - 1)
    links = ", ".join(
        f"[{name}.json]({up}bench/results/{name}.json) (commit {file['commit'][:7]})"
        for name, file in files.items()
    )
    machines = dict.fromkeys(_machine(file["machine"]) for file in files.values())
    return (
        f"On {' and '.join(machines)}; from {links}. `~`: a short run. In the last two rows less than 1 is better for "
        "a time, more than 1 for requests/s."
    )


def _machine(found: dict[str, Any]) -> str:
    name = found["cpu"].replace("(R)", "").replace(" Processor", "")
    vnni = " with AVX512-VNNI" if "avx512_vnni" in found["flags"] else ""
    return f"{found['cores']} cores of {name}{vnni}"


def _value(run: dict[str, Any], what: str) -> float:
    found = run["rps"] if what == "rps" else run["latency_ms"][what]
    return float(found["median"] if isinstance(found, dict) else found)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


# --- size a machine ----------------------------------------------------------------------------------------------


def sizes(_: Path) -> str:
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


def calls(_: Path) -> str:
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


def isolation(_: Path) -> str:
    """Return how long short requests take alone, and beside one large document."""
    lines = [
        "| round | alone, p50 / p99 ms | meanwhile, p50 / p99 ms | the document, s |",
        "|---|---|---|---|",
    ]
    for number, one in enumerate(_read("isolation")["rounds"], 1):
        alone, beside = (f"{one[part]['p50']} / {one[part]['p99']}" for part in ("alone", "meanwhile"))
        lines.append(f"| {number} | {alone} | {beside} | {one['document']['seconds']} |")
    return "\n".join(lines)


_FAMILY_CASES = ("1x36", "1x128", "1x512", "2x512")


def families(_: Path) -> str:
    """Return how long an operation takes each family over BERT's, by precision, tokens and threads."""
    if not (RESULTS / "families.json").exists():
        return "No run of `python -m bench.architectures.families` is committed yet."
    found = _read("families")
    titles = [
        f"{case.split('x')[1]} tokens, {case[0]} core{'s' if case[0] == '2' else ''}"
        for case in _FAMILY_CASES
    ]
    lines = [
        "| family | operations over BERT's, 128 / 512 tokens | precision | " + " | ".join(titles) + " |",
        "|---|---|---|" + "---|" * len(titles),
    ]
    for name, row in found["families"].items():
        operations = " / ".join(f"{row['operations'][length]:.2f}" for length in ("128", "512"))
        for precision in ("float32", "int8"):
            cells = [f"{row['per_operation'][f'{precision} {case}']:.2f}" for case in _FAMILY_CASES]
            lines.append(f"| `{name}` | {operations} | {precision} | {' | '.join(cells)} |")
    facts, rounds = found["machine"], {row["rounds"] for row in found["families"].values()}
    lines += [
        "",
        f"Medians of {' or '.join(map(str, sorted(rounds)))} rounds "
        f"([families.json](../../bench/results/families.json)). {facts['cores']} cores of {facts['cpu']}, commit "
        f"{found['commit']}, load before: {facts['load_before']:.1f}.",
    ]
    return "\n".join(lines)


TABLES = {"families": families, "isolation": isolation, "speed": speed, "sizes": sizes, "calls": calls}
