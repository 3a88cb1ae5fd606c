"""Time and memory of long texts with ModernBERT: all layers local, every third global (as published), all global.

Each length in a process of its own, whose peak memory is that of the call: with local attention it must grow with the
text, not with its square.

usage: python -m bench.architectures.long_texts [--lengths 512 1024 ...] [--out NAME]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench.architectures import models
from bench.architectures.speed import open_built
from bench.paths import RESULTS
from bench.serving import machine

KINDS = {"local": 1000, "every third global": 3, "global": 1}


def measure(folder: Path, length: int, precision: str) -> dict[str, float]:
    """Return the seconds of the best of three calls, and by how many MB they raised the peak of memory."""
    session, _ = open_built(folder, precision, 1)
    ids = np.random.default_rng(0).integers(5, models.TOKENS, (1, length), dtype=np.int32)
    feeds = {"input_ids": ids, "lengths": np.array([length], np.int32)}
    session.run(["label_ids"], {"input_ids": ids[:, :16], "lengths": np.array([16], np.int32)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(3 if length <= 4096 else 1):
        started = time.perf_counter()
        session.run(["label_ids"], feeds)
        seconds.append(time.perf_counter() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(min(seconds), 3), "more_mb": round((after - before) / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--out", default="long-architectures")
    parser.add_argument("--one", nargs=3)
    arguments = parser.parse_args()
    if arguments.one:
        folder, length, precision = arguments.one
        print(json.dumps(measure(Path(folder), int(length), precision)))
        return
    found = {}
    for kind, every in KINDS.items():
        changes = {"num_hidden_layers": arguments.layers, "global_attn_every_n_layers": every}
        if kind == "local":
            changes = {**changes, "layer_types": ["sliding_attention"] * arguments.layers}
        folder = models.make("modernbert", **changes)
        for length in arguments.lengths:
            command = [sys.executable, "-m", "bench.architectures.long_texts"]
            command += ["--one", str(folder), str(length), "float32"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            row = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-200:]}
            found.setdefault(kind, {})[length] = row
            print(kind, length, row, flush=True)
    document = {**machine.describe(), "layers": arguments.layers, "found": found}
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
