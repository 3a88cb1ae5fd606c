"""Runs Schemathesis against real servers of the lookup model, one of them with an API key; `make fuzz`.

python tests/fuzz/run.py SCHEMATHESIS [--examples N] [--quick]: its executable, and test cases per operation and phase.
--quick: the same cases each time, against the server with a key alone; `make fuzz-quick`.
The exit status is 0 when nothing was found, and every route was reached: with an answer, and with a refusal where a
body can be wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from builders import ServerProcess, start_server, write_config, write_lookup_model

HERE = Path(__file__).parent
KEY = "s3cret-key"
SIGNS_OF_A_DEFECT = ("defect while", "Unexpected exit", "panicked", "Application callable raised")
# Paths that Vertex AI would name.
VERTEX = {"vertex_health_route": "/aip/health", "vertex_predict_route": "/aip/predict"}
QUICK = ["--generation-deterministic", "--seed", "1", "--no-shrink"]


def fuzz(options: argparse.Namespace, folder: Path, *, with_key: bool) -> bool:
    """Fuzz one server by its own document; returns whether nothing was found."""
    config = write_config(folder / f"{with_key}.yaml", folder / "model", server=VERTEX)
    server = start_server(config, {"NERVE_API_KEY": KEY} if with_key else None)
    client = ["--header", f"Authorization: Bearer {KEY}"] if with_key else []
    command = [options.executable, "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{server.url}/openapi.json", "--phases", "examples,coverage,fuzzing,stateful"]
    command += ["--max-examples", str(options.examples), "--continue-on-failure", "--request-timeout", "30"]
    command += [*(QUICK if options.quick else []), *client]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py")}
    try:
        done = subprocess.run(command, env=environment, check=False, cwd=folder)
        is_alive = server.client.get("/health/ready").status_code == 200
        missed = routes_missed(server)
    finally:
        server.client.close()
        status = server.stop()
    found = [line for line in server.log().splitlines() if any(sign in line for sign in SIGNS_OF_A_DEFECT)]
    sys.stderr.write("".join(f"{line}\n" for line in [*found, *missed]))
    return done.returncode == 0 and is_alive and status == 0 and not found and not missed


def routes_missed(server: ServerProcess) -> list[str]:
    """Return which operations of the document were not reached, by the server's own count."""
    headers = {"authorization": f"Bearer {KEY}"}
    paths = server.client.get("/openapi.json", headers=headers).json()["paths"]
    counted = re.findall(
        r'^nerve_requests_total\{endpoint="[^"]*",route="([^"]*)",status="(\d)\d\d"\} [1-9]',
        server.client.get("/metrics").text,
        re.MULTILINE,
    )
    wanted = {(path, "2") for path in paths} | {
        (path, "4") for path, operations in paths.items() if "post" in operations
    }
    return [f"{path} was never answered {kind}xx" for path, kind in sorted(wanted - set(counted))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("executable", type=lambda path: str(Path(path).absolute()))
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nerve-fuzz-") as temporary:
        write_lookup_model(Path(temporary) / "model")
        servers = (True,) if chosen.quick else (False, True)
        results = [fuzz(chosen, Path(temporary), with_key=with_key) for with_key in servers]
    sys.exit(not all(results))
