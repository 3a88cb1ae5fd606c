"""Fixtures that every test may use; the builders are in `builders`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from builders import ServerProcess, start_server, write_config, write_lookup_model
from nerve.checkpoint import fetch_checkpoint
from nerve.config import default_cache_dir, load_config
from nerve.graph import is_buildable

REPOSITORY = Path(__file__).parent.parent

# The time of an example is that of a machine that others use, too.
settings.register_profile("nerve", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=4_000)  # `make fuzz`
settings.load_profile("nerve")


@pytest.fixture(scope="session")
def rampart() -> Path:
    """Folder of the default model, fetched as a user's first start does."""
    model = load_config(REPOSITORY / "config.yaml").model
    return fetch_checkpoint(model, default_cache_dir(), is_buildable=is_buildable).path


@pytest.fixture(scope="session")
def lookup_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the lookup model: 16 tokens at most, labels O, PER, LOC."""
    return write_lookup_model(tmp_path_factory.mktemp("lookup") / "model")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of its own with 1 MB; only root can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False)  # noqa: S607
    if mounted.returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S607


@pytest.fixture
def serve(tmp_path: Path, lookup_model: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers of the lookup model: `serve(limits={"max_inputs": 2})`; they end with the test."""
    running: list[ServerProcess] = []

    def start(
        environment: dict[str, str] | None = None, wait: bool = True, **sections: dict[str, Any]
    ) -> ServerProcess:
        folder = Path(sections.pop("folder", lookup_model))  # type: ignore[arg-type]
        config = write_config(tmp_path / f"config-{len(running)}.yaml", folder, **sections)
        server = start_server(config, environment, wait)
        running.append(server)
        return server

    yield start
    for server in running:
        server.close_connections()
        server.stop()
