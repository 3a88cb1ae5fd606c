"""Label sets: which prefixes count, and what is a tag."""

from __future__ import annotations

import pytest

from nerve.text.labels import LabelScheme, LabelSet, parse_labels, results_type


def parse(names: str) -> LabelSet:
    """Parse labels given as one line, in the order of their ids."""
    return parse_labels(names.split())


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        ("O B-PER I-PER B-LOC I-LOC", LabelScheme.IOB),
        ("O B-PER B-LOC", LabelScheme.IOB),  # entities of one token only
        ("O B-PER I-PER MISC", LabelScheme.IOB),  # a plain label among them
        ("O B-PER I-PER E-PER S-PER", LabelScheme.BIOES),
        ("O B-PER I-PER E-PER", LabelScheme.BIOES),
        ("O B-PER M-PER E-PER S-PER", LabelScheme.BIOES),  # BMES
        ("O B-PER I-PER L-PER U-PER", LabelScheme.BILOU),
        ("O I-PER I-LOC", LabelScheme.IO),
        ("O PER LOC", LabelScheme.PLAIN),
        ("LABEL_0 LABEL_1", LabelScheme.PLAIN),
        ("NOUN VERB X", LabelScheme.PLAIN),
        ("O NAME E-MAIL S-BAHN", LabelScheme.PLAIN),
        ("O B-PER I-PER E-MAIL", LabelScheme.IOB),
        ("O B-PER I-PER S-BAHN U-BAHN L-SHAPE M-SIZE", LabelScheme.IOB),
        ("O B-PER I-PER E-PER S-PER S-TITLE", LabelScheme.BIOES),  # a tag of single tokens only
        ("O S-TITLE B-PER E-PER", LabelScheme.BIOES),
        ("O B-PER I-PER E-PER S-PER E-ORG", LabelScheme.BIOES),  # what was never seen was left out
        ("O I-PER E-PER", LabelScheme.BIOES),  # IOE: begins are not marked
        ("O B-PER M-PER E-PER S-TITLE", LabelScheme.BIOES),
        ("O B-PER I-PER L-PER U-PER U-TITLE", LabelScheme.BILOU),
        ("O U-TITLE I-PER L-PER", LabelScheme.BILOU),
        ("O b-per i-per e-per s-per", LabelScheme.PLAIN),
        ("O B_PER I_PER E_PER", LabelScheme.PLAIN),
        ("O PER-B PER-I PER-E", LabelScheme.PLAIN),
        ("O", LabelScheme.PLAIN),
    ],
)
def test_scheme_is_recognised_from_the_names(names: str, scheme: LabelScheme) -> None:
    """E-, S-, M-, or L-, U-, count where some tag has one of them and B- or I- too."""
    assert parse(names).scheme is scheme


def test_names_are_split_into_prefix_and_tag() -> None:
    """Only the first hyphen separates, and only behind a prefix of the scheme."""
    labels = parse("O B-GOVERNMENT-ID I-GOVERNMENT-ID E-MAIL MISC")
    assert labels.prefixes == ("", "B", "I", "", "")
    assert labels.tags == ("O", "GOVERNMENT-ID", "GOVERNMENT-ID", "E-MAIL", "MISC")
    assert labels.tag_ids[1] == labels.tag_ids[2] != labels.tag_ids[3]
    assert labels.opens == (False, True, False, False, False)
    assert not any(labels.closes)
    assert len(labels) == 5


def test_closing_labels_of_both_families() -> None:
    """E-, L- close; S-, U- open and close; B- opens; I-, M- do neither."""
    for names in ("B-X I-X E-X S-X", "B-X I-X L-X U-X", "B-X M-X E-X S-X"):
        labels = parse(names)
        assert labels.opens == (True, False, False, True)
        assert labels.closes == (False, False, True, True)


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        ("B-PER I-PER E-PER S-PER S-TITLE", "PER PER PER PER TITLE"),
        ("B-PER I-PER L-PER U-PER U-JOB-TITLE", "PER PER PER PER JOB-TITLE"),
        ("B-E-MAIL I-E-MAIL E-E-MAIL S-E-MAIL", "E-MAIL E-MAIL E-MAIL E-MAIL"),
        ("B-PER I-PER E-PER U-BAHN", "PER PER PER U-BAHN"),  # a letter of the other scheme
        ("B-PER I-PER E-MAIL", "PER PER E-MAIL"),
        ("B-PER I-PER b-loc B_ORG PER-B", "PER PER b-loc B_ORG PER-B"),
    ],
)
def test_a_scheme_holds_for_all_labels(names: str, tags: str) -> None:
    """One tag that lacks B- changes nothing for the others, nor for itself."""
    assert parse(names).tags == tuple(tags.split())


@pytest.mark.parametrize(
    ("names", "outside", "tag_ids"),
    [
        ("O B-X", 0, (-1, 1)),
        ("B-X O", 1, (0, -1)),
        ("NOUN VERB", None, (0, 1)),
        ("O B-O B-X", 0, (-1, -1, 1)),  # the reference drops any entity called O
    ],
)
def test_outside(names: str, outside: int | None, tag_ids: tuple[int, ...]) -> None:
    """`O` may stand anywhere or be absent; its tag is never an entity."""
    labels = parse(names)
    assert labels.outside == outside
    assert labels.tag_ids == tag_ids


def test_two_labels_of_one_name_are_one_result() -> None:
    """A name of several labels has the probability of any of them, once."""
    assert results_type(("O", "X", "X"))(0.25, 0.5, 0.25) == {"O": 0.25, "X": 0.75}
