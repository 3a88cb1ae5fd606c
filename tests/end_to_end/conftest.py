"""Servers that tests share; each must leave them as it found them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import ServerProcess, start_server, write_config, write_troubled_model

# What no log may hold after the tests of a shared server, whatever they sent.
SIGNS_OF_A_DEFECT = (
    "never retrieved",
    "never awaited",
    "ResourceWarning",
    "defect while",
    "Unexpected exit",
    "panicked",
    "Application callable raised",
)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, lookup_model: Path) -> Iterator[ServerProcess]:
    """Run a server of the lookup model with small limits."""
    config = write_config(
        tmp_path_factory.mktemp("server") / "config.yaml",
        lookup_model,
        limits={"max_inputs": 8, "max_input_tokens": 20_000, "max_body_bytes": 2_000_000},
        batching={"max_batch_tokens": 512},
    )
    yield from running(config)


@pytest.fixture(scope="session")
def troubled_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model that each "x" slows down and each "y" makes fail."""
    return write_troubled_model(tmp_path_factory.mktemp("troubled") / "model")


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory, troubled_model: Path) -> Iterator[ServerProcess]:
    """Run the troubled model: one engine thread, one window a call, room for 40 waiting tokens."""
    config = write_config(
        tmp_path_factory.mktemp("troubled-server") / "config.yaml",
        troubled_model,
        batching={"max_queue_tokens": 40, "max_queue_ms": None, "max_batch_size": 1},
        limits={"request_timeout_ms": 100_000},
        cpu={"threads": 1},
    )
    yield from running(config)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, lookup_model: Path) -> Iterator[ServerProcess]:
    """Run a server that wants the API key `s3cret-key`."""
    config = write_config(tmp_path_factory.mktemp("guarded") / "config.yaml", lookup_model)
    yield from running(config, {"NERVE_API_KEY": "s3cret-key"})


def running(config: Path, environment: dict[str, str] | None = None) -> Iterator[ServerProcess]:
    """Run a server for as long as its fixture lives; its log must show no defect at the end."""
    started = start_server(config, {"PYTHONASYNCIODEBUG": "1", **(environment or {})})
    yield started
    started.client.close()
    assert started.stop() == 0
    found = [sign for sign in SIGNS_OF_A_DEFECT if sign in started.log()]
    assert not found, started.log()
