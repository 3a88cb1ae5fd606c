"""The arguments that are the same for every command that finds entities: texts, model, output, and who answers."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from nerve.corpus.records import PART_BYTES
from nerve.corpus.sources import STDIN, Kind

_ADDRESS = re.compile(r"auto|local|ray://.+|[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+")
_FORMATS = ("jsonl", "csv", "parquet")


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where texts come from."""
    source = parser.add_argument_group("texts")
    source.add_argument("texts", nargs="*", metavar="INPUT", help="a text; - reads stdin")
    source.add_argument(
        "--file",
        nargs="+",
        action="extend",
        default=[],
        metavar="F",
        help="files, folders and globs; a line is a text, but in .jsonl, .csv, .tsv and .parquet",
    )
    source.add_argument("--whole", action="store_true", help="a file, or stdin, is one text")
    source.add_argument(
        "--jsonl", action="store_true", help="lines are JSON objects, whatever a file is called"
    )
    source.add_argument("--csv", action="store_true", help="CSV, below a line of names")
    source.add_argument("--parquet", action="store_true", help="Parquet; needs nerve[parquet]")
    source.add_argument(
        "--field",
        default="text",
        metavar="NAME",
        help="the column with the text (default: text); others are kept",
    )


def add_output_arguments(group: argparse._ArgumentGroup) -> None:
    """Add where the rows go, and what becomes of bad ones."""
    group.add_argument(
        "--output",
        metavar="PATH",
        help="a file, or a folder that mirrors the inputs, in parts with a manifest (default: stdout)",
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder --output where it was cut off"
    )
    group.add_argument(
        "--part-bytes",
        type=_bytes,
        default=PART_BYTES,
        metavar="N",
        help=f"how much of an input goes into one part of a folder (default: {PART_BYTES})",
    )
    group.add_argument(
        "--skip-bad",
        action="store_true",
        help="put bad rows with their reason into an error part, and go on (default: end at the first)",
    )
    group.add_argument(
        "--no-pager",
        action="store_true",
        help="on a terminal, show what is longer than the screen without $PAGER (default: less)",
    )


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add who answers."""
    who = parser.add_argument_group("who answers (default: this process)")
    who.add_argument("--url", metavar="URL", help="a running server, such as http://localhost:8000")
    who.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="a Ray cluster: HOST:PORT, ray://HOST:PORT, auto or local; without ADDRESS the one that this machine "
        "belongs to, or else one on this machine; needs nerve[ray]",
    )


def why_wrong(options: argparse.Namespace) -> str | None:
    """Say what is wrong with these arguments; where no text was given, they get stdin."""
    if options.ray and not _ADDRESS.fullmatch(options.ray):  # `--ray INPUT`: argparse takes the first one
        options.texts = [options.ray, *options.texts]
        options.ray = ""
    if not options.texts and not options.file:
        if sys.stdin.isatty():
            return "no text; give one, or --file F, or pipe some in"
        options.texts = [STDIN]
    if options.whole + options.jsonl + options.csv + options.parquet > 1:
        return "--whole, --jsonl, --csv and --parquet exclude each other"
    if options.resume and not goes_to_folder(options):
        return f"--resume goes on with a run in a folder{_no_folder(options.output)}"
    if options.url is not None and options.ray is not None:
        return "--url and --ray exclude each other"
    if options.url is not None and options.rename_labels is not None:
        return "--url and --rename-labels exclude each other; the server has its own names"
    if options.url is not None and options.model is not None:
        return "--url and --model exclude each other; the server has its own model"
    return None


def _no_folder(output: str | None) -> str:
    if output is None:
        return "; name it with --output"
    if Path(output).exists():
        return f", and {output} is a file; name a folder"
    return f", and there is no folder {output}; name that of the run"


def kind_of(options: argparse.Namespace) -> Kind | None:
    """Return the format that was named."""
    if options.whole:
        return Kind.WHOLE
    return next((Kind(name) for name in _FORMATS if getattr(options, name)), None)


def goes_to_folder(options: argparse.Namespace) -> bool:
    """Tell whether --output is a folder: one that is there, or a path without an ending."""
    if options.output is None:
        return False
    path = Path(options.output)
    if path.is_dir() or options.output.endswith("/"):
        return True
    return not path.exists() and not path.suffix


def is_live(options: argparse.Namespace) -> bool:
    """Tell whether each line is to be answered before the next one is read, as where a person types."""
    return bool(options.live or (STDIN in (*options.texts, *options.file) and sys.stdin.isatty()))


def add_filter_arguments(group: argparse._ArgumentGroup) -> None:
    """Add --labels and --min-score."""
    group.add_argument(
        "--labels",
        type=_labels,
        metavar="L,L",
        help="only entities with these labels (default: runtime.labels)",
    )
    group.add_argument(
        "--min-score",
        action="append",
        type=_min_score,
        metavar="S",
        help="least score of an entity, 0 to 1; LABEL=S for one label; may be repeated (default: runtime.min_score)",
    )


def add_rename_argument(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --rename-labels."""
    group.add_argument(
        "--rename-labels",
        action="append",
        type=_renamed,
        metavar="OLD=NEW,OLD=NEW",
        help="new names for labels, in answers and in other options; may be repeated (default: runtime.rename_labels)",
    )


def rename_flags(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was renamed as a flag of `choose_config`."""
    if options.rename_labels is None:
        return {}
    return {
        "runtime.rename_labels": {old: new for given in options.rename_labels for old, new in given.items()}
    }


def filter_choices(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was chosen, as `TokenClassifier` takes it."""
    choices: dict[str, Any] = {}
    if options.labels is not None:
        choices["labels"] = options.labels
    if options.min_score is not None:
        choices["min_score"] = dict(options.min_score)
    return choices


def _bytes(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _labels(text: str) -> list[str]:
    return [label for label in map(str.strip, text.split(",")) if label]


def _renamed(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    renamed = {old.strip(): new.strip() for old, _, new in pairs}
    if not renamed or not all((*renamed, *renamed.values())):
        raise argparse.ArgumentTypeError("must be OLD=NEW, or several with commas between")
    return renamed


def _min_score(text: str) -> tuple[str, float]:
    label, equals, number = text.rpartition("=")
    try:
        score = float(number)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1 or (equals and not label):
        raise argparse.ArgumentTypeError("must be a number from 0 to 1, or LABEL=NUMBER")
    return label or "*", score
