"""Operators that need what one process alone has: numbers that count through a file, the key of pseudonyms.

Whoever answers keeps what such an operator is for (`split`), and `LateOperators` puts the rest in its place, in the
order of the rows. So numbers and pseudonyms are the same wherever texts are answered, and the key stays here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nerve.config.operators import DEFAULT, Hash, Keep, Number, Operator, Replace
from nerve.corpus.records import Answer
from nerve.text.operators import Numbers, apply_operator
from nerve.text.redaction import Item

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.corpus.records import Record
    from nerve.corpus.sources import Source


_decode_items = msgspec.json.Decoder(list[Item]).decode


def counts(operators: Mapping[str, Operator]) -> bool:
    """Tell whether an operator counts through its file, which then must be answered from its first row on."""
    return any(isinstance(operator, Number) for operator in operators.values())


def needs_key(operators: Mapping[str, Operator]) -> bool:
    """Tell whether an operator makes pseudonyms with the key."""
    return any(isinstance(operator, Hash) and operator.salt is None for operator in operators.values())


class LateOperators:
    """Puts in place what `split` has kept.

    key: of pseudonyms that are made here; None where they are made elsewhere.
    """

    def __init__(self, operators: Mapping[str, Operator], key: bytes | None) -> None:
        self._key = key
        self._operators = operators
        self._default = operators.get(DEFAULT, Replace())
        self._source: Source | None = None
        self._numbers = Numbers()

    @property
    def counts(self) -> bool:
        """Tell whether a file must be answered from its first row on."""
        return counts(self._operators)

    def split(self) -> dict[str, Operator]:
        """Return what others are asked to do."""
        chosen = {DEFAULT: self._default, **self._operators}
        return {label: Keep() if self._is_late(operator) else operator for label, operator in chosen.items()}

    def finish(self, source: Source, record: Record, answer: Answer) -> Answer:
        """Return an answer with the operators that are left; the rows of a source must come in order."""
        if source is not self._source:
            self._source, self._numbers = source, Numbers()
        if answer.text is None:
            return answer
        found = _decode_items(answer.found) if isinstance(answer.found, msgspec.Raw) else answer.found
        parts: list[str] = []
        items: list[Item] = []
        position = moved = 0  # in the text as others left it; how far what follows has moved since
        for item in found:
            assert isinstance(item, Item)  # noqa: S101 - of a redaction
            operator = self._operators.get(item.label, self._default)
            new = old = answer.text[item.redacted_start : item.redacted_end]
            if self._is_late(operator):
                value = record.text[item.start : item.end]
                new = apply_operator(operator, item.label, value, self._key or b"", self._numbers)
            parts += (answer.text[position : item.redacted_start], new)
            position = item.redacted_end
            start = item.redacted_start + moved
            moved += len(new) - len(old)
            items.append(
                msgspec.structs.replace(
                    item, redacted_start=start, redacted_end=start + len(new), operator=operator.name
                )
            )
        parts.append(answer.text[position:])
        return Answer("".join(parts), items, answer.labels)

    def _is_late(self, operator: Operator) -> bool:
        return isinstance(operator, Number) or (
            self._key is not None and isinstance(operator, Hash) and operator.salt is None
        )
