"""What clients speak: one module per wire format, behind one protocol, and the table of them.

A new format is a new module and one row in `BUILT_IN`. A package of somebody else's adds one by an entry point of
the group `nerve.endpoints`, whose name is the endpoint's and whose object is called as those of the table are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from nerve.endpoints.agentgateway import AgentGateway
from nerve.endpoints.huggingface import HuggingFace
from nerve.endpoints.kserve_v1 import KServeV1
from nerve.endpoints.litellm import LiteLlm
from nerve.endpoints.nemo import Nemo
from nerve.endpoints.open_inference import OpenInference
from nerve.endpoints.predict_tokens import PredictTokens
from nerve.endpoints.presidio import Presidio
from nerve.endpoints.protocol import GetRoute, PostRoute
from nerve.endpoints.redact import RedactEndpoint
from nerve.endpoints.sagemaker import SageMaker
from nerve.endpoints.vertex import Vertex
from nerve.endpoints.warehouse import Warehouse
from nerve.errors import ConfigError

if TYPE_CHECKING:
    from nerve.config import Config
    from nerve.endpoints.protocol import Endpoint, SimpleEndpoint

GROUP = "nerve.endpoints"

# Name, as in `server.endpoints` -> what makes the endpoint from the configuration.
BUILT_IN: dict[str, Callable[[Config], Endpoint]] = {
    PredictTokens.name: PredictTokens,
    RedactEndpoint.name: RedactEndpoint,
    HuggingFace.name: HuggingFace,
    OpenInference.name: OpenInference,
    KServeV1.name: KServeV1,
    SageMaker.name: SageMaker,
    Vertex.name: Vertex,
    Presidio.name: Presidio,
    LiteLlm.name: LiteLlm,
    AgentGateway.name: AgentGateway,
    Nemo.name: Nemo,
    Warehouse.name: Warehouse,
}


@dataclass(frozen=True, slots=True)
class Served:
    """What is served at a path."""

    post: PostRoute | None = None
    get: GetRoute | None = None


def create_endpoints(config: Config) -> dict[str, Served]:
    """Return what the endpoints that the configuration asks for serve, by path, `/` among them.

    Raises `ConfigError`.
    """
    known: dict[str, Callable[[Config], Endpoint] | EntryPoint] = {
        **{point.name: point for point in entry_points(group=GROUP)},
        **BUILT_IN,
    }
    names = list(known) if config.server.endpoints is None else config.server.endpoints
    served: dict[str, Served] = {}
    for name in names:
        if name not in known:
            raise ConfigError(f"server.endpoints: unknown endpoint {name}; known: {', '.join(sorted(known))}")
        factory = known[name]
        for route in _routes(_create(name, factory, config)):
            here = served.get(route.path, Served())
            other = here.post if isinstance(route, PostRoute) else here.get
            if other is not None:
                raise ConfigError(
                    f"server.endpoints: {other.endpoint} and {name} both serve {route.path}; leave one out"
                )
            served[route.path] = (
                replace(here, post=route) if isinstance(route, PostRoute) else replace(here, get=route)
            )
    root = served.pop("/", Served())  # of an endpoint that asks for it by name
    default = served.get(config.runtime.webserver_default_route, Served()).post
    if default is None:
        routes = ", ".join(sorted(path for path, here in served.items() if here.post is not None))
        raise ConfigError(
            f"runtime.webserver_default_route: nothing is served at {config.runtime.webserver_default_route}; "
            f"served by POST: {routes}"
        )
    return {**served, "/": replace(root, post=root.post or replace(default, path="/"))}


def _routes(endpoint: Endpoint) -> Iterator[PostRoute | GetRoute]:
    """Yield the routes of an endpoint, with its name."""
    for route in endpoint.routes:
        if isinstance(route, str):
            simple = cast("SimpleEndpoint", endpoint)
            yield PostRoute(route, simple.choose_codec, simple.describe, endpoint=simple.name)
        else:
            yield replace(route, endpoint=endpoint.name)


def _create(name: str, factory: Callable[[Config], Endpoint] | EntryPoint, config: Config) -> Endpoint:
    """Make an endpoint; one of another package may fail in any way."""
    if not isinstance(factory, EntryPoint):
        return factory(config)
    try:
        endpoint: Endpoint = factory.load()(config)
    except Exception as error:
        raise ConfigError(
            f"server.endpoints: {name}, of another package ({factory.value}), cannot be made: "
            f"{type(error).__name__}: {error}; leave it out of server.endpoints, or mend that package"
        ) from error
    return endpoint
