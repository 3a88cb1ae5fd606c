"""Parses the names of labels into a `LabelSet`: what each label of the model means.

A label is `PREFIX-TAG` (`B-PER`) or a name without a prefix (`O`, `PERSON`). The prefix says what part
of an entity a token is, the tag what kind of entity. Which prefixes count is decided once for the whole
label set, its scheme:

    IOB     B- I-            IOB1 and IOB2. Names alone cannot tell them apart and they need not be: both
                             are read by one rule, B- opens an entity and so does I- after another tag.
    BIOES   B- I- E- S-      also written with M- for I- (BMES). E- and S- close an entity.
    BILOU   B- I- L- U-      the same with other letters.
    IO      I-               neighbours with the same tag are one entity.
    PLAIN   no prefix        as IO, with the whole name as the tag.

E- S- M-, or L- U-, are prefixes in the whole set where some tag written with one of them is written with B- or
I- too; a tag that has S- or U- alone (`S-TITLE`) is then one of single tokens. Without such a tag, a label such
as `E-MAIL` keeps its head. A label without prefix in a set that has some (`MISC` beside `B-PER`, also `b-per`,
`B_PER`, `PER-B`) is an inside label with its whole name as the tag, as transformers reads it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OUTSIDE = "O"
# Prefixes beyond B- and I-, with the scheme they belong to.
_CLOSING_FAMILIES = {"ESM": "BIOES", "LU": "BILOU"}


class LabelScheme(enum.StrEnum):
    """How the prefixes of a label set work; the module's header has the table."""

    IOB = "IOB"
    BIOES = "BIOES"
    BILOU = "BILOU"
    IO = "IO"
    PLAIN = "PLAIN"


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a model; every tuple is indexed by label id.

    names: as the model has them. prefixes: one letter, or "" where the name has none.
    tags: as entities are answered, which `runtime.rename_labels` may have renamed; full_names: with the prefix before.
    outside: the id of `O`, or None for a model that labels every token (part-of-speech taggers).
    opens: True where the label always starts an entity (B- S- U-).
    closes: True where the label always ends one (E- L- S- U-).
    tag_ids: equal for labels of the same tag of the model; -1 where the tag is `O`, which is never an entity.
    """

    names: tuple[str, ...]
    prefixes: tuple[str, ...]
    tags: tuple[str, ...]
    scheme: LabelScheme
    outside: int | None
    opens: tuple[bool, ...]
    closes: tuple[bool, ...]
    tag_ids: tuple[int, ...]
    full_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def entity_labels(self) -> tuple[str, ...]:
        """The labels that entities may have, each once, in the model's order."""
        found = (tag for tag, tag_id in zip(self.tags, self.tag_ids, strict=True) if tag_id >= 0)
        return tuple(dict.fromkeys(found))


def parse_labels(names: Sequence[str], renamed: Mapping[str, str] | None = None) -> LabelSet:
    """Read the names of a model's labels, by label id; `nerve.checkpoint.settings` has them from `config.json`.

    renamed: new names of tags, by the model's. Tags that get one name stay entities of their own.
    """
    names = tuple(names)
    scheme = _scheme_of(names)
    letters = _letters_of(scheme)
    split = [_split(name, letters) for name in names]
    tags = tuple(tag for _, tag in split)
    prefixes = tuple(prefix for prefix, _ in split)
    known = {tag: index for index, tag in enumerate(dict.fromkeys(tags))}
    shown = tuple(tag if tag == OUTSIDE else (renamed or {}).get(tag, tag) for tag in tags)
    return LabelSet(
        names=names,
        prefixes=prefixes,
        tags=shown,
        scheme=scheme,
        outside=names.index(OUTSIDE) if OUTSIDE in names else None,
        opens=tuple(prefix in ("B", "S", "U") for prefix in prefixes),
        closes=tuple(prefix in ("E", "L", "S", "U") for prefix in prefixes),
        tag_ids=tuple(-1 if tag == OUTSIDE else known[tag] for tag in tags),
        full_names=tuple(
            f"{prefix}-{tag}" if prefix else tag for prefix, tag in zip(prefixes, shown, strict=True)
        ),
    )


@lru_cache(maxsize=16)
def results_type(names: tuple[str, ...]) -> Callable[..., object]:
    """Return what makes, of a score for each label, a value that encodes as the dict {label: score} does.

    A struct: made in a fifth of the time that the dict takes. Where a label cannot name a field (msgspec wants names
    that JSON need not escape) it is the dict itself.
    """
    fields = [f"score_{index}" for index in range(len(names))]
    try:
        return msgspec.defstruct(
            "Results",
            [(field, float) for field in fields],
            rename=dict(zip(fields, names, strict=True)),
            frozen=True,
            gc=False,
        )
    except ValueError:
        return lambda *scores: _add_up(names, scores)


def _add_up(names: tuple[str, ...], scores: Sequence[float]) -> dict[str, float]:
    """Give each name once: a name of several labels has the probability of any of them."""
    found: dict[str, float] = {}
    for name, score in zip(names, scores, strict=True):
        found[name] = found.get(name, 0.0) + score
    return found


def _scheme_of(names: tuple[str, ...]) -> LabelScheme:
    tags: dict[str, set[str]] = {}  # prefix letter -> the tags written with it
    for name in names:
        if name[1:2] == "-":
            tags.setdefault(name[0], set()).add(name[2:])
    spans = tags.get("B", set()) | tags.get("I", set())
    for letters, scheme in _CLOSING_FAMILIES.items():
        if any(spans & tags.get(letter, set()) for letter in letters):
            return LabelScheme(scheme)
    if "B" in tags:
        return LabelScheme.IOB
    return LabelScheme.IO if "I" in tags else LabelScheme.PLAIN


def _letters_of(scheme: LabelScheme) -> str:
    match scheme:
        case LabelScheme.BIOES:
            return "BIESM"
        case LabelScheme.BILOU:
            return "BILU"
        case LabelScheme.IOB | LabelScheme.IO | LabelScheme.PLAIN:
            return "BI"


def _split(name: str, letters: str) -> tuple[str, str]:
    if name[1:2] == "-" and name[0] in letters:
        return name[0], name[2:]
    return "", name
