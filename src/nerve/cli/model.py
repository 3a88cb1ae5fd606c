"""The argument MODEL, and `--config`: one grammar for all commands. `config.selection` reads what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

_MEANING = "a config file, a model folder, or a repository of the hub as OWNER/NAME or OWNER/NAME@REVISION"


def add_model(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add MODEL; without it the config file says which model."""
    if required:
        parser.add_argument("model", metavar="MODEL", help=_MEANING)
    else:
        parser.add_argument(
            "model", nargs="?", metavar="MODEL", help=f"{_MEANING} (default: what the config file says)"
        )
        parser.add_argument(
            "--model", dest="model_too", metavar="M", help="MODEL, as predict and redact take it"
        )


def join_model(options: argparse.Namespace) -> str | None:
    """Take what `--model` says for MODEL; returns what is wrong where both say one."""
    too = getattr(options, "model_too", None)
    if too is not None:
        if options.model is not None:
            return "MODEL and --model say the same; leave one of them out"
        options.model = too
    return None


def add_model_option(parser: argparse._ArgumentGroup) -> None:
    """Add `--model`, for commands whose arguments are something else."""
    parser.add_argument("--model", metavar="M", help=f"{_MEANING} (default: what the config file says)")
    parser.set_defaults(model_is_an_option=True)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="all settings; with a MODEL, those that are not about the checkpoint. Default: $NERVE_CONFIG, and without "
        "a MODEL ./config.yaml, /etc/nerve/config.yaml, or the model of a platform",
    )
