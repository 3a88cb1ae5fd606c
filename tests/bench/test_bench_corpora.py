"""The bench of corpora: what it calls a whole run, and the tables of its results."""

import json
from pathlib import Path

import pytest

from bench.corpora import FILE, RATIOS, TITLES, render, render_whole
from bench.paths import RESULTS
from bench.whole_corpus import check_rows


def write(place: Path, given: list[int], written: list[list[int]]) -> None:
    """Write an input with these rows, and an output with these parts."""
    (place / "out").mkdir()
    (place / "a.jsonl").write_text("".join(f'{{"id":{n},"text":"t{n}"}}\n' for n in given))
    for number, rows in enumerate(written):
        lines = "".join(f'{{"file":"a","id":{n},"text":"t{n}","rows":[]}}\n' for n in rows)
        (place / f"out/a-{number:05d}.jsonl").write_text(lines)


def test_a_whole_corpus_is_known(tmp_path: Path) -> None:
    """All rows in order, over several parts."""
    write(tmp_path, [0, 1, 2, 3, 4], [[0, 1], [2], [3, 4]])
    check_rows(tmp_path, 5)


@pytest.mark.parametrize(
    "written",
    [[[0, 1], [3]], [[0, 1, 1], [2, 3]], [[1, 0], [2, 3]], [[0, 1], [2, 3, 4]], [[0, 1], [2]], [[]]],
)
def test_a_row_that_is_lost_twice_or_elsewhere_is_seen(tmp_path: Path, written: list[list[int]]) -> None:
    """Any other output ends the measurement."""
    write(tmp_path, [0, 1, 2, 3], written)
    with pytest.raises((SystemExit, ValueError)):
        check_rows(tmp_path, 4)


def test_tables_are_made_of_the_results() -> None:
    """Each case and each ratio has a row, and each whole corpus."""
    text = render(json.loads(FILE.read_text()))
    assert all(name in text for name in (*TITLES.values(), *RATIOS))
    whole = json.loads((RESULTS / "whole-corpora.json").read_text())
    assert all(f"| {name} |" in render_whole(whole) for name in whole)
