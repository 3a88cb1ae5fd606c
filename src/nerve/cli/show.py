"""Say what a model is and how it would be served here, without downloading its weights.

Architecture, labels, tokenizer, what would be built in which precision, files to download, lengths, memory, limits. The
exit status is 1 where it would be refused; the last line says why.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from nerve.cli.model import add_model
from nerve.config import cache_dir_of, choose_config

if TYPE_CHECKING:
    import argparse

HELP = "say what a model is and how it would be served, without downloading its weights"
LOG_LEVEL = logging.WARNING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, and how it is printed."""
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print what is known; returns 1 where the start would be refused."""
    from nerve.models.outlook import foresee

    config = choose_config(options.model, options.config)
    outlook = foresee(config, cache_dir_of(config))
    if options.json:
        import msgspec

        print(msgspec.json.encode(outlook).decode())
    else:
        from nerve.cli.show_report import print_outlook

        print_outlook(outlook)
    if outlook.refused is None:
        return 0
    sys.stdout.flush()
    if not (sys.stdout.isatty() and sys.stderr.isatty()):  # where both are one terminal it has been said
        print(f"nerve: {outlook.refused}", file=sys.stderr)
    return 1
