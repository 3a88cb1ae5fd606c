"""Measure what a server needs and answers, by the size of its model: for docs/guide/sizing.md.

A BERT of each size with weights from a seed, in float32 and in int8, as `nerve serve` starts it: memory when it is
ready and after load, a lone client, 32 clients, and random arrivals at 70 % of what they got. One server runs at a
time. Texts have 36 tokens, one in a request. `--prepare` makes models and graphs only, so that a run afterwards is
short.

usage: python -m bench.serving.sizes [--prepare] [--out NAME]
"""

import argparse
import contextlib
import json
from functools import partial
from pathlib import Path

from bench.paths import RESULTS, WORK
from bench.serving import generators, machine, random_bert
from bench.serving.models import BenchModel, Unavailable, built_graph, hold_work, local, rampart_folder
from bench.serving.run import learn_answers, measure
from bench.serving.servers import Server, ServerSpec
from bench.serving.workload import Reference, Workload

CASES = [(name, precision) for name in random_bert.SIZES for precision in ("float32", "int8")]
# Of what 32 clients were answered.
SHARE = 0.7
COMMAND = ["{python}", "-m", "nerve", "serve", "--config", "{config}"]


def make_model(name: str, precision: str) -> BenchModel:
    """Make the checkpoint and its graph. Raises `Unavailable`."""
    folder = WORK / name
    if not (folder / "model.safetensors").exists():
        random_bert.make_folder(rampart_folder(), folder, random_bert.SIZES[name])
    graph = built_graph(folder, precision, name)
    # Random weights have no labels of their own: how far int8 agrees with float32 says nothing.
    source = local(folder, precision=precision, min_agreement=0.0)
    return BenchModel(f"{name}-{precision}", folder, graph, source, folder)


def parameters_of(name: str) -> int:
    """Return how many numbers a checkpoint has."""
    return sum(tensor.size for tensor in random_bert.make_tensors(random_bert.SIZES[name], 0).values())


def memory_mib(server: Server) -> float:
    """Return the memory of all processes of a server; what several share counts once."""
    found = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in server.pids()]
    kib = sum(int(line.split()[1]) for text in found for line in text.splitlines() if line.startswith("Pss:"))
    return round(kib / 1024, 1)


def measure_case(name: str, precision: str, seconds: float) -> dict:
    """Start a server, load it in three ways, and return what was seen."""
    model = make_model(name, precision)
    requests = Reference(model).requests(Workload())
    spec = ServerSpec("nerve", f"{name}-{precision}", COMMAND)
    with contextlib.closing(Server(spec, model, requests.bodies[0])) as server:
        target = learn_answers(server, requests)
        with server.turn():
            seen = {"ready_mib": memory_mib(server)}
            generators.closed_loop(target, 32, 1, reuse=True)
            alone = partial(generators.closed_loop, target, 1, seconds, reuse=True)
            seen["c1"] = measure(server, target, alone)
            many = partial(generators.closed_loop, target, 32, seconds, reuse=True)
            seen["c32"] = measure(server, target, many)
            rate = SHARE * seen["c32"]["rps"]
            seen["open"] = measure(server, target, partial(generators.open_loop, target, rate, seconds))
            seen["loaded_mib"] = memory_mib(server)
    return seen


def main() -> None:
    """Measure every case; write the file after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--out", default="sizes", metavar="NAME", help="bench/results/NAME.json")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    arguments = parser.parse_args()
    with hold_work():
        content = {**machine.describe(), "cases": {}}
        for name, precision in CASES:
            if arguments.prepare:
                make_model(name, precision)
                print(f"made {name} {precision}", flush=True)
                continue
            try:
                seen = measure_case(name, precision, arguments.seconds)
            except Unavailable as reason:
                print(f"SKIPPED {name} {precision}: {reason}", flush=True)
                continue
            size = random_bert.SIZES[name]
            shape = {"layers": size.layers, "hidden": size.hidden, "parameters": parameters_of(name)}
            content["cases"][f"{name} {precision}"] = {**shape, "precision": precision, **seen}
            (RESULTS / f"{arguments.out}.json").write_text(json.dumps(content, indent=1) + "\n")
            print(
                f"{name} {precision}: {seen['c32']['rps']:.1f}/s, {seen['loaded_mib']} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
