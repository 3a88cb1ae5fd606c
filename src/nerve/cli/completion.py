"""Print a script that completes commands, options and file names in a shell.

bash:  nerve completion bash > ~/.local/share/bash-completion/completions/nerve
zsh:   nerve completion zsh > ~/.zfunc/_nerve         (a folder in fpath, before compinit)
fish:  nerve completion fish > ~/.config/fish/completions/nerve.fish
"""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HELP = "print a script that completes commands and options in bash, zsh or fish"
LOG_LEVEL = logging.WARNING
_SHELLS = ("bash", "zsh", "fish")
# Metavars of arguments that take a file or a folder.
_FILES = {"CHECKPOINT", "F", "FILE", "FOLDER", "INPUT", "M", "MODEL", "PATH"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=_SHELLS, help="the shell that is to complete")


def run(options: argparse.Namespace) -> int:
    """Print the script for the parser that read `options`."""
    import shtab

    parser: argparse.ArgumentParser = options.parser
    for action in _actions(parser):
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab looks for
    print(shtab.complete(parser, options.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of all its commands."""
    for action in parser._actions:
        yield action
        choices: Any = action.choices
        if isinstance(action, argparse._SubParsersAction):
            for command in choices.values():
                yield from _actions(command)
