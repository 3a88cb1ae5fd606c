"""How predictions look on a terminal."""

from rich.console import Console
from rich.style import Style

from nerve.cli.display import best, choose_colours, highlight, make_visible, token_table
from nerve.config.schema import CheckpointConfig, CheckpointSource, Config, ModelConfig, RuntimeConfig
from nerve.corpus.answers import Facts
from nerve.types import Row

COLOURS = {"PER": Style(bgcolor="red"), "LOC": Style(bgcolor="blue")}


def entity(text: str, start: int, end: int, label: str, score: float = 0.5) -> Row:
    """Build an entity's row."""
    return Row(text[start:end], 0, start, end, {label: score})


def test_entities_stand_in_the_text_with_label_and_score() -> None:
    """Each entity is followed by its label and score; the rest of the text is as it was."""
    text = "Anna sees Paris."
    drawn = highlight(text, [entity(text, 0, 4, "PER", 0.98), entity(text, 10, 15, "LOC", 1.0)], COLOURS)
    assert drawn.plain == " Anna PER 98%  sees  Paris LOC 100% ."


def test_entities_have_the_colour_of_their_label() -> None:
    """Text of an entity carries its label's style, text outside carries none."""
    text = "x Anna"
    drawn = highlight(text, [entity(text, 2, 6, "PER")], COLOURS)
    entity_span = drawn.spans[0]
    assert drawn.plain[entity_span.start : entity_span.end] == " Anna "
    assert entity_span.style == COLOURS["PER"]
    assert all(span.start >= 2 for span in drawn.spans)


def test_text_without_entities_is_unchanged() -> None:
    """Nothing is added where nothing was found."""
    drawn = highlight("nothing [bold]here[/bold]", [], COLOURS)
    assert drawn.plain == "nothing [bold]here[/bold]"
    assert not drawn.spans


def test_unknown_label_is_still_marked() -> None:
    """A label without a colour of its own is shown in reverse."""
    assert highlight("Anna", [entity("Anna", 0, 4, "NEW")], COLOURS).plain == " Anna NEW 50% "


def test_overlapping_entity_is_left_out() -> None:
    """The text is never printed twice."""
    text = "Anna Maria"
    drawn = highlight(text, [entity(text, 0, 10, "PER"), entity(text, 5, 10, "LOC")], COLOURS)
    assert drawn.plain == " Anna Maria PER 50% "


def test_control_characters_cannot_steer_the_terminal() -> None:
    """Escape sequences of a text are shown, one character for one, so offsets hold."""
    text = "a\x1b[31m\x00\x7f\x9bb\n\tc"
    shown = make_visible(text)
    assert len(shown) == len(text)
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in shown if c not in "\n\t")
    assert "\x1b" not in highlight(text, [entity(text, 0, 3, "PER")], COLOURS).plain


def test_colours_follow_the_order_of_labels() -> None:
    """A label has one colour, whatever its prefixes and wherever `O` stands, and so has what a rule finds."""
    colours = choose_colours(Facts("m", "first", ["B-PER", "I-PER", "O", "B-LOC"], ["PER", "LOC"]), None)
    first = choose_colours(Facts("m", "first", ["O", "B-PER", "B-LOC"], ["PER", "LOC"]), None)
    assert list(colours)[:2] == ["PER", "LOC"]
    assert colours["B-PER"] == colours["I-PER"] == colours["PER"] == first["PER"]
    assert colours["EMAIL"] == first["EMAIL"]
    assert len({colours[label].bgcolor for label in ("PER", "LOC", "EMAIL")}) == 3
    assert "O" not in colours
    labels = [str(n) for n in range(40)]
    assert set(labels) <= set(choose_colours(Facts("m", "first", labels, labels), None))


def test_renamed_labels_keep_the_colour_of_the_model() -> None:
    """A name with its prefix has the colour of the new label, as has what a rule of the old name finds."""
    config = Config(
        model=ModelConfig(CheckpointConfig(CheckpointSource.LOCAL, path="m")),
        runtime=RuntimeConfig(rename_labels={"PER": "NAME", "EMAIL": "MAIL"}),
    )
    colours = choose_colours(Facts("m", "first", ["O", "B-PER"], ["NAME"]), config)
    assert colours["B-NAME"] == colours["NAME"]
    assert "MAIL" in colours
    assert not {"PER", "EMAIL"} & set(colours)


def test_best_label_is_the_first_of_equals() -> None:
    """Ties go to the label named first, as everywhere."""
    assert best(Row("a", 0, 0, 1, {"B-PER": 0.4, "I-PER": 0.4, "O": 0.2})) == ("B-PER", 0.4)


def test_token_table_has_a_line_per_token() -> None:
    """Tokens are listed with id, offsets, label and score."""
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(token_table([Row("Anna", 7, 0, 4, {"B-PER": 0.75}), Row("\x1b", 1, 4, 5, {"O": 1.0})]))
    lines = console.export_text().splitlines()
    assert lines[0].split() == ["token", "id", "start", "end", "label", "score"]
    assert lines[1].split() == ["Anna", "7", "0", "4", "B-PER", "0.7500"]
    assert lines[2].split()[0] == "␛"
