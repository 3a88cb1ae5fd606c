"""Variables such as NERVE_SERVER_PORT, which set nothing, are told of with the key that was meant."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from builders import write_config
from nerve.config import choose_config
from nerve.config.strays import warn_of_strays


def warnings_of(caplog: pytest.LogCaptureFixture, **environment: str) -> list[str]:
    """Return what is said of an environment."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="nerve"):
        warn_of_strays(environment)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NERVE_SERVER_PORT", "NERVE_SERVER__PORT, for server.port"),
        ("NERVE_PORT", "NERVE_SERVER__PORT, for server.port"),
        ("NERVE_SERVER_ACCESS_LOG", "NERVE_SERVER__ACCESS_LOG, for server.access_log"),
        ("NERVE_HTTP_PORT", "NERVE_SERVER__PORT, for server.port"),
        ("NERVE_SERVER_TLS_CERT", "NERVE_SERVER__TLS__CERTIFICATE, for server.tls.certificate"),
        ("NERVE_MAX_LENGHT", "NERVE_MODEL__MAX_LENGTH, for model.max_length"),
        ("NERVE_CHECKPOINT_REPOSITORY_PATH", "NERVE_MODEL__CHECKPOINT_REPOSITORY__PATH"),
        ("NERVE_APIKEY", "did you mean NERVE_API_KEY?"),
        ("NERVE_SERVER_API_KEY", "did you mean NERVE_API_KEY?"),
        ("NERVE_MODEL", "model is a section, whose keys are NERVE_MODEL__KEY"),
        ("NERVE_", "keys are NERVE_SECTION__KEY"),
        ("NERVE_ZZZ", "keys are NERVE_SECTION__KEY"),
    ],
)
def test_nearest_key_is_named(caplog: pytest.LogCaptureFixture, name: str, meant: str) -> None:
    """One underscore, a section left out, a slip of the pen: the message says what to write; never the value."""
    (message,) = warnings_of(caplog, **{name: "s3cret"})
    assert message.startswith(f"{name} sets nothing")
    assert meant in message
    assert "s3cret" not in message


@pytest.mark.parametrize("service", ["NERVE", "NERVE_METRICS", "NERVE_2"])
@pytest.mark.parametrize(
    ("ending", "value"),
    [
        ("SERVICE_HOST", "10.96.0.7"),
        ("SERVICE_PORT", "80"),
        ("SERVICE_PORT_HTTP_ADMIN", "80"),
        ("PORT", "tcp://10.96.0.7:80"),
        ("PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("PORT_80_TCP_PROTO", "tcp"),
        ("PORT_53_UDP_PORT", "53"),
        ("PORT_80_TCP_ADDR", "10.96.0.7"),
    ],
)
def test_variables_of_kubernetes_are_not_ours(
    caplog: pytest.LogCaptureFixture, service: str, ending: str, value: str
) -> None:
    """Of a service called nerve, or nerve-metrics, every container of the namespace gets these."""
    assert warnings_of(caplog, **{f"{service}_{ending}": value}) == []


def test_settings_and_others_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    """What sets something, and what is not ours, is no stray."""
    known = {"NERVE_SERVER__PORT": "1", "NERVE_CONFIG": "x", "NERVE_API_KEY": "k", "NERVE_REDACTION_KEY": "k"}
    assert warnings_of(caplog, **known, PATH="/bin", MYNERVE_PORT="1", NERVEPORT="1") == []


@pytest.mark.parametrize("by_file", [True, False])
def test_every_start_looks(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    lookup_model: Path,
    by_file: bool,
) -> None:
    """With a config file and with a folder alike; once."""
    monkeypatch.setenv("NERVE_SERVER_PORT", "9000")
    model = write_config(tmp_path / "config.yaml", lookup_model) if by_file else lookup_model
    with caplog.at_level(logging.WARNING, logger="nerve"):
        config = choose_config(model)
    assert config.server.port != 9000
    assert [message.partition(" sets")[0] for message in caplog.messages] == ["NERVE_SERVER_PORT"]
