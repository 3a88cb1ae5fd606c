"""What people serve: a tiny checkpoint of each of 60 repositories, with the same files, against transformers.

`make zoo` makes zoo.tar.xz anew. The tests need neither PyTorch nor transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import nerve
from hub_stand_in import HubStandIn, read_folder
from nerve.config import cache_dir_of, choose_config
from nerve.errors import StartupError
from nerve.graph.architectures import FAMILIES
from nerve.models.outlook import foresee
from zoo.answers import STRATEGIES, find_difference, flatten

HERE = Path(__file__).parent
ENTRIES = {entry["slug"]: entry for entry in json.loads((HERE / "zoo.json").read_text())["entries"]}


def is_served(entry: dict[str, Any]) -> bool:
    """Tell whether there is a way to serve a repository: its architecture is built, or it brings a graph."""
    return entry["model_type"] in FAMILIES or any(name.endswith(".onnx") for name in entry["files"])


SERVED = sorted(slug for slug, entry in ENTRIES.items() if is_served(entry))
REFUSED = sorted(ENTRIES.keys() - set(SERVED))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `models/SLUG`, `references/SLUG.json` and `texts.json`."""
    folder = tmp_path_factory.mktemp("zoo")
    with tarfile.open(HERE / "zoo.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("slug", SERVED)
def test_answers_equal_transformers(zoo: Path, slug: str) -> None:
    """Ids, offsets, entities of every strategy, and scores within 1e-4; aggregation.md documents what differs."""
    texts = json.loads((zoo / "texts.json").read_text())["texts"]
    reference = json.loads((zoo / "references" / f"{slug}.json").read_text())
    with nerve.load(zoo / "models" / slug, threads=1) as classifier:
        found = {}
        for strategy in STRATEGIES:
            answers = classifier.predict(texts, strategy, truncate=True)  # type: ignore[arg-type]
            differences = [
                (number, what)
                for number, rows in enumerate(answers)
                if (what := find_difference(reference, number, strategy, flatten(rows)))
            ]
            if differences:
                found[strategy] = differences
    assert not found


@pytest.mark.parametrize("slug", REFUSED)
def test_what_is_not_built_is_refused_with_the_remedy(zoo: Path, slug: str) -> None:
    """One line that names the model type, and `nerve export`."""
    with pytest.raises(StartupError) as refusal:
        nerve.load(zoo / "models" / slug)
    message = str(refusal.value)
    assert ENTRIES[slug]["model_type"] in message
    assert "nerve export" in message
    assert "\n" not in message


def serving_by_name(zoo: Path, home: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Yield what serves a repository of `zoo` by its name, from a hub, with nothing in `home` before; once for each."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NERVE_"))}
    with (
        HubStandIn(read_folder(zoo / "models")) as hub,
        (home / "stderr").open("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "zoo.by_name", str(zoo)],
            cwd=HERE.parent,
            env={**kept, "HOME": str(home), "HF_ENDPOINT": hub.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child,
    ):

        @cache
        def ask(slug: str) -> dict[str, Any]:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(slug + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            assert answer, (home / "stderr").read_text()[-2000:]
            found: dict[str, Any] = json.loads(answer)
            return found

        yield ask


@pytest.fixture(scope="session")
def by_name(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Serves a repository by its name, from a hub, with nothing here before; once for each."""
    yield from serving_by_name(zoo, tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("slug", SERVED)
def test_a_name_is_enough(by_name: Callable[[str], dict[str, Any]], slug: str) -> None:
    """From the hub, too, answers equal transformers'."""
    row = by_name(slug)
    assert (row["refused"], row["differences"]) == (None, [])


@pytest.mark.parametrize("slug", sorted(ENTRIES))
def test_show_says_what_a_start_does(by_name: Callable[[str], dict[str, Any]], slug: str) -> None:
    """Before anything is fetched, `nerve show` refuses what a start refuses, and names the files that it reads."""
    row = by_name(slug)
    assert (row["foreseen"] is None) == (row["refused"] is None) == (slug in SERVED)
    if row["refused"] is None:
        assert row["tokenizer"] in row["files"]
    else:
        assert ENTRIES[slug]["model_type"] in row["foreseen"]


# Those that are refused, and as many of other kinds that are not.
FOLDERS = sorted({*(set(ENTRIES) - set(SERVED)), *sorted(SERVED)[::12]})


@pytest.mark.parametrize("slug", FOLDERS)
def test_show_says_of_a_folder_what_a_start_does(zoo: Path, slug: str) -> None:
    """It refuses what a start refuses, in its words, and names the files that a start reads."""
    folder = zoo / "models" / slug
    config = choose_config(str(folder), None)
    outlook = foresee(config, cache_dir_of(config))
    refusal = None
    try:
        nerve.load(folder, threads=1).close()
    except StartupError as error:
        refusal = str(error)
    assert outlook.refused == refusal
    if refusal is None:
        assert outlook.tokenizer["file"] in [file.name for file in outlook.files]
