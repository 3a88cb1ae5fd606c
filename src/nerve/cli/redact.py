"""Write texts without the entities in them, without a server.

Texts come from arguments, --file, or stdin, and are written as they came: a line for a line, a JSON object for a JSON
object, a file for a file. What was found is counted by label on stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from nerve.cli.arguments import (
    add_answer_arguments,
    add_filter_arguments,
    add_output_arguments,
    add_rename_argument,
    add_text_arguments,
    filter_choices,
    why_wrong,
)
from nerve.cli.model import add_model_option
from nerve.config import Config, has_key_in_environment, load_redaction_key
from nerve.config.operators import DEFAULT, OPERATOR_NAMES
from nerve.types import EntityStrategy, PatternName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from nerve.cli.rows import Answerer
    from nerve.config.operators import Operator
    from nerve.corpus.late import LateOperators
    from nerve.corpus.records import Answer, Record
    from nerve.text.redaction import Item

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
    add_rename_argument(model)
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
    add_answer_arguments(parser)
    output = parser.add_argument_group("output")
    add_output_arguments(output)
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
    from nerve.cli.rows import Wish, config_of, report_of, run_rows
    from nerve.corpus.answers import Task
    from nerve.corpus.writers import Layout

    has_key = has_key_in_environment()
    config = config_of(options)
    operators = _chosen_operators(options, config)
    if config is not None and not has_key:
        _warn_of_key(config, operators)
    layout = Layout(
        options.field,
        replaces=not options.dry_run,
        column=ITEMS if options.json else None,
        names_file=options.json,
    )
    late = _late(options, config, operators)
    choices = _choices(options, operators if late is None else late.split())
    wish = Wish(
        "redact",
        layout,
        as_json=options.json,
        task=lambda _: Task(
            redacts=True, choices=choices, wants_found=options.json or options.dry_run or late is not None
        ),
        late=late,
        draw=_Drawer if options.dry_run else None,
        settings=_settings(options, config, operators, choices),
    )
    totals = run_rows(options, config, wish)
    print(report_of("redact", totals), file=sys.stderr)
    return 0


def _chosen_operators(options: argparse.Namespace, config: Config | None) -> dict[str, Operator]:
    """Return the operators of this run; none where a server has its own and none were given."""
    from nerve.engine.entities import read_operators

    if options.operators is not None:
        return read_operators({label: o for given in options.operators for label, o in given.items()})
    return {} if config is None or options.url is not None else dict(config.redaction.operators)


def _choices(options: argparse.Namespace, operators: Mapping[str, Operator]) -> dict[str, Any]:
    import msgspec

    choices: dict[str, Any] = filter_choices(options)
    if options.strategy is not None:
        choices["aggregation_strategy"] = options.strategy
    if options.patterns is not None:
        choices["patterns"] = options.patterns
    if operators:
        choices["operators"] = msgspec.to_builtins(operators)
    return choices


def _late(
    options: argparse.Namespace, config: Config | None, operators: Mapping[str, Operator]
) -> LateOperators | None:
    """Return the operators that are left to this process; the key does not go to the nodes of a cluster."""
    from nerve.corpus.late import LateOperators, counts, needs_key

    key = None
    if options.ray is not None and config is not None and needs_key(operators):
        key = load_redaction_key(config.redaction)
    return LateOperators(operators, key) if counts(operators) or key is not None else None


def _settings(
    options: argparse.Namespace,
    config: Config | None,
    operators: Mapping[str, Operator],
    choices: dict[str, Any],
) -> dict[str, Any]:
    """Return what must be the same for a run to go on; of secrets what tells them apart."""
    from nerve.cli.rows import digest
    from nerve.corpus.late import needs_key

    settings = {**choices, "json": options.json, "operators": digest(operators)}
    if needs_key(operators) and config is not None and options.url is None:
        settings["key of pseudonyms"] = digest(load_redaction_key(config.redaction).hex())
    return settings


class _Drawer:
    """Draws texts with what would go in colour (a `Writer`)."""

    def __init__(self, answerer: Answerer, console: Console) -> None:
        from nerve.cli.display import choose_colours, has_colours

        self._console = console
        self._in_colour = has_colours(console)
        self._colours = choose_colours(answerer.facts, answerer.config)

    def start(self, head: object) -> None:
        """See `Writer`."""

    def write(self, record: Record, answer: Answer) -> None:
        """See `Writer`."""
        from nerve.cli.display import highlight
        from nerve.types import Row

        items: list[Item] = list(answer.found)  # type: ignore[arg-type]
        rows = [Row("", 0, item.start, item.end, {item.label: item.score}) for item in items]
        drawn = highlight(record.text, rows, self._colours, in_colour=self._in_colour)
        self._console.print(drawn, soft_wrap=True)

    def close(self) -> None:
        """See `Writer`."""


def _warn_of_key(config: Config, operators: Mapping[str, Operator]) -> None:
    """Say that pseudonyms will be others in the next run, where they will: nothing has a key for them."""
    from nerve.corpus.late import needs_key

    if config.redaction.key_file is None and needs_key(operators):
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
