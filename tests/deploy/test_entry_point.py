"""What the image runs is the command line of the package, and what it adds are the package's own arguments."""

import json
import re
import tomllib
from pathlib import Path

from nerve.cli import _parser

REPOSITORY = Path(__file__).parents[2]


def instruction(name: str) -> list[str]:
    """Return the arguments of the last such instruction of the Dockerfile; a health check's command is indented."""
    found: list[str] = re.findall(rf"^{name} (\[.*\])$", (REPOSITORY / "deploy/Dockerfile").read_text(), re.M)
    arguments: list[str] = json.loads(found[-1])
    return arguments


def test_the_images_entry_point_is_the_command_line() -> None:
    """`docker run IMAGE predict ...` is `nerve predict ...`; without arguments it serves."""
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    (command,) = instruction("ENTRYPOINT")
    assert scripts[command] == "nerve.__main__:run"
    default = instruction("CMD")
    assert default == ["serve"]
    assert _parser().parse_args(default).command == "serve"
