"""A cluster of two nodes on this machine, and what tests of corpora need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from builders import write_config, write_lookup_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a config file that serves the lookup model with a rule."""
    folder = tmp_path_factory.mktemp("lookup")
    return write_config(
        folder / "config.yaml",
        write_lookup_model(folder / "model"),
        runtime={"patterns": ["email"]},
        limits={"max_input_tokens": 1_000, "max_request_tokens": 2_000},
    )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Start a head of one core; a test adds nodes."""
    # Ray makes sockets in there, whose paths must be short.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    (Path(folder) / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", folder)
    head = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
