"""Which endpoints are served, and by which routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import write_config
from nerve.config import Config, load_config
from nerve.endpoints import create_endpoints
from nerve.errors import ConfigError


def config_with(tmp_path: Path, **sections: dict[str, Any]) -> Config:
    """Make a configuration."""
    return load_config(write_config(tmp_path / "config.yaml", tmp_path, **sections))


def test_all_are_served_unless_some_are_named(tmp_path: Path) -> None:
    """Each by its own routes, and the default one by `/` as well."""
    served = create_endpoints(config_with(tmp_path))
    assert set(served) == {"/predict_tokens", "/redact", "/"}
    assert served["/"] is served["/predict_tokens"]
    assert set(create_endpoints(config_with(tmp_path, server={"endpoints": ["predict_tokens"]}))) == {
        *("/predict_tokens", "/")
    }
    as_default = config_with(tmp_path, runtime={"webserver_default_route": "/redact"})
    assert create_endpoints(as_default)["/"].name == "redact"


@pytest.mark.parametrize("route", ["/rerank", "/v1/embeddings"])
def test_a_default_route_that_nothing_serves_is_refused(tmp_path: Path, route: str) -> None:
    """A Truss configuration for another kind of model names one; the start ends with the key."""
    config = config_with(tmp_path, runtime={"webserver_default_route": route})
    with pytest.raises(ConfigError, match=f"webserver_default_route: nothing is served at {route}"):
        create_endpoints(config)


def test_an_unknown_endpoint_is_refused(tmp_path: Path) -> None:
    """The message names the known ones."""
    with pytest.raises(
        ConfigError, match=r"server\.endpoints: unknown endpoint rerank; known: .*predict_tokens"
    ):
        create_endpoints(config_with(tmp_path, server={"endpoints": ["rerank"]}))
