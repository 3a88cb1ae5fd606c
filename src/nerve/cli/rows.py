"""What `nerve predict` and `nerve redact` have in common: rows from somewhere, answered by someone, to somewhere.

A command says what is asked (`Wish`); this module finds the inputs, opens whoever answers and the output, and runs.
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

import nerve
from nerve.cli.arguments import goes_to_folder, is_live, kind_of, rename_flags
from nerve.cli.screen import open_screen
from nerve.config import ServerConfig, choose_config, load_api_key, model_name
from nerve.corpus.answers import answer_here, facts_of
from nerve.corpus.manifest import Header
from nerve.corpus.output import FolderOutput, StreamOutput, check_names, make_writer
from nerve.corpus.records import InputError
from nerve.corpus.run import Run, Totals
from nerve.corpus.sources import STDIN, Kind, find_sources
from nerve.observability.progress import Unit, progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from nerve.config import Config
    from nerve.corpus.answers import Facts, Task
    from nerve.corpus.late import LateOperators
    from nerve.corpus.output import Output
    from nerve.corpus.records import Answer, Record
    from nerve.corpus.run import Answers
    from nerve.corpus.sources import Source
    from nerve.corpus.writers import Layout, Writer


@dataclass(frozen=True)
class Answerer:
    """Who answers: a model in this process, a server, or a cluster.

    facts: what the model says of itself. answers: makes what answers texts. config: None where the server has its own.
    """

    facts: Facts
    answers: Callable[[Task], Answers]
    config: Config | None


@dataclass(frozen=True)
class Wish:
    """What a command wants of each row.

    command: its name. layout: of what is written; as_json: as JSON lines, whatever the input is.
    task: what is asked, by whoever answers. late: operators that are left to this process.
    draw: makes what draws on the terminal instead of writing. settings: what must be the same for a run to go on.
    """

    command: str
    layout: Layout
    as_json: bool
    task: Callable[[Answerer], Task]
    late: LateOperators | None = None
    draw: Callable[[Answerer, Console], Writer] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def kind_of(self, source: Source) -> Kind:
        """Return the format in which the rows of an input are written."""
        if self.as_json or (not self.layout.replaces and source.kind in {Kind.TEXT, Kind.WHOLE}):
            return Kind.JSONL
        return source.kind


def config_of(options: argparse.Namespace) -> Config | None:
    """Return the configuration of the model; None where a server has its own, and no file was named."""
    if options.url is not None and options.config is None:
        return None
    return choose_config(options.model, options.config, flags=rename_flags(options))


def run_rows(options: argparse.Namespace, config: Config | None, wish: Wish) -> Totals:
    """Answer all rows. Raises `NerveError`s and `BrokenPipeError`; an interrupted run says how it goes on."""
    try:
        return _run(options, config, wish)
    except KeyboardInterrupt:
        if goes_to_folder(options):
            _say(
                wish.command,
                f"interrupted; with --resume it goes on behind what is whole in {options.output}",
            )
        elif options.output is not None:
            _say(
                wish.command,
                f"interrupted; {options.output} is not written. What goes to a folder (--output FOLDER) can go on "
                "with --resume",
            )
        raise


def _run(options: argparse.Namespace, config: Config | None, wish: Wish) -> Totals:
    sources = _sources(options, wish)
    sizes = [source.n_bytes for source in sources if source.n_bytes is not None]
    total = sum(sizes) if len(sizes) == len(sources) else None
    with ExitStack() as stack:
        opened: FolderOutput | None = None
        if goes_to_folder(
            options
        ):  # before the model is loaded: a folder that cannot be used is known at once
            opened = _open_folder(options, config, wish, sources, stack)
        answerer = stack.enter_context(_open_answerer(options, config))
        output: Output = opened or _open_stream(options, wish, answerer, stack)
        # Nobody needs a bar where the answers themselves go by.
        bar = None if options.output is None and sys.stdout.isatty() else _bar(total, stack)
        done = [] if opened is None else opened.manifest.entries
        if bar is not None:
            bar(0.0, sum(entry.rows + entry.bad for entry in done))
        run = Run(
            output,
            options.field,
            taken=wish.layout.column,
            skip_bad=options.skip_bad,
            finish=None if wish.late is None else wish.late.finish,
            advance=bar,
        )
        for entry in done:
            run.totals.add(entry.rows, entry.bad, entry.labels)
        return run.over(sources, answerer.answers(wish.task(answerer)))


def _sources(options: argparse.Namespace, wish: Wish) -> list[Source]:
    texts, files = options.texts, options.file
    folder = Path(options.output) if goes_to_folder(options) else None
    if folder is not None:  # a corpus: what is there under its name is no text
        files = [*(text for text in texts if _is_path(text)), *files]
        texts = [text for text in texts if not _is_path(text)]
    for text in () if folder else texts:
        if _is_path(text) and Path(text).is_file():
            _say(wish.command, f"{text} is taken as a text; to read the file of that name: --file {text}")
    sources = find_sources(texts, files, kind_of(options), folder)
    if options.output is None or folder is not None:
        is_written = folder is None and wish.draw is None
        if is_written and any(wish.kind_of(source) is Kind.PARQUET for source in sources):
            raise InputError("Parquet goes to a file or a folder; name it with --output, or ask for --json")
        return sources
    output = Path(options.output)
    kinds = {wish.kind_of(source) for source in sources}
    if Kind.PARQUET in kinds and len(sources) > 1:
        raise InputError("several Parquet files go to a folder; name one with --output")
    if any(source.path is not None and source.path.resolve() == output.resolve() for source in sources):
        raise InputError(f"{output} is an input, which the result would replace; choose another --output")
    return sources


def _is_path(text: str) -> bool:
    try:
        return text != STDIN and "\n" not in text and Path(text).exists()
    except (OSError, ValueError):
        return False


def _open_folder(
    options: argparse.Namespace,
    config: Config | None,
    wish: Wish,
    sources: Sequence[Source],
    stack: ExitStack,
) -> FolderOutput:
    settings = {**wish.settings, "model": options.url or (config and model_name(config.model))}
    if config is not None:
        settings["config"] = digest(
            [
                config.model.checkpoint_repository,
                config.model.precision,
                config.model.max_length,
                config.runtime,
            ]
        )
    named = kind_of(options)
    settings |= {"format": named and named.value, "field": options.field, "part_bytes": options.part_bytes}
    header = Header(nerve.__version__, wish.command, settings)
    splits = wish.late is None or not wish.late.counts
    output = FolderOutput(
        Path(options.output),
        header,
        wish.layout,
        wish.kind_of,
        resume=options.resume,
        splits=splits,
        part_bytes=options.part_bytes,
    )
    stack.callback(output.close)
    check_names(output, sources)
    return output


def report_of(command: str, totals: Totals) -> str:
    """Return the line for stderr at the end of a run."""
    counted = ", ".join(f"{label} {count}" for label, count in sorted(totals.labels.items()))
    bad = f", bad rows {totals.bad}" if totals.bad else ""
    found = f"entities {totals.labels.total()}{f': {counted}' if counted else ''}"
    return f"nerve {command}: texts {totals.rows}{bad}, {found}"


def digest(value: object) -> str:
    """Return what tells settings apart and does not show them: a salt is a secret."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]


def _open_stream(
    options: argparse.Namespace, wish: Wish, answerer: Answerer, stack: ExitStack
) -> StreamOutput:
    if wish.draw is not None:
        screen = open_screen(paged=not options.no_pager and not is_live(options))
        writer = wish.draw(answerer, stack.enter_context(screen))
        stream = sys.stdout.buffer
        stack.callback(sys.stdout.flush)
        return StreamOutput(stream, lambda _, __: writer, partial(_say, wish.command))
    if options.output is None:
        stream = sys.stdout.buffer
        stack.callback(sys.stdout.flush)  # what came before a failure is not lost
    else:
        stream = stack.enter_context(_whole_file(Path(options.output)))

    def writer_of(source: Source, stream: BinaryIO) -> Writer:
        writer = make_writer(wish.kind_of(source), stream, wish.layout)
        return _Flushing(writer, stream) if is_live(options) else writer

    return StreamOutput(stream, writer_of, partial(_say, wish.command))


class _Flushing:
    """Writes each row at once, for a pipe that goes on."""

    def __init__(self, writer: Writer, stream: BinaryIO) -> None:
        self._writer = writer
        self._stream = stream
        self.start = writer.start
        self.close = writer.close

    def write(self, record: Record, answer: Answer) -> None:
        """See `Writer`."""
        self._writer.write(record, answer)
        self._stream.flush()


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give where to write; the file is there under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _say(command: str, message: str) -> None:
    print(f"nerve {command}: {message}", file=sys.stderr)


@contextmanager
def _open_answerer(options: argparse.Namespace, config: Config | None) -> Iterator[Answerer]:
    if options.url is not None:
        from nerve.corpus.server import RemoteClassifier

        server = RemoteClassifier(
            options.url, load_api_key(ServerConfig() if config is None else config.server)
        )
        yield Answerer(server.facts, lambda task: partial(server.answer, task), None)
        return
    assert config is not None  # noqa: S101 - of `config_of`
    if options.ray is not None:
        from nerve.corpus.on_ray import Cluster

        with closing(Cluster(options.ray or None, config)) as cluster:
            yield Answerer(cluster.facts, lambda task: partial(cluster.answer, task), config)
        return
    from nerve.api import load_classifier

    ahead = not is_live(options)
    with load_classifier(config, show_progress=sys.stderr.isatty()) as classifier:
        yield Answerer(
            facts_of(classifier), lambda task: partial(answer_here, classifier, task, ahead=ahead), config
        )


def _bar(total: int | None, stack: ExitStack) -> Callable[[float, int], None]:
    """Show on stderr how much of the input is done, or how many texts where nobody knows how much there is."""
    show = sys.stderr.isatty()
    if total is not None:
        read = stack.enter_context(progress("read", total, Unit.BYTES, show=show))
        return lambda n_bytes, n_rows: (read.advance if n_rows else read.pass_over)(n_bytes)
    task = stack.enter_context(progress("texts", show=show))
    return lambda _, n_rows: task.advance(n_rows)
