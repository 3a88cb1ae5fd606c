"""Time of a call by architecture: built float32 and int8 against the exported graph, and all against BERT.

Base-size models of random weights, in process, one call at a time. The rounds go over all graphs in turn, so that what
else the machine does weighs on all alike; noted are the median and the smallest of the rounds. Loading is noted, too:
building the graph without a cache, and opening it. With --keep graphs are built into a cache that stays, where they are
found the next time, and loading is not noted; with --rounds 0 they are built only.

usage: python -m bench.architectures.speed [--rounds 9] [--keep] [--models bert modernbert ...] [--out NAME]
needs PyTorch and transformers to make the models (bench/requirements-torch.txt).
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.architectures import models
from bench.paths import RESULTS
from bench.serving import machine

LENGTHS = (36, 128, 512)
THREADS = (1, 2)


KEPT = models.FOLDER / "graphs"


def open_built(folder: Path, precision: str, threads: int, kept: Path | None = None):
    """Return a session of a built graph, and the seconds to build and to open it; kept: a cache that stays."""
    from nerve.config import Device, Precision  # noqa: PLC0415 - a loaded onnxruntime would weigh on PyTorch
    from nerve.graph import load_graph  # noqa: PLC0415
    from nerve.runtime.devices import CPU  # noqa: PLC0415
    from nerve.runtime.sessions import create_session  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        # What sessions share takes twice the weights on disk, and computes the same in the same time.
        provider = dataclasses.replace(CPU, preparation=None)
        graph = load_graph(folder, Precision(precision), kept or Path(cache), provider=provider)
        built = time.perf_counter()
        session = create_session(graph.source, Device.CPU, 0, n_threads=threads)
        return session, {
            "build_s": round(built - started, 2),
            "open_s": round(time.perf_counter() - built, 2),
        }


def open_exported(file: Path, threads: int):
    from nerve.config import Device  # noqa: PLC0415 - as above
    from nerve.runtime.sessions import create_session  # noqa: PLC0415

    return create_session(file, Device.CPU, 0, n_threads=threads)


def open_all(folders: dict, exported: dict, threads: int, kept: Path | None, document: dict) -> dict:
    """Return all sessions by name and form; note how long loading took, where nothing is kept."""
    sessions = {}
    for name, folder in folders.items():
        for precision in ("float32", "int8"):
            session, loading = open_built(folder, precision, threads, kept)
            sessions[name, precision] = session
            if kept is None:
                document["loading"].setdefault(f"{name} {precision}", loading)
        if (file := exported[name]) is not None:
            sessions[name, "exported"] = open_exported(file, threads)
    return sessions


def feeds_of(session, ids: np.ndarray) -> dict[str, np.ndarray]:
    wide = ids.astype(np.int64)
    known = {
        "lengths": np.full(len(ids), ids.shape[1], np.int32),
        "attention_mask": np.ones_like(wide),
        "token_type_ids": np.zeros_like(wide),
    }
    names = {value.name for value in session.get_inputs()}
    first = ids if "lengths" in names else wide
    return {"input_ids": first, **{name: value for name, value in known.items() if name in names}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--models", nargs="*", default=list(models.MODELS))
    parser.add_argument("--out", default="architectures")
    arguments = parser.parse_args()
    folders = {name: models.make(name) for name in arguments.models}
    exported = {name: models.export(folder) for name, folder in folders.items()}
    document = {**machine.describe(), "rounds": arguments.rounds, "unit": "ms", "loading": {}, "calls": {}}
    random = np.random.default_rng(0)
    for threads in THREADS:
        sessions = open_all(folders, exported, threads, KEPT if arguments.keep else None, document)
        if not arguments.rounds:
            return
        for length in LENGTHS:
            times = {key: [] for key in sessions}
            for _ in range(arguments.rounds + 1):
                ids = random.integers(5, models.TOKENS, (1, length), dtype=np.int32)
                for key, session in sessions.items():
                    feeds = feeds_of(session, ids)
                    outputs = ["label_ids", "scores"] if "lengths" in feeds else ["logits"]
                    started = time.perf_counter()
                    session.run(outputs, feeds)
                    times[key].append((time.perf_counter() - started) * 1000)
            for (name, form), measured in times.items():
                row = document["calls"].setdefault(f"{name} {form}", {})
                kept = measured[1:]  # the first call of a length allocates
                row[f"{threads}x{length}"] = [round(statistics.median(kept), 2), round(min(kept), 2)]
            print(threads, length, {" ".join(k): round(min(v[1:]), 1) for k, v in times.items()}, flush=True)
        del sessions
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
