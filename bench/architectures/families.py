"""Time per operation of each family against BERT's: base-size models of random weights, in process, float32 and int8.

A family is measured beside BERT, in turns, and each round's times are divided by each other, so that what else the
machine does weighs on both alike. What is divided by is operations: the multiplications that an answer depends on
(`count`), so that a family that needs fewer (local attention, experts) or more (DeBERTa's distances) for the same
layers is held to what it needs. 1.0: an operation takes the family as long as BERT.

Results are added to a file that is there, family by family. Models are made, and graphs built into a cache, at the
first time; `--rounds 0` does that only. Needs PyTorch and transformers to make the models
(bench/requirements-torch.txt), and about 16 GB of memory for the privacy filter.

usage: python -m bench.architectures.families [--rounds 5] [--families deberta-v2 ...] [--out NAME]
"""

import argparse
import json
import statistics
import time

import numpy as np

from bench.architectures import models
from bench.architectures.speed import KEPT, LENGTHS, THREADS, feeds_of, open_built
from bench.paths import RESULTS
from bench.serving import machine
from nerve.graph.architectures.encoder import Encoder, Experts, Layer, Linear

PRECISIONS = ("float32", "int8")
REFERENCE = "bert"


def count(encoder: Encoder, n_tokens: int) -> int:
    """Return the multiplications of one text's answer, but for those of norms, activations and softmax."""
    once = [encoder.projection, encoder.classifier, None if encoder.head is None else encoder.head.dense]
    total = n_tokens * sum(_of(linear) for linear in once)
    if encoder.convolution is not None:
        total += n_tokens * encoder.convolution.weight.size
    return total + sum(_of_layer(encoder, layer, n_tokens) for layer in encoder.layers)


def _of(linear: Linear | None) -> int:
    return 0 if linear is None else linear.weight.size


def _of_layer(encoder: Encoder, layer: Layer, n_tokens: int) -> int:
    each = sum(_of(linear) for linear in (*layer.projections.values(), layer.attention_output))
    if isinstance(layer.block, Experts):
        taken = sum(stack.shape[1] * stack.shape[2] for stack in (layer.block.wide, layer.block.down))
        each += _of(layer.block.router) + layer.block.n_chosen * taken
    else:
        each += sum(_of(linear) for linear in (*layer.block.wide.values(), layer.block.down))
    at = np.arange(n_tokens)
    reach = n_tokens if layer.window is None else layer.window
    pairs = int((np.minimum(at, reach) + np.minimum(at[::-1], reach) + 1).sum())
    # Scores, what they weigh, and DeBERTa's scores by distance: of each head, a product of D numbers for each pair.
    products = 2 + sum(part is not None for part in (layer.position_keys, layer.position_queries))
    return n_tokens * each + pairs * products * encoder.heads * encoder.head_size


def read_encoder(name: str) -> Encoder:
    """Return a model's encoder without its numbers."""
    from nerve.graph import weights  # noqa: PLC0415 - a loaded onnxruntime would weigh on PyTorch
    from nerve.graph.architectures import describe  # noqa: PLC0415

    folder = models.make(name)
    stored = weights.open_weights(weights.find_weights(folder))
    return describe(json.loads((folder / "config.json").read_text()), stored.outline())


def measure(name: str, rounds: int) -> dict:
    """Return milliseconds of a call, by precision, threads and tokens, of a family and of BERT, for each round."""
    found: dict = {}
    random = np.random.default_rng(0)
    folders = {one: models.make(one) for one in (REFERENCE, name)}
    for precision in PRECISIONS:
        for threads in THREADS:
            sessions = {one: open_built(folders[one], precision, threads, KEPT)[0] for one in folders}
            for length in LENGTHS if rounds else ():
                times: dict = {one: [] for one in folders}
                for _ in range(rounds + 1):
                    ids = random.integers(5, models.TOKENS, (1, length), dtype=np.int32)
                    for one, session in sessions.items():
                        started = time.perf_counter()
                        session.run(["label_ids", "scores"], feeds_of(session, ids))
                        times[one].append(round((time.perf_counter() - started) * 1000, 2))
                # The first call of a length allocates.
                found[f"{precision} {threads}x{length}"] = {one: seen[1:] for one, seen in times.items()}
            del sessions
            if not rounds:
                break  # of the same graph
    return found


def per_operation(row: dict, case: str) -> float:
    """Return a case's time per operation against BERT's: the median of the rounds' ratios."""
    length = case.rpartition("x")[2]
    calls = row["calls"][case]
    ratios = [ours / theirs for ours, theirs in zip(calls[row["name"]], calls[REFERENCE], strict=True)]
    return statistics.median(ratios) / row["operations"][length]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--families", nargs="*", default=[name for name in models.MODELS if name != REFERENCE]
    )
    parser.add_argument("--out", default="families")
    arguments = parser.parse_args()
    for name in (REFERENCE, *arguments.families):
        models.make(name)
    file = RESULTS / f"{arguments.out}.json"
    facts = machine.describe()
    for name in arguments.families:
        started = time.perf_counter()
        calls = measure(name, arguments.rounds)
        seconds = round(time.perf_counter() - started)
        if not arguments.rounds:
            print(name, "built", seconds, "s", flush=True)
            continue
        ours, theirs = read_encoder(name), read_encoder(REFERENCE)
        operations = {
            str(length): round(count(ours, length) / count(theirs, length), 4) for length in LENGTHS
        }
        row = {"name": name, "rounds": arguments.rounds, "operations": operations, "calls": calls}
        row["per_operation"] = {case: round(per_operation(row, case), 3) for case in calls}
        print(name, seconds, "s", row["per_operation"], flush=True)
        document = json.loads(file.read_text()) if file.exists() else {"unit": "ms", "families": {}}
        document |= facts
        document["families"][name] = row
        file.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
