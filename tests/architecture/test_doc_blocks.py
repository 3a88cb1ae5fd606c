"""The code blocks of the documentation can be read by what they are for; `make test-docs` runs them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from doc_blocks import NEEDS, SHELL, Block, blocks_of, commands_of, is_the_output, why_wrong

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
# Languages of blocks. One without shows something that no program reads.
LANGUAGES = {
    *SHELL,
    "",
    "text",
    "python",
    "yaml",
    "json",
    "toml",
    "sql",
    "js",
    "javascript",
    "ts",
    "nginx",
    "ini",
    "mermaid",
    "promql",
}
# How lines begin that belong into a block for a shell.
COMMANDS = re.compile(r"\$ |(?:nerve|make|curl|docker|kubectl|helm|pip|python) [a-z./-]")

CHANGES_THE_MACHINE = re.compile(
    r"\b(?:sudo|systemctl|useradd|apt-get|apt|docker|podman|kubectl|helm)\b|(?<![\w.~-])/(?:etc|opt|usr|var|srv|root)/"
)


def of(*languages: str) -> list[Block]:
    """Return all blocks in these languages."""
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_has_a_language_that_is_checked() -> None:
    """A block of commands cannot hide from the tests as something else."""
    wrong = {block.where: block.language for block in BLOCKS if block.language not in LANGUAGES}
    hidden = [block.where for block in of("", "text") if COMMANDS.match(block.text)]
    assert (wrong, hidden) == ({}, [])


def test_blocks_need_what_is_known() -> None:
    """`# needs WHAT` names one of a short list, so that not everything comes to need something."""
    wrong = {block.where: block.needs for block in BLOCKS if block.needs and block.needs not in NEEDS}
    assert not wrong


def test_what_is_run_stays_in_its_folder() -> None:
    """`make test-docs` runs the rest as whoever calls it, perhaps root: nothing that changes the machine."""
    wrong = [
        block.where for block in of(*SHELL) if not block.needs and CHANGES_THE_MACHINE.search(block.text)
    ]
    assert not wrong, "say what the block needs, such as `# needs root`"


@pytest.mark.parametrize("block", of(*SHELL), ids=lambda block: block.where)
def test_commands_have_the_syntax_of_a_shell(block: Block) -> None:
    """Also those that nothing can run here."""
    commands = commands_of(block)
    assert commands
    assert {command.text: why for command in commands if (why := why_wrong(command.text))} == {}


@pytest.mark.parametrize("block", of("yaml", "json", "toml"), ids=lambda block: block.where)
def test_data_can_be_read(block: Block) -> None:
    """Settings and answers can be copied."""
    if block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    elif block.language == "toml":
        tomllib.loads(block.text)
    else:
        for line in (
            [block.text] if block.text.lstrip().startswith(("{\n", "[\n")) else block.text.splitlines()
        ):
            json.loads(line)


@pytest.mark.parametrize("block", of("python"), ids=lambda block: block.where)
def test_programs_have_the_syntax_of_python(block: Block) -> None:
    """A page cannot show half a statement."""
    compile(block.text, block.where, "exec")


@pytest.mark.parametrize(
    ("expected", "got", "is_same"),
    [
        ('[{"a":0.99501}]', '[{"a":0.9950234}]\n', True),
        ('[{"a":0.99501}]', '[{"a":0.98}]', False),
        ('[{"a":1},\n  {"b":2}]', '[{"a":1},{"b":2}]', True),
        ('[{"a":1}]', '[{"a":2}]', False),
        ("one\n...\nthree", "one\ntwo\nthree", True),
        ("one\n...\nthree", "one\ntwo\nfour", False),
    ],
)
def test_outputs_are_compared(expected: str, got: str, is_same: bool) -> None:
    """A page may break lines and leave out; its words and numbers are those that came."""
    assert is_the_output(expected, got) is is_same


# Options that curl 7.68 (Ubuntu 20.04) has; `--json` came with 7.82.
CURL = {
    *("-D", "-G", "-H", "-L", "-N", "-S", "-X", "-d", "-f", "-i", "-k", "-o", "-s", "-u", "-v", "-w"),
    *(
        "--cacert",
        "--cert",
        "--compressed",
        "--data-binary",
        "--http2-prior-knowledge",
        "--key",
        "--max-time",
    ),
    *("--retry", "--unix-socket"),
}


@pytest.mark.parametrize("block", of(*SHELL), ids=lambda block: block.where)
def test_curl_may_be_an_old_one(block: Block) -> None:
    """Whoever copies a command has the curl of an older system."""
    found = re.findall(r"\bcurl ((?:'[^']*'|\"[^\"]*\"|[^|;&\n'\"])*)", block.text.replace("\\\n", " "))
    words = [word for call in found for word in re.sub(r"'[^']*'|\"[^\"]*\"", "''", call).split()]
    options = {word for word in words if word.startswith("--")}
    options |= {f"-{letter}" for word in words if re.fullmatch("-[A-Za-z]+", word) for letter in word[1:]}
    assert options <= CURL
