"""What a served model takes of memory, by its size: at the peak of the start, once ready, and for a worker more.

usage: python -m bench.robustness.model_memory [--models tiny base large] [--source FOLDER] [--out model-memory]

Each model is started with an empty cache (it is built), with a full one, and with two workers. Read from outside, in
/proc: the resident memory of each worker process at its peak (VmHWM) and once it has answered (VmRSS), the part that
is its own (RssAnon), and what it has when pages of several mappings count once (Pss). --source: src of another version.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.paths import RESULTS, WORK
from bench.serving import machine
from bench.serving.models import find_folder, hold_work
from bench.serving.servers import free_port

ANSWERS = 20
BODY = json.dumps({"inputs": "Maria Gonzalez lives in Madrid and works there."})


def read_sizes(file: Path) -> dict[str, float]:
    """Return the lines of a file of /proc that hold kilobytes, in MiB."""
    lines = [line.split() for line in file.read_text().splitlines() if line.endswith(" kB")]
    return {line[0].rstrip(":"): int(line[1]) / 1024 for line in lines}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_worker(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def ask(port: int) -> bool:
    """Tell whether a request is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/predict_tokens", BODY, {"content-type": "application/json"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def measure(folder: Path, cache: Path, workers: int, source: str) -> list[dict[str, float]]:
    """Start a server; return what each worker takes, in MiB."""
    port = free_port()
    config = {
        "model": {
            "checkpoint_repository": {"source": "LOCAL", "path": str(folder)},
            "device": "cpu",
            "precision": "float32",
            "cache_dir": str(cache),
        },
        "server": {"host": "127.0.0.1", "port": port, "log_level": "warning", "workers": workers},
    }
    file = WORK / "model-memory.yaml"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "nerve", "serve", "--config", str(file)]
    server = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": source})
    try:
        answers = 0  # in a row, each to a new connection
        while answers < ANSWERS:
            answers = answers + 1 if ask(port) else 0
            if not answers:
                if server.poll() is not None:
                    raise SystemExit("the server did not start")
                time.sleep(0.2)
        found = []
        for pid in filter(is_worker, children(server.pid)):
            status = read_sizes(Path(f"/proc/{pid}/status"))
            pss = read_sizes(Path(f"/proc/{pid}/smaps_rollup"))["Pss"]
            names = {"peak": "VmHWM", "ready": "VmRSS", "own": "RssAnon"}
            found.append({**{name: round(status[line]) for name, line in names.items()}, "pss": round(pss)})
        return found
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny", "base", "large"])
    parser.add_argument("--source", default=str(Path(__file__).parents[2] / "src"))
    parser.add_argument("--out", default="model-memory")
    arguments = parser.parse_args()
    result: dict = {**machine.describe(), "unit": "MiB", "models": {}}
    with hold_work():
        for name in arguments.models:
            folder = find_folder(name)
            cache = WORK / "model-memory"
            shutil.rmtree(cache, ignore_errors=True)
            weights = (folder / "model.safetensors").stat().st_size / 2**20
            entry = result["models"][name] = {"weights": round(weights, 1)}
            for start, workers in (("built", 1), ("cached", 1), ("two workers", 2)):
                entry[start] = measure(folder, cache, workers, arguments.source)
                print(name, start, entry[start], flush=True)
            shutil.rmtree(cache, ignore_errors=True)
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
