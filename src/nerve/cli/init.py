"""Write a config file to begin with: the default model, and every setting with its unit, default and effect.

The default model finds personal data (names, addresses, phone numbers and so on). For another one change
model.checkpoint_repository in the file, or name it: `nerve serve dslim/bert-base-NER` needs no file.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.config import default_config_text
from nerve.errors import ConfigError

if TYPE_CHECKING:
    import argparse

HELP = "write a config file to begin with: the default model, every setting explained"
LOG_LEVEL = logging.WARNING
_FILE = "config.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path(_FILE),
        metavar="FILE",
        help=f"file to write; must not exist; - writes to stdout (default: {_FILE})",
    )


def run(options: argparse.Namespace) -> int:
    """Write it, and say what comes next. Raises `ConfigError` where the file exists."""
    file: Path = options.file
    if str(file) == "-":
        print(default_config_text(), end="")
        return 0
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(default_config_text())
    except FileExistsError:
        raise ConfigError(f"{file} exists and is left as it is; name another file") from None
    serve = "nerve serve --open" if str(file) == _FILE else f"nerve serve {file} --open"
    print(f"{file} is written; next: {serve}", file=sys.stderr)
    return 0
