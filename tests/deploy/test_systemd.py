"""The systemd unit: systemd understands it, and its limits fit the server's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "deploy" / "systemd" / "nerve.service"
ANALYZE = shutil.which("systemd-analyze")


def settings() -> dict[str, str]:
    """Return the settings of the unit; of those that stand there several times, all words."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found[name] = f"{found[name]} {value}" if name in found else value
    return found


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze: Debian's package systemd has it")
@pytest.mark.parametrize("drop", ["", "LoadCredential", "CPUWeight", "MemoryMax"])
def test_systemd_understands_it(tmp_path: Path, drop: str) -> None:
    """`systemd-analyze verify` says nothing, with what is commented out switched on, too."""
    text = UNIT.read_text()
    if drop:
        assert f"\n#{drop}=" in text
        text = text.replace(f"\n#{drop}=", f"\n{drop}=")
    # It looks for the program and the user, which are not here.
    text = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={shutil.which('true')}", text)
    (tmp_path / UNIT.name).write_text(re.sub(r"(?m)^(User|Group)=.*$", r"\1=root", text))
    done = subprocess.run(
        [str(ANALYZE), "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_limits_fit_the_server() -> None:
    """It may finish what it has taken, and hold as many connections as it is configured for."""
    unit = settings()
    server = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["server"]
    assert int(unit["TimeoutStopSec"]) * 1000 > server["drain_timeout_ms"] + server["drain_delay_ms"]
    assert int(unit["LimitNOFILE"]) > server["max_connections"] + 128
    assert unit["KillMode"] == "mixed"  # the server stops its workers itself
    assert unit["Restart"] == "on-failure"  # status 0 is a stop that was asked for
    assert unit["RuntimeDirectory"] == "nerve"  # /run/nerve/nerve.sock, as in nginx.conf
    assert "/run/nerve/nerve.sock" in (REPOSITORY / "deploy" / "nginx.conf").read_text()
