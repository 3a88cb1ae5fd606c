from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nerve.errors import REASONS, NerveError, Overloaded, PredictError, StartupError
from nerve.http.responses import ERROR_TABLE
from nerve.http.routing import routes_of
from nerve.observability.metrics import INFO_LABELS, Metrics

REPOSITORY = Path(__file__).parents[2]
# Modules that touch the environment without taking a setting from it, once each.
PASSED_ON = {
    "runtime/cores.py": "sets the variable that keeps numpy to the usable cores",
    "runtime/sessions.py": "sets the variable that keeps onnxruntime from reporting to Microsoft",
    "checkpoint/wheel.py": "hands the environment on to pip",
}
PACKAGE = REPOSITORY / "src/nerve"
SOURCES = sorted(PACKAGE.rglob("*.py"))
BENCH = sorted(
    path for part in ("gpu", "robustness", "serving") for path in (REPOSITORY / "bench" / part).rglob("*.py")
)
MOST_LINES, MOST_LINES_OF_A_CLASS = 400, 300


def name_of(path: Path) -> str:
    """Return the path of a module within the package."""
    return path.relative_to(PACKAGE).as_posix()


def subclasses(root: type) -> Iterator[type]:
    """Yield every class below one."""
    for child in root.__subclasses__():
        if child.__module__.startswith("tests"):  # what other tests make is no failure of the package
            continue
        yield child
        yield from subclasses(child)


def environment_uses(path: Path) -> list[str]:
    """Return the places of a module that reach for the environment."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "putenv"}:
            found.append(f"{path.name}:{node.lineno}")
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [
                f"{path.name}:{node.lineno}" for alias in node.names if alias.name in {"environ", "getenv"}
            ]
    return found


def test_import_contract_holds() -> None:
    """A module imports lower layers only (pyproject.toml, tool.importlinter)."""
    script = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_only_config_reads_the_environment() -> None:
    """Everything else is told; what a process depends on stands in one place."""
    uses = {name_of(path): len(found) for path in SOURCES if (found := environment_uses(path))}
    of_config = ("loading.py", "redaction_key.py", "selection.py", "terminal.py")
    assert all(uses.pop(f"config/{name}") for name in of_config)
    assert uses == dict.fromkeys(PASSED_ON, 1)


def test_error_table_has_a_row_for_every_failure_of_a_request() -> None:
    """A new `PredictError` without a status would be answered 500."""
    assert set(ERROR_TABLE) == set(subclasses(PredictError))


def test_every_failure_has_a_reason_that_is_counted() -> None:
    """A reason that the metrics do not know would make a defect of a refusal; no two failures share one."""
    reasons = [error.reason for error in subclasses(PredictError) if error is not Overloaded]
    ours = ("queue_tokens", "queue_wait", "queue_deadline", "pool", "pending_bytes")
    assert sorted([*reasons, *ours, PredictError.reason]) == sorted(REASONS)


def test_errors_are_of_two_families() -> None:
    """A failure of the server is for the operator or for the client; commands have failures of their own."""
    families = {StartupError, PredictError}
    for error in set(subclasses(NerveError)) - families:
        if error.__module__ != NerveError.__module__:
            continue
        assert sum(issubclass(error, family) for family in families) == 1, error


def test_metrics_are_ours_and_documented() -> None:
    """Every name starts with `nerve_`, and docs/guide/operations.md lists each with its type, no other."""
    metrics = Metrics(routes_of({}), REASONS)
    metrics.set_info(dict.fromkeys(INFO_LABELS, ""))
    found = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type)
        for family in text_string_to_metric_families(metrics.render(0, 0).decode())
        if not family.name.endswith("_created")
    }
    text = (REPOSITORY / "docs/guide/operations.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE))
    assert documented == found
    assert all(name.startswith("nerve_") for name, _ in found)


@pytest.mark.parametrize("path", [*SOURCES, *BENCH], ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_modules_stay_readable(path: Path) -> None:
    """Every module says what it is for, and neither it nor a class of it outgrows what can be read in one go."""
    text = path.read_text()
    module = ast.parse(text)
    assert ast.get_docstring(module)
    assert text.count("\n") <= MOST_LINES, "split it along its nouns"
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            n_lines = (node.end_lineno or 0) - node.lineno + 1
            assert n_lines <= MOST_LINES_OF_A_CLASS, f"{node.name} has {n_lines} lines: split it"
