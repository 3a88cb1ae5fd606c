"""Messages about the configuration name the key, the value that stands there, and what could stand there."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nerve.config import Config, parse_config
from nerve.config.explaining import section_in
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


def keys(section: Any = Config, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the path of every key."""
    for field in msgspec.structs.fields(section):
        below = section_in(field.type)
        if below is None:
            yield (*path, field.name)
        else:
            yield from keys(below, (*path, field.name))


@pytest.mark.parametrize("path", list(keys()), ids=".".join)
def test_every_key_says_what_is_wrong_with_its_value(path: tuple[str, ...]) -> None:
    """Whatever stands there: the key is named, a plain value is quoted, and nobody has to read an expression."""
    n_refused = 0
    for wrong in ({"x": 1}, [["a"]], "???", "", -7, 1e99, True):
        document: dict[str, Any] = {"model": copy.deepcopy(MODEL)}
        section = document
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = wrong
        try:
            parse_config(document, {}, Path.cwd())
        except ConfigError as error:
            n_refused += 1
            message = str(error)
            named, said, rest = message.partition(": ")
            assert said, message
            key = ".".join(path)
            if named == key:
                is_plain = isinstance(wrong, str | int | float) and "key" not in path[-1]
                assert not is_plain or repr(wrong) in rest or "bool" in rest, message
            elif not named.startswith(key):  # what is missing beside it, or what its section says of it
                assert key.startswith(named.rpartition(".")[0]), message
                assert "required" in rest or path[-1] in rest, message
            assert "regex" not in message
            assert "\n" not in message
    assert n_refused >= 4
