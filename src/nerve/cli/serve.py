"""Serve the configured model over HTTP until SIGTERM, SIGINT or SIGQUIT."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from nerve.config import find_config, load_api_key, load_config

if TYPE_CHECKING:
    import argparse

HELP = "serve the configured model over HTTP"
LOG_LEVEL = logging.INFO  # until the configuration sets logging up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the configuration says it all."""


def run(options: argparse.Namespace) -> int:
    """Serve; returns when the server was told to stop."""
    from nerve.server.signals import handle_signals

    handle_signals()  # until Granian handles its own
    if os.getpid() == 1:
        # A container's first process has no default action for SIGTERM: until Granian handles it, a stop
        # during the imports, the download or the start would be ignored, and end in a kill.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from nerve.server.supervisor import serve  # Granian is not needed by the other commands

    config = load_config(find_config(options.config))
    serve(config, load_api_key(config.server), show_progress=sys.stderr.isatty())
    return 0
