"""The name of the model in paths: config `model.name`, else from where the checkpoint comes from."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nerve.config import Config


def model_name(config: Config) -> str:
    """Return the name that routes have for the model."""
    checkpoint = config.model.checkpoint_repository
    return PurePath(checkpoint.path or checkpoint.repo or "").name
