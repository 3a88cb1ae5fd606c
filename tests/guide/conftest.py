"""Fixtures for the tests of pages: a hub with tiny checkpoints under the names that pages use."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doc_blocks import REPOSITORY
from hub_stand_in import HubStandIn, read_folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny checkpoint of each repository of the zoo."""
    folder = tmp_path_factory.mktemp("zoo")
    with tarfile.open(REPOSITORY / "tests/zoo/zoo.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "models"


@pytest.fixture(scope="session")
def hub(models: Path) -> Iterator[str]:
    """Address of a hub that has them."""
    with HubStandIn(read_folder(models)) as hub:
        yield hub.url
