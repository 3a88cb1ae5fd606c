"""Runs Schemathesis against real servers of the lookup model, one of them with an API key; `make fuzz`.

python tests/fuzz/run.py SCHEMATHESIS [EXAMPLES]: its executable, and test cases per operation and phase.
The exit status is 0 when nothing was found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from builders import start_server, write_config, write_lookup_model

HERE = Path(__file__).parent
KEY = "s3cret-key"
SIGNS_OF_A_DEFECT = ("defect while", "Unexpected exit", "panicked", "Application callable raised")


def fuzz(executable: str, examples: str, folder: Path, *, with_key: bool) -> bool:
    """Fuzz one server by its own document; returns whether nothing was found."""
    config = write_config(folder / f"{with_key}.yaml", folder / "model")
    server = start_server(config, {"NERVE_API_KEY": KEY} if with_key else None)
    client = ["--header", f"Authorization: Bearer {KEY}"] if with_key else []
    command = [executable, "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{server.url}/openapi.json", "--phases", "examples,coverage,fuzzing,stateful"]
    command += ["--max-examples", examples, "--continue-on-failure", "--request-timeout", "30", *client]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py")}
    try:
        done = subprocess.run(command, env=environment, check=False, cwd=folder)
        is_alive = server.client.get("/health/ready").status_code == 200
    finally:
        server.client.close()
        status = server.stop()
    found = [line for line in server.log().splitlines() if any(sign in line for sign in SIGNS_OF_A_DEFECT)]
    sys.stderr.write("".join(f"{line}\n" for line in found))
    return done.returncode == 0 and is_alive and status == 0 and not found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="nerve-fuzz-") as temporary:
        write_lookup_model(Path(temporary) / "model")
        results = [
            fuzz(
                str(Path(sys.argv[1]).absolute()),
                *(sys.argv[2:] or ["500"]),
                Path(temporary),
                with_key=with_key,
            )
            for with_key in (False, True)
        ]
    sys.exit(not all(results))
