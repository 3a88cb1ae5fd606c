"""What Vertex AI asks of a container: a probe and predictions, at paths that it names.

It sets AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE, which `nerve.config` reads; without them nothing is served here.
https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.endpoints.kserve_v1 import ERRORS, InstancesCodec, KServeV1, predict_path, predict_route
from nerve.endpoints.protocol import GetRoute, PostRoute

if TYPE_CHECKING:
    from nerve.config import Config


class Vertex:
    """The endpoint."""

    name = "vertex"

    def __init__(self, config: Config) -> None:
        server = config.server
        routes: list[PostRoute | GetRoute] = []
        health, predict = server.vertex_health_route, server.vertex_predict_route
        if health is not None:
            routes.append(
                GetRoute(
                    health, "Whether Vertex AI may send requests", b"", None, is_health=True, errors=ERRORS
                )
            )
        has_v1 = server.endpoints is None or KServeV1.name in server.endpoints
        if predict is not None and not (has_v1 and predict == predict_path(config)):
            codec = InstancesCodec(config.runtime, config.limits)
            routes.append(
                predict_route(predict, codec, "Find the entities of each text, as a container of Vertex AI")
            )
        self.routes = tuple(routes)
