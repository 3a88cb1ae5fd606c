"""The command line (docs/guide/cli.md).

One module per command, each with `add_arguments(parser)` and `run(options) -> exit status`; they import
what they need when they run, so that `nerve --help` is quick.

Exit status: 0 done; 1 cannot start, failed, or below what was asked for (one line on stderr says why);
2 wrong usage; 130 interrupted; 141 the reader of stdout left; 143 told to stop.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

import nerve
from nerve.cli import (
    completion,
    doctor,
    export,
    first_steps,
    init,
    missing,
    predict,
    pull,
    redact,
    serve,
    show,
    tune,
    verify,
)
from nerve.cli.examples import examples
from nerve.cli.model import add_config, join_model
from nerve.config import NoModelNamed
from nerve.errors import NerveError
from nerve.observability import PROGRESS_LOGGER
from nerve.observability.logs import StderrHandler
from nerve.runtime.cores import limit_blas_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {
    "init": init,
    "serve": serve,
    "show": show,
    "pull": pull,
    "predict": predict,
    "redact": redact,
    "verify": verify,
    "tune": tune,
    "export": export,
    "doctor": doctor,
    "completion": completion,
}
# Commands that no config file has a say in.
_WITHOUT_CONFIG = ("init", "export", "completion")
# argparse names the function that reads a number.
_NO_NUMBER = re.compile(r"invalid \w+ value: ('.*')")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parse(arguments)
    if options.command is None:
        first_steps.print_first_steps()
        return 0
    limit_blas_threads()
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[StderrHandler()]
    )
    logging.getLogger("nerve").setLevel(options.log_level)
    logging.getLogger(PROGRESS_LOGGER).setLevel(logging.INFO)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except NerveError as error:
        print(f"nerve: {error}", file=sys.stderr)
        if isinstance(error, NoModelNamed):
            first_steps.print_how_to_name_a_model(options.command, as_option="model_is_an_option" in options)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "nerve":
            raise  # a defect
        print(f"nerve: {missing.why_missing(error.name)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let that go nowhere instead of failing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"nerve: cannot use {error.filename}: {error.strerror}; check its name, permissions and disk",
            file=sys.stderr,
        )
        return 1
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; ends with status 2 where they are wrong."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.refuse(unknown)
    if options.command is not None and (wrong := join_model(options)):
        options.parser.error(wrong)
    return options


class _Parser(argparse.ArgumentParser):
    """Names the nearest command or option beside one that there is not."""

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, and end with status 2; the usage is many lines long."""
        if wrong := re.search(r"argument COMMAND: invalid choice: '([^']*)'", message):
            message += _nearest(wrong[1], [*_COMMANDS])
        message = _NO_NUMBER.sub(r"\1 is no number", message)
        more = "" if message.endswith("?") else f"; see {self.prog} --help"
        self.exit(2, f"{self.prog}: error: {message}{more}\n")

    def refuse(self, unknown: list[str]) -> NoReturn:
        """Refuse arguments that this command does not have."""
        options = [option for action in self._actions for option in action.option_strings]
        near = _nearest(unknown[0].partition("=")[0], options) if unknown[0].startswith("-") else ""
        self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")


def _nearest(wrong: str, known: list[str]) -> str:
    return "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(wrong, known, n=1))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nerve",
        description="Serve token classifiers: named entities, personal data, your own labels.",
    )
    parser.add_argument("--version", action="version", version=f"nerve {nerve.__version__}")
    parser.set_defaults(refuse=parser.refuse)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=examples(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # else `serve --mode x` would be --model-name, and serve another model under that name
        )
        if name not in _WITHOUT_CONFIG:
            add_config(command)
        module.add_arguments(command)
        command.set_defaults(run=module.run, log_level=module.LOG_LEVEL, parser=parser, refuse=command.refuse)
    return parser
