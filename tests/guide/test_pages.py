"""Every command of README and of the guide does what its page says (`make test-docs`).

A page is one session: its blocks run in order, in a folder that looks like a checkout. What a page prints below a
command is compared with what comes. Blocks that need what is not here (`# needs Docker`) are not run;
tests/architecture/test_doc_blocks.py checks their syntax.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from doc_blocks import REPOSITORY, SHELL, blocks_of, commands_of
from guide.shell import Shell, Wrong, provide

# Pages whose blocks another test runs, with the environment that they need.
ELSEWHERE = {"docs/guide/clients": "tests/clients"}
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs/guide").rglob("*.md")),
    *sorted((REPOSITORY / "docs/api").rglob("*.md")),
]


def has_commands(page: Path) -> bool:
    """Tell whether a page has anything to run."""
    folder = page.parent.relative_to(REPOSITORY).as_posix()
    return folder not in ELSEWHERE and any(
        block.language in (*SHELL, "python") and not block.needs for block in blocks_of(page)
    )


@pytest.mark.parametrize(
    "page", list(filter(has_commands, PAGES)), ids=lambda page: page.relative_to(REPOSITORY).as_posix()
)
def test_page_says_what_happens(page: Path, models: Path, hub: str, tmp_path: Path) -> None:
    """From the first block to the last."""
    with Shell(tmp_path / "nerve", hub) as shell:
        provide(tmp_path / "nerve", models)
        wrong = []
        for block in blocks_of(page):
            try:
                if block.needs:
                    continue
                if block.language == "python":
                    shell.python(block)
                elif block.language in SHELL:
                    for command in commands_of(block):
                        shell.run(block, command)
            except Wrong as error:
                wrong.append(str(error))  # the page goes on: whoever mends it wants to know all
    assert not wrong, "\n\n".join(wrong)
