"""How cost grows: requests/s, p99 and CPU per request against each dimension of a request and of the server.

usage: python -m bench.serving.growth [--seconds 3] [--only tokens texts ...] [--out growth] [--plot FILE]

--only: measure these anew, and keep what the file says of the others.

All but the size of the model is measured with the zero-cost model, so that what grows is the server's own. Every
exponent is the slope of log(CPU of the server per request) over log(value), by least squares over the points from the
middle on; for connections and workers it says how the cost of one request changes with them. The size of the model is
in its parameters, with one connection and 36 tokens.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.paths import RESULTS, WORK
from bench.serving import generators, machine, zero_model
from bench.serving.generators import Target
from bench.serving.models import BenchModel, find_model, hold_work, local, rampart_folder
from bench.serving.servers import Server, read_specs

DIMENSIONS = {
    "tokens": [8, 32, 128, 512, 2048, 4096, 8192, 16384, 32768],
    "texts": [1, 4, 16, 64, 128],
    "labels": [9, 33, 65, 129, 217],
    "connections": [1, 10, 100, 1000],
    "workers": [1, 2, 4],
    "parameters": ["tiny", "rampart", "base"],
}
CONNECTIONS = 8
TOKENS = 36
# Each is one token of the default model's tokenizer; two more frame a text.
WORDS = [
    "the",
    "order",
    "was",
    "late",
    "and",
    "we",
    "would",
    "like",
    "to",
    "know",
    "when",
    "it",
    "will",
    "arrive",
]


def body_of(n_tokens: int, n_texts: int = 1, **options) -> bytes:
    """Return a request whose texts have so many tokens each."""
    chance = random.Random(n_tokens)
    texts = [" ".join(chance.choices(WORDS, k=max(1, n_tokens - 2))) for _ in range(n_texts)]
    return json.dumps({"inputs": texts if n_texts > 1 else texts[0], **options}).encode()


def model_with_labels(n_labels: int) -> BenchModel:
    """Return the zero-cost model with so many labels: O, and B- and I- of each kind."""
    folder = WORK / f"zero-{n_labels}"
    kinds = [f"KIND_{index}" for index in range((n_labels - 1) // 2)]
    before, zero_model.KINDS = zero_model.KINDS, kinds
    try:
        zero_model.make_folder(rampart_folder() / "tokenizer.json", folder)
    finally:
        zero_model.KINDS = before
    return BenchModel(folder.name, folder, folder / "model.onnx", local(folder))


@contextlib.contextmanager
def running(model: BenchModel, **settings) -> Iterator[Server]:
    spec = next(spec for spec in read_specs() if spec.label == "nerve/auto")
    server = Server(dataclasses.replace(spec, variant="growth", settings=settings), model, body_of(TOKENS))
    try:
        yield server
    finally:
        server.close()


def measure(server: Server, body: bytes, connections: int, seconds: float) -> dict:
    """Run one load."""
    with server.turn():
        target = Target(server.url, server.spec.route, [body], [server.post(body)])
        before = server.cpu_seconds()
        seen = generators.closed_loop(target, connections, seconds, reuse=True)
        spent = server.cpu_seconds() - before
    return {
        "rps": round(seen["rps"], 1),
        "p99": seen["latency_ms"].get("p99"),
        "cpu_ms": round(1000 * spent / max(1, seen["requests"]), 4),
        "errors": seen["errors"],
    }


def points(name: str, seconds: float) -> Iterator[tuple[float, dict]]:
    """Yield each value of a dimension with what was measured."""
    values = DIMENSIONS[name]
    if name == "labels":
        for value in values:
            with running(model_with_labels(value)) as server:
                yield value, measure(server, body_of(TOKENS, raw_scores=True), CONNECTIONS, seconds)
    elif name == "workers":
        for value in values:
            with running(find_model("zero"), server={"workers": value}) as server:
                yield value, measure(server, body_of(TOKENS), 32, seconds)
    elif name == "parameters":
        for value in values:
            model = find_model(value)
            with running(model) as server:
                yield model.graph.stat().st_size / 4, measure(server, body_of(TOKENS), 1, 2 * seconds)
    else:
        with running(find_model("zero")) as server:
            for value in values:
                body = body_of(value if name == "tokens" else TOKENS, value if name == "texts" else 1)
                yield value, measure(server, body, value if name == "connections" else CONNECTIONS, seconds)


def exponent(found: list[tuple[float, dict]]) -> float:
    """Return the slope of log(CPU) over log(value), from the middle on."""
    upper = found[len(found) // 2 - (len(found) < 5) :]
    xs = [math.log(value) for value, _ in upper]
    ys = [math.log(one["cpu_ms"]) for _, one in upper]
    return round(statistics.linear_regression(xs, ys).slope, 2)


def plot(result: dict, file: Path) -> None:
    """Draw the CPU per request against every dimension."""
    import matplotlib as mpl  # noqa: PLC0415  only plots need it

    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, 3, figsize=(10, 6))
    for axis, (name, entry) in zip(axes.flat, result["dimensions"].items(), strict=False):
        xs = [point["value"] for point in entry["points"]]
        axis.loglog(xs, [point["cpu_ms"] for point in entry["points"]], "o-", label="CPU ms")
        axis.loglog(xs, [point["p99"] for point in entry["points"]], "s--", label="p99 ms")
        axis.set_title(f"{name}: exponent {entry['exponent']}")
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", nargs="+", default=list(DIMENSIONS))
    parser.add_argument("--out", default="growth")
    parser.add_argument("--plot", type=Path, help="only draw the result file")
    arguments = parser.parse_args()
    file = RESULTS / f"{arguments.out}.json"
    if arguments.plot:
        plot(json.loads(file.read_text()), arguments.plot)
        return
    kept = (
        json.loads(file.read_text())["dimensions"]
        if file.exists() and len(arguments.only) < len(DIMENSIONS)
        else {}
    )
    result: dict = {**machine.describe(), "dimensions": kept}
    with hold_work():
        for name in arguments.only:
            found = []
            for value, one in points(name, arguments.seconds):
                print(name, value, one, flush=True)
                found.append((value, one))
            result["dimensions"][name] = {
                "points": [{"value": round(value), **one} for value, one in found],
                "exponent": exponent(found),
            }
            file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
