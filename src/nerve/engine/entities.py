"""The use case of everything that answers with entities alone: the model's, and those found by rule.

A request becomes a `Query` (`EntityDefaults.query`), whose rows the engine makes as for any other; then `find_entities`
of `nerve.text.redaction` puts both kinds together for each text, and `redact` writes the text without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nerve.config import has_phonenumbers, load_redaction_key
from nerve.engine.codec import Query
from nerve.errors import InvalidRequest
from nerve.text.filters import choose_filter
from nerve.text.operators import Numbers, Operators
from nerve.text.options import member_of
from nerve.text.patterns import Patterns
from nerve.text.redaction import Redacted, find_entities, redact
from nerve.types import AggregationStrategy, EntityStrategy, OffsetUnit, PatternName, PredictOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from nerve.config import Config
    from nerve.config.operators import Operator
    from nerve.types import Entity, Row


class EntityQuery(Query, frozen=True):
    """Texts of which entities are wanted; the rows of `options` are entities with offsets in code points."""

    patterns: Patterns | None

    def entities(self, rows: Iterable[list[Row]]) -> Iterator[list[Entity]]:
        """Yield the entities of each text: in order, without overlaps, offsets in code points."""
        for text, found in zip(self.texts, rows, strict=True):
            yield find_entities(text, found, self.patterns, self.options.filter)


class RedactQuery(EntityQuery, frozen=True):
    """Texts that are wanted without their entities; offset_unit: of the offsets in the answer."""

    operators: Operators
    offset_unit: OffsetUnit

    def redacted(self, rows: Iterable[list[Row]]) -> Iterator[Redacted]:
        """Yield each text as it is wanted; numbers are those of this call."""
        numbers = Numbers()
        for text, found in zip(self.texts, rows, strict=True):
            yield self.redact_text(text, found, numbers)

    def redact_text(self, text: str, rows: list[Row], numbers: Numbers) -> Redacted:
        """Return one text as it is wanted."""
        entities = find_entities(text, rows, self.patterns, self.options.filter)
        return redact(text, entities, self.operators, numbers, self.offset_unit)


class EntityDefaults:
    """What the configuration says of entities and of what is put in their place; made once, used by any thread.

    Raises `ConfigError` for a key of pseudonyms that cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._runtime = config.runtime
        self._key = load_redaction_key(config.redaction)
        self._patterns = self._make_patterns(config.runtime.patterns)
        self._operators = Operators(config.redaction.operators, self._key)

    @property
    def pattern_labels(self) -> tuple[str, ...]:
        """The labels of what the configured patterns find."""
        return () if self._patterns is None else self._patterns.labels

    def query(
        self,
        texts: list[str],
        strategy: str | None = None,
        labels: Sequence[str] | None = None,
        min_score: float | Mapping[str, float] | None = None,
        patterns: Sequence[str] | None = None,
        labels_field: str = "labels",
    ) -> EntityQuery:
        """Return what asks for the entities of texts, defaults filled in.

        strategy: an `EntityStrategy`; None and `auto` for the model's. patterns: instead of the configured ones.
        labels_field: what the request calls `labels`. Raises `InvalidRequest`; the engine refuses labels that there are
        not.
        """
        rules = self._choose_patterns(patterns)
        return EntityQuery(texts, self._options(strategy, labels, min_score, rules, (), labels_field), rules)

    def redact_query(
        self,
        texts: list[str],
        strategy: str | None = None,
        labels: Sequence[str] | None = None,
        min_score: float | Mapping[str, float] | None = None,
        patterns: Sequence[str] | None = None,
        operators: Mapping[str, Operator] | None = None,
        offset_unit: OffsetUnit | None = None,
        prefix: str = "",
    ) -> RedactQuery:
        """Return what asks for texts without their entities, as `query`; operators: instead of the configured ones.

        prefix: of the place where these fields stand in the request, for errors.
        """
        chosen = self._operators if operators is None else Operators(operators, self._key)
        asked = [] if operators is None else [(f"{prefix}operators", label) for label in chosen.labels]
        rules = self._choose_patterns(patterns)
        return RedactQuery(
            texts,
            self._options(strategy, labels, min_score, rules, asked, prefix=prefix),
            rules,
            chosen,
            self._runtime.offset_unit if offset_unit is None else offset_unit,
        )

    def _options(
        self,
        strategy: str | None,
        labels: Sequence[str] | None,
        min_score: float | Mapping[str, float] | None,
        rules: Patterns | None,
        asked: Iterable[tuple[str, str]],
        labels_field: str = "labels",
        prefix: str = "",
    ) -> PredictOptions:
        chosen = EntityStrategy.AUTO
        if strategy is not None:
            chosen = member_of(EntityStrategy, strategy, "aggregation_strategy")
        own = None if chosen is EntityStrategy.AUTO else AggregationStrategy(chosen.value)
        also_known = () if rules is None else rules.labels
        return PredictOptions(
            aggregation_strategy=own,  # never truncated: what is not read is not found
            filter=choose_filter(
                self._runtime, own, labels, min_score, list(asked), also_known, labels_field, prefix
            ),
        )

    def _choose_patterns(self, names: Sequence[str] | None) -> Patterns | None:
        if names is None:
            return self._patterns
        chosen = [member_of(PatternName, name, "patterns") for name in names]
        if PatternName.PHONE_NUMBER in chosen and not has_phonenumbers():
            raise InvalidRequest("patterns: phone_number needs nerve[phone], which is not installed here")
        return self._make_patterns(chosen)

    def _make_patterns(self, names: Sequence[PatternName]) -> Patterns | None:
        return Patterns(names, self._runtime.rename_labels) if names else None


def read_operators(chosen: object) -> dict[str, Operator]:
    """Return operators that a program has written as the wire has them. Raises `InvalidRequest`."""
    from nerve.config.operators import Operator  # noqa: PLC0415 - a type elsewhere here

    try:
        return msgspec.convert(chosen, dict[str, Operator])
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        raise InvalidRequest(f"operators{where.rstrip('`')}: {text[0].lower()}{text[1:]}") from None
