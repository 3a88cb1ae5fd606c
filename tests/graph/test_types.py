"""Every token-classification type of transformers is built, exported, refused or said to be untried."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nerve.graph.architectures import FAMILIES, NotBuildable, find_family
from nerve.graph.exportable import REFUSED

REPOSITORY = Path(__file__).parents[2]
TYPES: dict[str, dict[str, str]] = json.loads((REPOSITORY / "tests/parity/types.json").read_text())["types"]
PAGE = (REPOSITORY / "docs/explanation/architectures.md").read_text()
STATES = ("built", "exported", "refused", "untried")


def test_what_is_built_is_what_the_table_says() -> None:
    """A new family gets its row, and no row promises a family that is not there."""
    assert {name for name, row in TYPES.items() if row["state"] == "built"} == set(FAMILIES)
    assert {row["state"] for row in TYPES.values()} <= set(STATES)
    assert all(row.get("why") for row in TYPES.values() if row["state"] in ("refused", "untried"))


def test_what_is_refused_is_refused_before_weights_are_fetched() -> None:
    """What export refuses at once is what the table says."""
    assert {name for name, row in TYPES.items() if row["state"] == "refused"} == set(REFUSED)


@pytest.mark.parametrize("state", STATES)
def test_the_page_lists_the_types(state: str) -> None:
    """Each type stands under its state."""
    _, _, rest = PAGE.partition(f"**{state.capitalize()}**")
    part = re.split(r"\n\*\*[A-Z]|\n## ", rest)[0]
    listed = set(re.findall(r"`([a-z0-9_-]+)`", part))
    assert {name for name, row in TYPES.items() if row["state"] == state} == listed & set(TYPES)


@pytest.mark.parametrize("name", sorted(set(TYPES) - set(FAMILIES)))
def test_others_are_not_guessed(name: str) -> None:
    """No type is taken for one that is near."""
    with pytest.raises(NotBuildable, match=f"model type {name} is not one that can be built"):
        find_family({"model_type": name})
