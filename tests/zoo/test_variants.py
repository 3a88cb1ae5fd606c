"""Variants of what people serve, against transformers: another oddity in each (`variants.py` has the table).

Here are those that neither the zoo nor the cases of vocabularies cover; `make variants` makes and tries them all, for
which NERVE_VARIANTS names their folder.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nerve
from nerve.errors import StartupError
from zoo.answers import STRATEGIES, find_difference, flatten
from zoo.test_zoo import serving_by_name

HERE = Path(__file__).parent
ALL = os.environ.get("NERVE_VARIANTS")


def names_of(folder: str | None) -> list[str]:
    """Return the variants that are there."""
    if folder is not None:
        return sorted(file.stem for file in Path(folder, "references").iterdir())
    with tarfile.open(HERE / "variants.tar.xz") as archive:
        members = [Path(name) for name in archive.getnames()]
    return sorted(member.stem for member in members if member.parent.name == "references" and member.suffix)


NAMES = names_of(ALL)
# transformers finds no weights under these names, either, and would draw the model at random.
REFUSED = {"variant--prefix-module", "variant--prefix-model", "variant--prefix-of-another"}


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `models/SLUG`, `references/SLUG.json` and `texts.json`."""
    if ALL is not None:
        return Path(ALL)
    folder = tmp_path_factory.mktemp("variants")
    with tarfile.open(HERE / "variants.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def by_name(
    variants: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Serves a repository by its name, from a hub, with nothing here before."""
    yield from serving_by_name(variants, tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("slug", sorted(set(NAMES) - REFUSED))
def test_variants_equal_transformers(
    variants: Path, by_name: Callable[[str], dict[str, Any]], slug: str
) -> None:
    """Ids, offsets, entities of every strategy, scores within 1e-4: from a folder, and from a hub by the name alone."""
    texts = json.loads((variants / "texts.json").read_text())["texts"]
    reference = json.loads((variants / "references" / f"{slug}.json").read_text())
    with nerve.load(variants / "models" / slug, threads=1) as classifier:
        for strategy in STRATEGIES:
            answers = classifier.predict(texts, strategy, truncate=True)  # type: ignore[arg-type]
            differences = [
                (number, what)
                for number, rows in enumerate(answers)
                if (what := find_difference(reference, number, strategy, flatten(rows)))
            ]
            assert differences == [], strategy
    row = by_name(slug)
    assert (row["foreseen"], row["refused"], row["differences"]) == (None, None, [])


@pytest.mark.parametrize("slug", sorted(REFUSED & set(NAMES)))
def test_names_of_no_known_prefix_are_refused(
    variants: Path, by_name: Callable[[str], dict[str, Any]], slug: str
) -> None:
    """The line names what is there; `nerve show` knows it before the weights come."""
    with pytest.raises(StartupError, match=r"\(there is .*under which transformers does not find it"):
        nerve.load(variants / "models" / slug)
    row = by_name(slug)
    assert "rename the tensors" in row["refused"]
    assert "rename the tensors" in row["foreseen"]
