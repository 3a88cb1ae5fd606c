"""The reference in docs/ is what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SITE = runpy.run_path(str(REPOSITORY / "docs/site/reference.py"))
MADE = SITE["pages"]()
FIGURES = SITE["figures"]


@pytest.mark.parametrize("name", sorted(MADE))
def test_page_is_of_this_code(name: str) -> None:
    """Keys, arguments, routes and metrics stand in docs/reference as they are: `make reference` writes them."""
    assert (REPOSITORY / "docs/reference" / name).read_text() == MADE[name], "run `make reference`"


def test_no_page_is_left_over() -> None:
    """What is not made any more goes."""
    assert sorted(page.name for page in (REPOSITORY / "docs/reference").glob("*.md")) == sorted(MADE)


@pytest.mark.parametrize("page", FIGURES.pages(), ids=lambda page: page.name)
def test_figures_are_of_the_result_files(page: Path) -> None:
    """README and the guide show what was measured, and nothing that somebody typed."""
    assert page.read_text() == FIGURES.filled(page), "run `make reference`"
