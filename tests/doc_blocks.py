"""The code blocks of a page, and the commands in them with the output that the page prints.

What the tests of pages go by (CONTRIBUTING.md, "Commands in the documentation"):

- `console`: commands behind `$ `, each with its output below it; `sh`: commands alone; `python`: a program, whose
  output is the block without a language right after it.
- A block whose first line is `# needs WHAT`, one of `NEEDS`, is not run; its syntax is checked.
- `# on a terminal` as the first line: the commands write to a terminal.
- `...` in an output stands for anything.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# The languages of blocks that a shell reads.
SHELL = ("console", "sh")
# What a test on a machine of CI does not have.
NEEDS = (
    *(
        "Docker",
        "a cluster",
        "a GPU",
        "another machine",
        "an account",
        "root",
        "systemd",
        "PyTorch",
        "Ray",
        "Spark",
        "OpenVINO",
    ),
    *("Prometheus", "Nginx", "the hub", "a quiet machine"),
)
ON_A_TERMINAL = "# on a terminal"
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n(?P<text>.*?)^ *```[ ]*$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Command:
    """A command, and what the page says that it prints."""

    text: str
    output: str = ""


@dataclass(frozen=True)
class Block:
    """A code block. line: where it stands in the page, from 1. output: of a `python` block."""

    page: Path
    line: int
    language: str
    text: str
    output: str = ""

    @property
    def where(self) -> str:
        """Return page and line, for messages."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    @property
    def first_line(self) -> str:
        """Return the line in which a block says what it needs."""
        return self.text.partition("\n")[0].strip()

    @property
    def needs(self) -> str | None:
        """Return what the block needs and a test does not have."""
        return self.first_line.removeprefix("# needs ") if self.first_line.startswith("# needs ") else None

    @property
    def is_on_a_terminal(self) -> bool:
        """Tell whether its commands are to write to a terminal."""
        return self.first_line == ON_A_TERMINAL


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    text = page.read_text()
    found: list[Block] = []
    end = -1
    for match in _BLOCK.finditer(text):
        indent = len(match["indent"])
        body = "".join(
            line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True)
        )
        line = text.count("\n", 0, match.start()) + 1
        follows = not text[end : match.start()].strip() if end >= 0 else False
        if not match["language"] and follows and found and found[-1].language == "python":
            found[-1] = Block(page, found[-1].line, "python", found[-1].text, body)
        else:
            found.append(Block(page, line, match["language"], body))
        end = match.end()
    return found


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a `console` or `sh` block; those of the latter are one script."""
    if block.language == "sh":
        return [Command(block.text)]
    found: list[Command] = []
    command: list[str] = []
    output: list[str] = []
    is_open = False
    for line in block.text.splitlines():
        if is_open:
            command.append(line)
        elif line.startswith("$ "):
            if command:
                found.append(Command("\n".join(command), "\n".join(output)))
            command, output = [line[2:]], []
        elif not command:
            continue  # a comment at the head of the block
        else:
            output.append(line)
            continue
        is_open = why_wrong("\n".join(command)) is not None
    if command:
        found.append(Command("\n".join(command), "\n".join(output)))
    return found


def why_wrong(script: str) -> str | None:
    """Return what bash says against the syntax of a script."""
    if script.rstrip().endswith("\\"):
        return "the line goes on"
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)  # noqa: S607
    return done.stderr.strip() or None if done.returncode or done.stderr else None


def is_the_output(expected: str, got: str, tolerance: float = 2e-3) -> bool:
    """Tell whether a page prints what came.

    White space does not count, so that a page may break a long line. Numbers with a decimal point may differ a little:
    they are those of another processor. `...` stands for anything.
    """
    number = r"-?\d+\.\d+(?:e-?\d+)?"
    parts = re.split(rf"({number}|\.\.\.)", "".join(expected.split()))
    pattern = "".join(
        (r".*?" if part == "..." else f"({number})") if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    )
    match = re.fullmatch(pattern, "".join(got.split()), re.DOTALL)
    numbers = [part for part in parts[1::2] if part != "..."]
    return match is not None and all(
        abs(float(one) - float(other)) <= tolerance
        for one, other in zip(numbers, match.groups(), strict=True)
    )
