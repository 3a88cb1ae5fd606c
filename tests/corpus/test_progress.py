"""What a run says of how far it is: the bytes of its inputs, all of them in the end, whatever was there before."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from nerve.api import TokenClassifier, load
from nerve.corpus.answers import Task, answer_here
from nerve.corpus.manifest import Header
from nerve.corpus.output import FolderOutput
from nerve.corpus.run import Run
from nerve.corpus.sources import Source, find_sources
from nerve.corpus.writers import Layout


class Cut(Exception):
    """Ends a run in the middle."""


@pytest.fixture
def classifier(lookup_model: Path) -> Iterator[TokenClassifier]:
    """Return the lookup model, in this process."""
    with load(lookup_model) as loaded:
        yield loaded


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Write inputs of every kind: several parts, none, lines that are no rows, and one that is unreadable."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(f'{{"id": {n}, "text": "Anna {n}"}}\n' for n in range(80)))
    with (folder / "b.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([n, f"Bob\n{n}"] for n in range(80))])
        file.write("\r\n\r\n\r\n")
    (folder / "c.txt").write_text("Paris é\n" * 90)
    (folder / "d.txt").write_text("")
    (folder / "e.csv").write_text("no,such,column\n1,2,3\n")
    return find_sources([], [str(folder)])


def run(
    classifier: TokenClassifier,
    sources: list[Source],
    folder: Path,
    advance: Callable[[float, int], None],
) -> None:
    """Run over all sources, or go on."""
    layout = Layout("text", replaces=True, column=None)
    output = FolderOutput(
        folder, Header("1", "redact", {}), layout, lambda source: source.kind, resume=True, part_bytes=400
    )
    with closing(output):
        task = Task(redacts=True, choices={})
        Run(output, "text", skip_bad=True, advance=advance).over(
            sources, partial(answer_here, classifier, task)
        )


@pytest.mark.parametrize("rows_before", [0, 1, 100, 200, 10**6])
def test_a_bar_fills_whatever_was_done_before(
    classifier: TokenClassifier, sources: list[Source], tmp_path: Path, rows_before: int
) -> None:
    """A run that goes on begins with what an earlier one has written, and ends at the size of its inputs."""
    n_rows = 0

    def cut(_: float, more_rows: int) -> None:
        nonlocal n_rows
        n_rows += more_rows
        if n_rows > rows_before:
            raise Cut

    try:
        run(classifier, sources, tmp_path / "out", cut)
    except Cut:
        pass
    else:
        assert rows_before == 10**6
    said: list[tuple[float, int]] = []
    run(classifier, sources, tmp_path / "out", lambda *amounts: said.append(amounts))
    size = sum(source.size or 0 for source in sources)
    assert sum(n_bytes for n_bytes, _ in said) == pytest.approx(size)
    assert all(n_bytes >= 0 for n_bytes, _ in said)
    if rows_before == 200:  # most of the bytes come at once, with no row
        assert max(n_bytes for n_bytes, rows in said if rows == 0) > 400
