"""Time of a call and agreement with float32, by precision, in this process on one thread.

Rounds are interleaved: each runs every precision once at every size. float32 is measured twice: the ratio of the two is
what the noise is. Agreement is that of `nerve verify` on its texts, for the trained model only.

usage: python -m bench.precisions [--rounds 9] [--out bench/results/precisions.json]
"""

import argparse
import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench.paths import RESULTS
from bench.serving import machine
from bench.serving.models import find_folder, rampart_folder
from nerve.checkpoint import ModelFolder
from nerve.config import Precision, default_cache_dir
from nerve.config.loading import parse_config
from nerve.models.agreement import Judge
from nerve.models.loader import load_model
from nerve.models.model import Model
from nerve.types import Window

PRECISIONS = {"float32": "float32", "float32 again": "float32", "bfloat16": "bfloat16", "int8": "int8"}
SIZES = [(1, 36), (8, 36), (1, 128), (1, 512)]  # sequences, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "precisions.json")
    options = parser.parse_args()
    result = {**machine.describe(), "time": datetime.now(UTC).isoformat(timespec="seconds"), "models": {}}
    for name, folder in (("rampart", rampart_folder()), ("base", find_folder("base"))):
        models = {title: open_model(folder, precision) for title, precision in PRECISIONS.items()}
        found = {"ms a call": time_calls(models, options.rounds)}
        if name == "rampart":
            found["agreement with float32"] = agreements(models)
        result["models"][name] = found
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["models"], indent=1))


def open_model(folder: Path, precision: str) -> Model:
    """Open a model as the server does, for one thread; a model of random weights agrees with nothing."""
    config = parse_config(
        {
            "model": {
                "checkpoint_repository": {"source": "LOCAL", "path": str(folder)},
                "device": "cpu",
                "precision": precision,
                "min_agreement": 0.0,
            },
            "cpu": {"threads": 1},
        },
        {},
        folder,
    )
    return load_model(config, ModelFolder(folder, folder.name, ""), default_cache_dir())


def time_calls(models: dict[str, Model], rounds: int) -> dict:
    """Return for each size and precision the median time, and its ratio to float32 in the same round."""
    rng = np.random.default_rng(0)
    sizes = {}
    for sequences, tokens in SIZES:
        windows = [Window(rng.integers(1000, 5000, tokens).tolist(), 0) for _ in range(sequences)]
        times: dict[str, list[float]] = {title: [] for title in models}
        for _ in range(rounds + 1):
            for title, model in models.items():
                started = time.perf_counter()
                model.backend.run(windows, needs_logits=False)
                times[title].append(1000 * (time.perf_counter() - started))
        found = {}
        for title, values in times.items():
            ratios = [own / exact for own, exact in zip(values[1:], times["float32"][1:], strict=True)]
            found[title] = {
                "median ms": round(statistics.median(values[1:]), 2),
                "over float32": round(statistics.median(ratios), 3),
                "from": round(min(ratios), 3),
                "to": round(max(ratios), 3),
            }
        sizes[f"{sequences} x {tokens}"] = found
    return sizes


def agreements(models: dict[str, Model]) -> dict:
    """Compare each precision with float32 on the texts of `nerve verify`, alone and in batches."""
    exact = models["float32"]
    judge = Judge(exact.tokenizer, exact.labels, exact.vocabulary)
    found = {}
    for title, model in models.items():
        if model.precision is not Precision.FLOAT32:
            found[title] = judge.compare(model.backend, exact.backend)
            found[title]["largest difference of a score alone and in a batch"] = batch_effect(model)
    return found


def batch_effect(model: Model) -> float:
    """Return how much the scores of a window change with what stands beside it."""
    rng = np.random.default_rng(1)
    windows = [Window(rng.integers(1000, 5000, n).tolist(), 0) for n in (36, 36, 20, 9)]
    together = model.backend.run(windows, needs_logits=False)
    alone = [model.backend.run([window], needs_logits=False)[0] for window in windows]
    return max(
        float(np.abs(one.scores - other.scores).max()) for one, other in zip(together, alone, strict=True)
    )


if __name__ == "__main__":
    main()
