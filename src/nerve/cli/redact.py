"""Write texts without the entities in them, without a server.

Texts come from arguments, --file, or stdin, and are written as they came: a line for a line, a JSON object for a JSON
object, a file for a file. What was found is counted by label on stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter, deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nerve.cli.arguments import (
    add_filter_arguments,
    add_text_arguments,
    filter_choices,
    why_wrong,
)
from nerve.cli.inputs import STDIN, Format, InputError, Record, read_records
from nerve.cli.model import add_model_option
from nerve.config import choose_config, has_key_in_environment
from nerve.config.operators import DEFAULT, OPERATOR_NAMES, Hash
from nerve.errors import InvalidRequest
from nerve.types import EntityStrategy, PatternName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nerve.api import TokenClassifier
    from nerve.text.redaction import Redacted

HELP = "write texts without the entities in them, without a server"
LOG_LEVEL = logging.WARNING
ITEMS = "items"
_NO_PATTERNS = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where texts come from, what must go, and where the result goes."""
    add_text_arguments(parser)
    model = parser.add_argument_group("what must go")
    add_model_option(model)
    model.add_argument(
        "--strategy",
        choices=[member.value for member in EntityStrategy],
        help="how tokens become entities (default: runtime.entity_strategy)",
    )
    add_filter_arguments(model)
    model.add_argument(
        "--patterns",
        type=_patterns,
        metavar="P,P",
        help=f"find these by rule, too: {', '.join(PatternName)}, or {_NO_PATTERNS} (default: runtime.patterns)",
    )
    model.add_argument(
        "--operators",
        action="append",
        type=_operators,
        metavar="O",
        help=f"what is put there instead: {', '.join(OPERATOR_NAMES)}; LABEL=O,LABEL=O for some labels; or JSON as in "
        "/redact; may be repeated (default: redaction.operators)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        help="a file, or a folder that gets a file for each --file (default: stdout)",
    )
    output.add_argument(
        "--json", action="store_true", help=f"JSON lines, with what was found where in `{ITEMS}`"
    )
    output.add_argument(
        "--dry-run", action="store_true", help="write the texts as they are, and show in colour what would go"
    )
    output.add_argument(
        "--live", action="store_true", help="answer each line before the next is read, for pipes that go on"
    )


def run(options: argparse.Namespace) -> int:
    """Redact and write; returns the exit status. Raises `NerveError`s and `BrokenPipeError`."""
    wrong = why_wrong(options)
    if options.dry_run and (options.json or options.output):
        wrong = "--dry-run goes to the terminal only; leave out --json and --output"
    if wrong is not None:
        print(f"nerve redact: {wrong}", file=sys.stderr)
        return 2
    from nerve.api import load_classifier

    has_key = has_key_in_environment()
    found: Counter[str] = Counter()
    n_texts = 0
    sources = _sources(options)
    config = choose_config(options.model, options.config)
    with load_classifier(config, show_progress=sys.stderr.isatty()) as classifier:
        if not has_key:
            _warn_of_key(options, classifier)
        show = _drawer(classifier) if options.dry_run else None
        for texts, files, path in sources:
            with _opened(path) as stream:
                for record, redacted in _redact(classifier, options, texts, files):
                    n_texts += 1
                    found.update(item.label for item in redacted.items)
                    if show is not None:
                        show(record, redacted)
                    else:
                        stream.write(_line(record, redacted, options))
                    if options.live:
                        stream.flush()
    _report(n_texts, found)
    return 0


def _sources(options: argparse.Namespace) -> list[tuple[list[str], list[str], Path | None]]:
    """Return arguments, and then each file, with where the result goes; numbers are counted within each.

    Raises `InputError` for an output that would replace an input, or another output.
    """
    sources: list[tuple[list[str], list[str], Path | None]] = []
    output = None if options.output is None else Path(options.output)
    is_folder = output is not None and (
        output.is_dir() or len(options.file) > 1 or options.output.endswith("/")
    )
    if options.texts:
        if is_folder:
            raise InputError("--output is a folder, which is for --file; texts and stdin need a file")
        sources.append((options.texts, [], output))
    for file in options.file:
        sources.append(([], [file], output / Path(file).name if is_folder and output is not None else output))
    paths = [path for _, _, path in sources if path is not None]
    inputs = {Path(file).resolve() for file in options.file if file != STDIN}
    for path in paths:
        if path.resolve() in inputs:
            raise InputError(f"{path} is an input, which the result would replace; choose another --output")
        if paths.count(path) > 1:
            raise InputError(
                f"{path} would be written more than once; name a folder, or files of different names"
            )
    return sources


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    """Give where to write; a file is there under its name only when it is whole."""
    if path is None:
        try:
            yield sys.stdout.buffer
        finally:
            sys.stdout.flush()  # what came before a failure is not lost
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _redact(
    classifier: TokenClassifier, options: argparse.Namespace, texts: list[str], files: list[str]
) -> Iterator[tuple[Record, Redacted]]:
    """Yield each text with its result. Raises `InputError` naming the place of the first bad text."""
    waiting: deque[Record] = deque()
    form = Format(whole=options.whole, jsonl=options.jsonl, field=options.field)

    def read() -> Iterator[str]:
        for record in read_records(texts, files, form):
            if options.json and ITEMS in record.fields:
                raise InputError(f"{record.origin}: there is a field `{ITEMS}` already, which would be lost")
            waiting.append(record)
            yield record.text

    choices: dict[str, Any] = filter_choices(options)
    if options.strategy is not None:
        choices["aggregation_strategy"] = options.strategy
    if options.patterns is not None:
        choices["patterns"] = options.patterns
    if options.operators is not None:
        choices["operators"] = {
            label: operator for chosen in options.operators for label, operator in chosen.items()
        }
    is_live = options.live or (STDIN in (*texts, *files) and sys.stdin.isatty())
    try:
        for redacted in classifier.redact_many(read(), ahead=not is_live, **choices):
            yield waiting.popleft(), redacted
    except InvalidRequest as error:
        if not waiting or not str(error).startswith("texts["):
            raise
        raise InputError(f"{waiting[0].origin}: {str(error).partition(': ')[2]}") from None


def _line(record: Record, redacted: Redacted, options: argparse.Namespace) -> bytes:
    """Return what is written of a text."""
    if not options.json and not options.jsonl:
        return redacted.text.encode() + (b"" if options.whole else b"\n")
    import msgspec

    fields = {**record.fields, record.field: redacted.text}
    return msgspec.json.encode({**fields, ITEMS: redacted.items} if options.json else fields) + b"\n"


def _drawer(classifier: TokenClassifier) -> Callable[[Record, Redacted], None]:
    from nerve.cli.display import PlainConsole, choose_colours, highlight
    from nerve.types import Row

    console = PlainConsole()
    renamed = classifier.config.runtime.rename_labels
    patterns = [renamed.get(name.label, name.label) for name in PatternName]
    colours = choose_colours([*classifier.model.labels.entity_labels, *patterns])

    def show(record: Record, redacted: Redacted) -> None:
        rows = [Row("", 0, item.start, item.end, {item.label: item.score}) for item in redacted.items]
        console.print(highlight(record.text, rows, colours), soft_wrap=True)

    return show


def _report(n_texts: int, found: Counter[str]) -> None:
    counted = ", ".join(f"{label} {count}" for label, count in sorted(found.items()))
    print(
        f"nerve redact: texts {n_texts}, entities {found.total()}{f': {counted}' if counted else ''}",
        file=sys.stderr,
    )


def _warn_of_key(options: argparse.Namespace, classifier: TokenClassifier) -> None:
    """Say that pseudonyms will be others in the next run, where they will: nothing has a key for them."""
    from nerve.engine.entities import read_operators

    redaction = classifier.config.redaction
    chosen = read_operators({label: o for given in options.operators or () for label, o in given.items()})
    used = [*chosen.values()] or [*redaction.operators.values()]
    if redaction.key_file is None and any(isinstance(o, Hash) and o.salt is None for o in used):
        logging.getLogger(__name__).warning(
            "hash has a random key, so that pseudonyms are others in each run; set redaction.key_file or "
            "NERVE_REDACTION_KEY"
        )


def _patterns(text: str) -> list[str]:
    names = [name for name in map(str.strip, text.split(",")) if name]
    return [] if names == [_NO_PATTERNS] else names


def _operators(text: str) -> dict[str, Any]:
    """Read `mask`, `EMAIL=hash,PHONE=keep`, or the JSON of a request."""
    if text.lstrip().startswith("{"):
        try:
            chosen: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError("is not valid JSON") from error
        return chosen
    chosen = {}
    for part in text.split(","):
        label, _, operator = part.strip().rpartition("=")
        if operator not in OPERATOR_NAMES:
            raise argparse.ArgumentTypeError(f"unknown operator; known: {', '.join(OPERATOR_NAMES)}")
        chosen[label or DEFAULT] = {"type": operator}
    return chosen
