"""Messages about the configuration name the key, the value that stands there, and what could stand there."""

from pathlib import Path
from typing import Any

import pytest

from nerve.config import parse_config
from nerve.errors import ConfigError

MODEL: dict[str, Any] = {"checkpoint_repository": {"source": "LOCAL", "path": "."}}
SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"server": {"port": "abc"}}, "server.port: expected `int`, got `str`; it is 'abc'"),
        ({"server": {"port": 99999}}, "server.port: expected `int` <= 65535; it is 99999"),
        ({"cpu": {"mode": "fast"}}, "cpu.mode: invalid enum value 'fast'; known: auto, latency, throughput"),
        (
            {"runtime": {"patterns": ["url", "mail"]}},
            "runtime.patterns[1]: invalid enum value 'mail'; known: email, url, ip_address, credit_card, iban, us_ssn, "
            "phone_number",
        ),
        ({"server": 5}, "server: expected `object`, got `int`; it is 5"),
        (
            {"cpu": {"threads": "x" * 200}},
            f"cpu.threads: expected `int | null`, got `str`; it is '{'x' * 59}",
        ),
    ],
)
def test_the_value_stands_in_the_message(changed: dict[str, Any], message: str) -> None:
    """Whoever overrides a key from three places sees which value it was."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"model": MODEL, **changed}, {}, Path.cwd())
    assert str(caught.value) == message


def test_no_secret_stands_in_a_message() -> None:
    """A salt, or the name of a file with a key, is shown to nobody."""
    operators = {"DEFAULT": {"type": "hash", "hash_type": 5, "salt": SECRET}}
    for redaction in ({"operators": operators}, {"key_file": [SECRET]}, {"key_file": 12345678}):
        with pytest.raises(ConfigError) as caught:
            parse_config({"model": MODEL, "redaction": redaction}, {}, Path.cwd())
        assert SECRET not in str(caught.value)
        assert "12345678" not in str(caught.value)
