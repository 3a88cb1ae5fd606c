"""What somebody reads who types `nerve` alone, or a command that needs a model and has none."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, TextIO

import nerve
from nerve.config import has_config_file

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLE = "dslim/bert-base-NER"
# What a command cannot do without.
_NEEDED = {"tune": " --target-p99-ms 100"}
_INDENT, _GAP = 2, 3


def print_first_steps() -> None:
    """Say on stdout what `nerve` is and what to type first."""
    steps = [("nerve serve --open", "serve the config file's model, open its page")]
    if not has_config_file():
        steps = [
            ("nerve init", "write config.yaml: default model, all keys"),
            ("nerve serve --open", "serve it, and open its page in a browser"),
        ]
    steps += [
        (f"nerve serve {_EXAMPLE}", "or serve a model of the hub, or a folder"),
        ('nerve predict "Call Maria."', "find entities here, without a server"),
        ("nerve doctor", "see what this machine is good for"),
    ]
    print(f"nerve {nerve.__version__}: named entities, personal data, your own labels.\n\nFirst steps")
    _print_aligned(steps)
    print("\nAll commands: nerve --help; one of them: nerve COMMAND --help")


def print_how_to_name_a_model(command: str, *, as_option: bool) -> None:
    """Say on stderr what to type where `nerve COMMAND` has no model. as_option: it is named with --model."""
    example = (
        f'{command} --model {_EXAMPLE} "Call Maria."'
        if as_option
        else f"{command} {_EXAMPLE}{_NEEDED.get(command, '')}"
    )
    folder = example.replace(_EXAMPLE, "./my-model")
    lines = [
        (f"nerve {example}", "a model of the Hugging Face hub"),
        (f"nerve {folder}", "a folder, as save_pretrained writes it"),
        ("nerve init", "write config.yaml: default model, all keys"),
    ]
    print("type one of", file=sys.stderr)
    _print_aligned(lines, sys.stderr)


def _print_aligned(lines: Sequence[tuple[str, str]], stream: TextIO | None = None) -> None:
    """Print pairs below each other; where the terminal is too narrow, what is said of a command comes below it."""
    width = max(len(command) for command, _ in lines)
    is_narrow = (
        shutil.get_terminal_size().columns < width + max(len(said) for _, said in lines) + _INDENT + _GAP
    )
    for command, said in lines:
        if is_narrow:
            print(f"{'':{_INDENT}}{command}\n{'':{2 * _INDENT}}{said}", file=stream)
        else:
            print(f"{'':{_INDENT}}{command:<{width + _GAP}}{said}", file=stream)
