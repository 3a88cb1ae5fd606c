"""What cloud platforms say by variables of their own, and the keys that they mean."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# SageMaker, Vertex AI.
KEYS = {
    "SAGEMAKER_BIND_TO_PORT": "server.port",
    "AIP_HTTP_PORT": "server.port",
    "AIP_HEALTH_ROUTE": "server.vertex_health_route",
    "AIP_PREDICT_ROUTE": "server.vertex_predict_route",
}


def said_by_platform(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return what a platform says: by key, the variable and its text. An empty variable says nothing."""
    if environment.get("AIP_STORAGE_URI"):
        log.warning(
            "AIP_STORAGE_URI names a model in Cloud Storage, which is not read: the model is the one that the "
            "configuration names"
        )
    return {key: (name, text) for name, key in KEYS.items() if (text := environment.get(name))}
