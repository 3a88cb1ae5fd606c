"""Finds a model folder on this machine: source LOCAL. It is used where it is; nothing is copied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nerve.checkpoint.folder import ModelFolder
from nerve.errors import CheckpointError

if TYPE_CHECKING:
    from nerve.checkpoint.choice import BuildCheck
    from nerve.config import ModelConfig


def fetch(
    model: ModelConfig, cache_dir: Path, *, is_buildable: BuildCheck, show_progress: bool = False
) -> ModelFolder:
    """Return the folder that `checkpoint_repository.path` names. Raises `CheckpointError`."""
    folder = Path(model.checkpoint_repository.path or "")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"checkpoint_repository.path: {folder} {what}; name a model folder")
    return ModelFolder(folder, folder.resolve().name, "")
