"""The command line: `nerve serve | pull | predict`.

Exit status: 0 done, 1 cannot start or failed (one line on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import nerve
from nerve.config import find_config, load_api_key, load_config
from nerve.errors import NerveError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if os.getpid() == 1:
        # A container's first process has no default action for SIGTERM: until Granian handles it, a stop
        # during the download or the start would be ignored, and end in a kill.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        status: int = options.run(options)
    except NerveError as error:
        print(f"nerve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nerve", description="Serve token classifiers, as fast as the hardware allows."
    )
    parser.add_argument("--version", action="version", version=f"nerve {nerve.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the configured model over HTTP")
    serve.set_defaults(run=_serve)
    pull = commands.add_parser("pull", help="fetch the configured checkpoint into the cache, without serving")
    pull.set_defaults(run=_pull)
    for command in (serve, pull):
        command.add_argument(
            "--config", metavar="FILE", help="default: $NERVE_CONFIG, ./config.yaml, /etc/nerve/config.yaml"
        )
    return parser


def _serve(options: argparse.Namespace) -> int:
    from nerve.server import serve  # Granian is not needed by the other commands

    config = load_config(find_config(options.config))
    serve(config, load_api_key(config.server), show_progress=sys.stderr.isatty())
    return 0


def _pull(options: argparse.Namespace) -> int:
    from nerve.checkpoint import fetch_checkpoint
    from nerve.graph import BUILDABLE_MODEL_TYPES
    from nerve.worker import cache_dir_of

    config = load_config(find_config(options.config))
    folder = fetch_checkpoint(
        config.model, cache_dir_of(config), buildable=BUILDABLE_MODEL_TYPES, show_progress=sys.stderr.isatty()
    )
    print(folder.path)
    return 0
