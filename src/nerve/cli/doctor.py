"""Say what this machine is good for, and whether serving would work.

Cores, processor, memory, ONNX Runtime, GPU, caches, the hub; what would be chosen and why; with MODEL, or a config
file, the model, too. Loads no model and asks the hub for a few seconds at most. The exit status is 1 where `nerve
serve` would fail; the last lines say why.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nerve.cli.model import add_model

if TYPE_CHECKING:
    import argparse

HELP = "say what this machine is good for, and whether serving would work"
LOG_LEVEL = logging.ERROR  # what a start would warn of is part of what is printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, and how it is printed."""
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print what was found; returns 1 where a start would fail."""
    from nerve.cli.checkup import examine

    found = examine(options.model, options.config)
    if options.json:
        import msgspec

        print(msgspec.json.encode(found).decode())
    else:
        from nerve.cli.doctor_report import print_checkup

        print_checkup(found)
    return 1 if found.problems else 0
