"""What it takes to open a checkpoint and to build its graph, for each way in which the same weights are stored.

usage: python -m bench.robustness.weights NAME=FOLDER... [--out weights]
Each folder has config.json and weights. A process of its own opens it (names and shapes), reads every tensor, or builds
the float32 graph with an empty cache; peak memory is the peak of that process less what it had before. Three turns in
alternating order, the best of each (--turns).
"""

import argparse
import json
import subprocess
import sys
import textwrap
from pathlib import Path

from bench.paths import RESULTS
from bench.serving import machine

PROGRAM = """
import resource, sys, tempfile, time
from pathlib import Path
from nerve.config import Precision
from nerve.graph import load_graph, weights
from nerve.graph.loading import is_buildable

def status(line):
    fields = dict(one.split(":", 1) for one in Path("/proc/self/status").read_text().splitlines())
    return int(fields[line].split()[0]) / 1024

folder, step = Path(sys.argv[1]), sys.argv[2]
before, started = status("VmRSS"), time.perf_counter()
with tempfile.TemporaryDirectory() as cache:
    if step == "build":
        load_graph(folder, Precision.FLOAT32, Path(cache))
    else:
        stored = weights.open_weights(weights.find_weights(folder))
        if step == "read":
            for name in stored:
                if "position_ids" not in name:
                    stored[name].max()
    seconds = time.perf_counter() - started
print(seconds, status("VmHWM") - before)
"""


def measure(folder: Path, step: str) -> tuple[float, float]:
    """Return seconds and MiB of one process."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), step]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, mib = map(float, done.stdout.split())
    return seconds, mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--out", default="weights")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    folders = dict(one.split("=", 1) for one in arguments.folders)
    turns: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for turn in range(arguments.turns):
        for name in list(folders)[:: 1 - 2 * (turn % 2)]:
            for step in ("open", "read", "build"):
                turns.setdefault((name, step), []).append(measure(Path(folders[name]), step))
    result = {**machine.describe(), "file_mib": {}, "kinds": {}}
    for name, folder in folders.items():
        sizes = [file.stat().st_size for file in Path(folder).iterdir()]
        result["file_mib"][name] = round(sum(sizes) / 2**20)
        result["kinds"][name] = {
            step: {
                "seconds": round(min(seconds for seconds, _ in turns[name, step]), 3),
                "peak_mib": round(min(mib for _, mib in turns[name, step])),
            }
            for step in ("open", "read", "build")
        }
        print(name, result["kinds"][name], flush=True)
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
