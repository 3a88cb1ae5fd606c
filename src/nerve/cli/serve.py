"""Serve a model over HTTP until SIGTERM, SIGINT or SIGQUIT.

`nerve serve dslim/bert-base-NER --open` is a whole command. Flags win over NERVE_* variables, and these over the config
file, which has all other settings.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from nerve.cli.arguments import add_rename_argument, rename_flags
from nerve.cli.model import add_model
from nerve.config import choose_config, load_api_key

if TYPE_CHECKING:
    import argparse

HELP = "serve a model over HTTP"
LOG_LEVEL = logging.INFO  # until the configuration sets logging up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, and what is said most often about a server."""
    add_model(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="address to listen on (server.host)")
    parser.add_argument("--port", type=int, metavar="N", help="TCP port; 0 takes a free one (server.port)")
    parser.add_argument(
        "--model-name", metavar="NAME", help="name in /info and in routes that have one (model.name)"
    )
    add_rename_argument(parser)
    parser.add_argument("--open", action="store_true", help="open the page to try it in, once it is ready")


def run(options: argparse.Namespace) -> int:
    """Serve; returns when the server was told to stop."""
    from nerve.server.signals import handle_signals

    handle_signals()  # until Granian handles its own
    if os.getpid() == 1:
        # A container's first process has no default action for SIGTERM: until Granian handles it, a stop
        # during the imports, the download or the start would be ignored, and end in a kill.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from nerve.api import override
    from nerve.cli.browser import open_when_ready, page_address
    from nerve.server.listening import find_port, listening_host
    from nerve.server.supervisor import serve  # Granian is not needed by the other commands

    config = choose_config(options.model, options.config, flags=_flags(options))
    api_key = load_api_key(config.server)
    host = listening_host(config.server, has_key=api_key is not None)
    if config.server.port == 0 and config.server.uds is None:
        config = override(config, {"server": {"port": find_port(host)}})
    if options.open:
        open_when_ready(page_address(config.server, host))
    serve(config, api_key, show_progress=sys.stderr.isatty())
    return 0


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the flags by key. An address asked for is one of TCP, whatever socket the file names."""
    said = {"server.host": options.host, "server.port": options.port, "model.name": options.model_name}
    flags = {key: value for key, value in said.items() if value is not None} | rename_flags(options)
    if "server.host" in flags or "server.port" in flags:
        flags["server.uds"] = None
    return flags
