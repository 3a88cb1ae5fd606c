"""Export a checkpoint of any architecture to a model folder with an ONNX graph; needs `nerve[export]`.

For the architectures that are not built from their weights (docs/explanation/architectures.md). The graph is
compared with PyTorch before the folder is put in its place.
"""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = "export a checkpoint to a model folder with an ONNX graph (needs PyTorch)"
LOG_LEVEL = logging.INFO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source and the target."""
    parser.add_argument(
        "source", metavar="CHECKPOINT", help="folder, or OWNER/NAME[@REVISION] on the Hugging Face hub"
    )
    parser.add_argument("target", metavar="FOLDER", type=Path, help="model folder to make; must not exist")
    parser.add_argument("--revision", help="branch, tag or commit of the repository")


def run(options: argparse.Namespace) -> int:
    """Export, and say how closely the graph follows PyTorch."""
    from nerve.config import CheckpointSource, check_hub_cache, locate
    from nerve.errors import ConfigError
    from nerve.models.export import export_checkpoint

    located = locate(options.source, options.revision)
    if isinstance(located, Path):
        raise ConfigError(
            f"{located} is a config file; name the model folder or the repository that it serves"
        )
    is_local = located["source"] == CheckpointSource.LOCAL.value
    if not is_local:
        check_hub_cache()
    difference = export_checkpoint(
        options.source if is_local else located["repo"],
        options.target,
        located.get("revision"),
        show_progress=sys.stderr.isatty(),
    )
    print(f"logits differ from PyTorch's by at most {difference:.2g}; serve it with", file=sys.stderr)
    print(f"  nerve serve {shlex.quote(str(options.target))}", file=sys.stderr)
    print(options.target)
    return 0
