"""Every error that a user may meet names its remedy: what to do stands after what is wrong."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nerve

SOURCES = Path(nerve.__file__).parent
# Raised for whoever starts the program, or runs a command.
KINDS = {
    *("ConfigError", "NoModelNamed", "CheckpointError", "ModelError", "StartupError"),
    *("InputError", "OutputError", "RemoteError", "ServerRefusal", "TrialError", "Incomparable"),
}
DO = (
    *(
        "accept",
        "add",
        "ask",
        "change",
        "check",
        "choose",
        "convert",
        "copy",
        "correct",
        "do",
        "end",
        "export",
    ),
    *(
        "fetch",
        "free",
        "give",
        "go",
        "install",
        "leave",
        "let",
        "lower",
        "make",
        "mend",
        "move",
        "name",
        "open",
    ),
    *(
        "pin",
        "point",
        "put",
        "quote",
        "raise",
        "remove",
        "rename",
        "run",
        "save",
        "send",
        "set",
        "start",
        "try",
    ),
    *("unpack", "unset", "use", "wait", "write"),
)
# What to do, after a comma, a colon or a semicolon; or all that could stand there instead.
REMEDY = re.compile(
    rf"[;:,] (?:or |and |then |if [^,;]*, )?(?:{'|'.join(DO)})\b|known(?: here)?: |served by POST: "
)
# Made elsewhere: their texts come from functions, each tested with its own cause, or from the server that was asked.
MADE = re.compile(
    r"^\{[^{}]*\}$|^[\w.{}]*: \{x\}$|^\{x\}: \{x\}$|[;,] (?:but |or )?\{(?:reason|remedy|_WRITE_ONE)\}$"
)


def template(node: ast.expr) -> str:
    """Return a message as it stands in the source, with what is filled in between braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.FormattedValue):
        return "{x}" if not isinstance(node.value, ast.Name) else f"{{{node.value.id}}}"
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return "{x}"


def messages() -> Iterator[tuple[str, str]]:
    """Give where each message stands, and its template."""
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in KINDS
                and node.args
            ):
                yield f"{file.relative_to(SOURCES)}:{node.lineno}", template(node.args[0])


MESSAGES = list(messages())


def test_there_are_messages() -> None:
    """The walk finds them, and most are written out."""
    assert len(MESSAGES) > 150
    assert sum(MADE.search(text) is None for _, text in MESSAGES) > 0.85 * len(MESSAGES)


@pytest.mark.parametrize(("where", "text"), MESSAGES, ids=[where for where, _ in MESSAGES])
def test_a_message_names_its_remedy(where: str, text: str) -> None:
    """`what is wrong; what to do`, in one line."""
    assert MADE.search(text) or REMEDY.search(text), f"{where}: {text}"
    assert "\n" not in text
