"""Draws predictions on a terminal: entities in colour with their labels, or tokens in a table.

Pure but for the console and the colours: rich's `Text` and `Table` out, printed by the caller. Colours follow from the
order of the model's labels alone, so that a label looks the same in every text, run and command.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from nerve.text.labels import parse_labels
from nerve.types import PatternName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nerve.config import Config
    from nerve.corpus.answers import Facts
    from nerve.types import Row

# Black on these is legible (7:1 and more), and they stand out from dark and from light terminals; numbers of the
# 256-colour palette.
_PALETTE = (
    *(114, 215, 111, 211, 221, 80, 183, 173, 150, 152, 217, 180),
    *(116, 178, 108, 209, 147, 144, 176, 141, 110, 149, 174, 79),
)
_NAME_CELLS = 14
# Control characters could steer the terminal; each is shown as one visible character, so offsets hold.
_VISIBLE = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def has_colours(console: Console) -> bool:
    """Tell whether a console draws in colours: NO_COLOR, or a terminal without any, forbids it."""
    return not console.no_color and console.color_system is not None


class PlainConsole(Console):
    """Prints to stdout what it is given, and nothing in it is markup."""

    def __init__(self, file: IO[str] | None = None, like: Console | None = None) -> None:
        """Write to `file`, or stdout; in the colours and the width of `like`, where it stands for that terminal."""
        if like is None:
            super().__init__(file=file, highlight=False, markup=False, emoji=False)
        else:
            super().__init__(
                file=file,
                highlight=False,
                markup=False,
                emoji=False,
                force_terminal=True,
                width=like.width,
                no_color=like.no_color,
                color_system=like.color_system,  # type: ignore[arg-type]  # its own names
            )

    def on_broken_pipe(self) -> None:
        """Leave it to `main` that the reader left; rich would exit with 1, which means failed here."""
        raise BrokenPipeError


def choose_colours(facts: Facts, config: Config | None) -> dict[str, Style]:
    """Give each label its colour, the same in every command and with a server.

    The labels of entities come first, in the model's order, then those of the rules; a name of the model, such as
    `B-PER`, has the colour of its label. config: of a model in this process; it may rename what rules find.
    """
    renamed = {} if config is None else config.runtime.rename_labels
    rules = [renamed.get(name.label, name.label) for name in PatternName]
    colours = {
        label: Style(color="black", bgcolor=f"color({_PALETTE[index % len(_PALETTE)]})")
        for index, label in enumerate(dict.fromkeys([*facts.entity_labels, *rules]))
    }
    named = parse_labels(facts.label_names, renamed)
    for name, label in zip(named.full_names, named.tags, strict=True):
        if label in colours:
            colours.setdefault(name, colours[label])
    return colours


def highlight(text: str, rows: Sequence[Row], colours: dict[str, Style], *, in_colour: bool = True) -> Text:
    """Return `text` with its entities in colour, each followed by its label and score in per cent.

    `rows` are entities with offsets in code points, in order. in_colour: else they stand in brackets.
    """
    shown = make_visible(text)
    drawn = Text()
    position = 0
    for row in rows:
        if row.start < position:
            continue
        label, score = best(row)
        style = colours.get(label, Style(reverse=True))
        drawn.append(shown[position : row.start])
        before, after = (" ", " ") if in_colour else ("[", "]")
        drawn.append(f"{before}{shown[row.start : row.end]} ", style)
        drawn.append(f"{label} {score:.0%}{after}", style + Style(bold=True))
        position = row.end
    drawn.append(shown[position:])
    return drawn


def token_table(rows: Sequence[Row]) -> Table:
    """Return the tokens of one text as a table."""
    table = Table("token", "id", "start", "end", "label", "score", box=None, header_style="bold")
    for row in rows:
        label, score = best(row)
        table.add_row(
            Text(make_visible(row.token)),
            str(row.token_id),
            str(row.start),
            str(row.end),
            label,
            f"{score:.4f}",
        )
    return table


def print_named_lines(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    """Print pairs of a name and a text below each other; anywhere but on a terminal no line is broken."""
    if not console.is_terminal:
        for name, text in lines:
            console.print(f"{name:<{_NAME_CELLS}}{make_visible(text)}".rstrip(), soft_wrap=True)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, Text(make_visible(text)))
    console.print(table)


def make_visible(text: str) -> str:
    """Return `text` with its control characters, but newline and tab, replaced by visible ones."""
    return text.translate(_VISIBLE)


def best(row: Row) -> tuple[str, float]:
    """Return the label with the highest score of a row, and that score; the first of equals."""
    label = max(row.results, key=row.results.__getitem__)
    return label, row.results[label]
