"""Find the entities of texts, without a server.

Texts come from arguments, --file, or stdin. On a terminal they are printed with their entities in colour;
anywhere else, or with --json, as JSON lines: one object per text, in order, with the entities in "rows".
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any

from nerve.cli.arguments import (
    add_filter_arguments,
    add_text_arguments,
    filter_choices,
    why_wrong,
)
from nerve.cli.inputs import STDIN, Format, InputError, Record, count_records, read_records
from nerve.cli.model import add_model_option
from nerve.config import choose_config
from nerve.errors import InvalidRequest
from nerve.types import AggregationStrategy, OffsetUnit, TruncationDirection

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from contextlib import AbstractContextManager

    from nerve.api import TokenClassifier
    from nerve.observability.progress import Task
    from nerve.types import Row

HELP = "find the entities of texts, without a server"
LOG_LEVEL = logging.WARNING
ROWS = "rows"

Result = tuple[Record, "list[Row]"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where texts come from, what is asked of the model, and how answers are printed."""
    add_text_arguments(parser)
    model = parser.add_argument_group("model")
    add_model_option(model)
    model.add_argument(
        "--strategy",
        choices=[member.value for member in AggregationStrategy],
        help="how tokens become entities; none prints tokens (default: runtime.entity_strategy)",
    )
    add_filter_arguments(model)
    model.add_argument(
        "--raw-scores", action="store_true", help="the score of every label, not only of the best"
    )
    model.add_argument(
        "--offset-unit",
        choices=[member.value for member in OffsetUnit],
        default=OffsetUnit.CODE_POINT.value,
        help="unit of start and end (default: code_point)",
    )
    model.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are too long (default: cover them with windows)",
    )
    model.add_argument(
        "--truncation-direction",
        choices=[member.value for member in TruncationDirection],
        default=TruncationDirection.RIGHT.value,
        help="which end is cut (default: right)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="JSON lines on a terminal, too")
    output.add_argument(
        "--live", action="store_true", help="answer each line before the next is read, for pipes that go on"
    )
    output.add_argument("--no-text", action="store_true", help="leave the texts out of the JSON lines")


def run(options: argparse.Namespace) -> int:
    """Predict and print; returns the exit status. Raises `NerveError`s and `BrokenPipeError`."""
    if (wrong := why_wrong(options)) is not None:
        print(f"nerve predict: {wrong}", file=sys.stderr)
        return 2
    as_json = options.json or not sys.stdout.isatty()
    with _load(options) as classifier, _progress(options) as task:
        show = _json_printer(options) if as_json else _terminal_printer(options, classifier)
        try:
            with closing(predict_records(classifier, options, as_json=as_json)) as results:
                for record, rows in results:
                    show(record, rows)
                    task.advance()
        finally:
            sys.stdout.flush()  # what came before a failure is not lost
    return 0


def predict_records(
    classifier: TokenClassifier, options: argparse.Namespace, *, as_json: bool
) -> Generator[Result, None, None]:
    """Yield each text with its rows. Raises `InputError` naming the place of the first bad text."""
    waiting: deque[Record] = deque()
    form = Format(whole=options.whole, jsonl=options.jsonl, field=options.field)

    def texts() -> Iterator[str]:
        for record in read_records(options.texts, options.file, form):
            if ROWS in record.fields and as_json:
                raise InputError(f"{record.origin}: there is a field `{ROWS}` already, which would be lost")
            waiting.append(record)
            yield record.text

    try:
        for rows in _predict(classifier, options, texts(), as_json=as_json):
            yield waiting.popleft(), rows
    except InvalidRequest as error:  # the first text without an answer is the one that was refused
        if not waiting or not str(error).startswith("texts["):
            raise
        raise InputError(f"{waiting[0].origin}: {str(error).partition(': ')[2]}") from None


def _predict(
    classifier: TokenClassifier, options: argparse.Namespace, texts: Iterable[str], *, as_json: bool
) -> Iterator[list[Row]]:
    choices: dict[str, Any] = {
        "truncate": options.truncate,
        "truncation_direction": options.truncation_direction,
        "raw_scores": options.raw_scores,
        # Colours are laid over code points.
        "offset_unit": options.offset_unit if as_json or _shows_tokens(options) else OffsetUnit.CODE_POINT,
    }
    strategy = options.strategy or classifier.model.entity_strategy
    choices |= filter_choices(options)
    if strategy != AggregationStrategy.NONE:
        runtime = classifier.config.runtime
        choices.setdefault("labels", runtime.labels)
        choices.setdefault("min_score", runtime.min_score)
    if _is_live(options):
        return (classifier.predict(text, strategy, **choices)[0] for text in texts)
    return classifier.predict_many(texts, strategy, **choices)


def _load(options: argparse.Namespace) -> TokenClassifier:
    from nerve.api import load_classifier

    config = choose_config(options.model, options.config)
    return load_classifier(config, show_progress=sys.stderr.isatty())


def _is_live(options: argparse.Namespace) -> bool:
    """Tell whether each line is to be answered before the next one is read, as where a person types."""
    return options.live or (STDIN in (*options.texts, *options.file) and sys.stdin.isatty())


def _shows_tokens(options: argparse.Namespace) -> bool:
    return bool(options.strategy == AggregationStrategy.NONE)


def _json_printer(options: argparse.Namespace) -> Callable[[Record, list[Row]], None]:
    import msgspec

    encode = msgspec.json.Encoder().encode
    write = sys.stdout.buffer.write
    is_live = _is_live(options)

    def show(record: Record, rows: list[Row]) -> None:
        fields = {**record.fields, ROWS: rows}
        if options.no_text:
            del fields[record.field]
        write(encode(fields) + b"\n")
        if is_live:
            sys.stdout.flush()

    return show


def _terminal_printer(
    options: argparse.Namespace, classifier: TokenClassifier
) -> Callable[[Record, list[Row]], None]:
    from nerve.cli.display import PlainConsole, choose_colours, highlight, token_table

    console = PlainConsole()
    labels = classifier.model.labels
    shows_names = _shows_tokens(options) or options.raw_scores
    colours = choose_colours(labels.names if shows_names else labels.tags)

    def show(record: Record, rows: list[Row]) -> None:
        if _shows_tokens(options):
            console.print(token_table(rows))
        else:
            console.print(highlight(record.text, rows, colours), soft_wrap=True)

    return show


def _progress(options: argparse.Namespace) -> AbstractContextManager[Task]:
    """Show on stderr how far it is, but no bar where stdout draws on the same terminal."""
    from nerve.observability.progress import progress

    form = Format(whole=options.whole, jsonl=options.jsonl)
    total = count_records(options.texts, options.file, form)
    return progress("texts", total, show=sys.stderr.isatty() and not sys.stdout.isatty())
