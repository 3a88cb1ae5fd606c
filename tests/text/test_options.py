"""Options that are chosen by name."""

import pytest

from nerve.errors import InvalidRequest
from nerve.text.options import member_of
from nerve.types import AggregationStrategy, OffsetUnit


def test_value_is_read_as_its_member() -> None:
    """A member stands for itself."""
    assert member_of(OffsetUnit, "utf16", "offset_unit") is OffsetUnit.UTF16
    assert member_of(AggregationStrategy, AggregationStrategy.MAX, "strategy") is AggregationStrategy.MAX


def test_unknown_value_is_refused_without_quoting_it() -> None:
    """It could be input text in the wrong place; what is known is named."""
    with pytest.raises(InvalidRequest) as caught:
        member_of(OffsetUnit, "Anna Smith", "offset_unit")
    assert str(caught.value) == "offset_unit: unknown value; known values: code_point, utf16, byte"
