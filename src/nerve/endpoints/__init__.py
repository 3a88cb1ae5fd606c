"""What clients speak: one module per wire format, behind one protocol, and the table of them.

A new format is a new module and one row in `BUILT_IN`. A package of somebody else's adds one by an entry point of
the group `nerve.endpoints`, whose name is the endpoint's and whose object is called as those of the table are.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from nerve.endpoints.predict_tokens import PredictTokens
from nerve.endpoints.redact import RedactEndpoint
from nerve.errors import ConfigError

if TYPE_CHECKING:
    from nerve.config import Config
    from nerve.endpoints.protocol import Endpoint

GROUP = "nerve.endpoints"

# Name, as in `server.endpoints` -> what makes the endpoint from the configuration.
BUILT_IN: dict[str, Callable[[Config], Endpoint]] = {
    PredictTokens.name: PredictTokens,
    RedactEndpoint.name: RedactEndpoint,
}


def create_endpoints(config: Config) -> dict[str, Endpoint]:
    """Return the endpoints that the configuration asks for by the routes that are posted to, `/` among them.

    Raises `ConfigError`.
    """
    known: dict[str, Callable[[Config], Endpoint] | EntryPoint] = {
        **{point.name: point for point in entry_points(group=GROUP)},
        **BUILT_IN,
    }
    names = list(known) if config.server.endpoints is None else config.server.endpoints
    served: dict[str, Endpoint] = {}
    for name in names:
        if name not in known:
            raise ConfigError(f"server.endpoints: unknown endpoint {name}; known: {', '.join(sorted(known))}")
        factory = known[name]
        endpoint = _create(name, factory, config)
        for route in endpoint.routes:
            if route in served:
                raise ConfigError(
                    f"server.endpoints: {served[route].name} and {name} both serve {route}; leave one out"
                )
            served[route] = endpoint
    default = config.runtime.webserver_default_route
    if default not in served:
        routes = ", ".join(sorted(served))
        raise ConfigError(
            f"runtime.webserver_default_route: nothing is served at {default}; served by POST: {routes}"
        )
    return {**served, "/": served[default]}


def _create(name: str, factory: Callable[[Config], Endpoint] | EntryPoint, config: Config) -> Endpoint:
    """Make an endpoint; one of another package may fail in any way."""
    if not isinstance(factory, EntryPoint):
        return factory(config)
    try:
        endpoint: Endpoint = factory.load()(config)
    except Exception as error:
        raise ConfigError(
            f"server.endpoints: {name}, of another package ({factory.value}), cannot be made: "
            f"{type(error).__name__}: {error}"
        ) from error
    return endpoint
