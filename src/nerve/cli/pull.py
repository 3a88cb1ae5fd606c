"""Fetch a checkpoint into the cache, without serving: for images and for machines without a network.

Prints the model folder on stdout.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from nerve.cli.model import add_model
from nerve.config import cache_dir_of, choose_config

if TYPE_CHECKING:
    import argparse

    from nerve.checkpoint import ModelFolder

HELP = "fetch a checkpoint into the cache, without serving"
LOG_LEVEL = logging.INFO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model."""
    add_model(parser)


def run(options: argparse.Namespace) -> int:
    """Fetch, and say what is where."""
    from nerve.checkpoint import fetch_checkpoint
    from nerve.graph import build_check

    config = choose_config(options.model, options.config)
    folder = fetch_checkpoint(
        config.model,
        cache_dir_of(config),
        is_buildable=build_check(config.model),
        show_progress=sys.stderr.isatty(),
    )
    print(describe(folder), file=sys.stderr)
    print(folder.path)
    return 0


def describe(folder: ModelFolder) -> str:
    """Say in one line what a model folder holds."""
    sizes = [file.stat().st_size for file in folder.path.rglob("*") if file.is_file()]
    name = f"{folder.model_id} {folder.revision}".rstrip()
    return f"{name} is here and complete: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"
