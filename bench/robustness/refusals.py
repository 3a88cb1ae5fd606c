"""What one refusal costs: CPU time of the server for each, with a full queue and clients that repeat at once.

The model is the simulated card with a step of 0.1 s, which takes no CPU time: what the server uses is all around it.
The same server answers 32 connections in one turn, which gives what an answer costs. In the next turn its queue is
full, and 400 clients repeat what was refused at once. What is left of the CPU time after the answers is that of the
refusals. Once with 36-token requests, once with requests of 32 such texts: a refusal that read the body would cost
more. Writes bench/results/refusals.json.

usage: python -m bench.robustness.refusals [--rounds 5] [--seconds 8]
"""

import argparse
import contextlib
import dataclasses
import json

from bench.paths import RESULTS
from bench.robustness.patience import FULL_CONNECTIONS
from bench.serving import generators, machine
from bench.serving.models import find_model, hold_work
from bench.serving.results import spread
from bench.serving.run import learn_answers
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

STEP_SECONDS = 0.1
TEXTS = [1, 32]


def cpu_of(server: Server, target: generators.Target, connections: int, seconds: float) -> dict:
    """Run one load; return its answers, its refusals and the CPU seconds of the server."""
    with server.turn():
        before = server.cpu_seconds()
        seen = generators.closed_loop(target, connections, seconds, reuse=True)
        used = server.cpu_seconds() - before
    errors = {what: n for what, n in seen["errors"].items() if what != "refused"}
    return {
        "answers": seen["right"] + seen["near"],
        "refusals": seen["errors"].get("refused", 0),
        "cpu_seconds": used,
        "seconds": seen["seconds"],
        "errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    arguments = parser.parse_args()
    result: dict = {**machine.describe(), "step_seconds": STEP_SECONDS, "texts": {}}
    spec = next(one for one in read_specs() if one.label == "nerve/auto")
    with hold_work(), contextlib.ExitStack() as held:
        model = find_model("card")
        environment = {**model.environment, "BENCH_CARD_SECONDS": str(STEP_SECONDS)}
        model = dataclasses.replace(model, environment=environment)
        for texts in TEXTS:
            requests = Reference(model).requests(Workload(texts=texts))
            # Room for what 32 connections ask for; no batches above it, so that the queue fills up.
            settings = {
                "batching": {"max_queue_tokens": 32 * 36 * texts},
                "limits": {"request_timeout_ms": 120_000},
            }
            own = dataclasses.replace(spec, variant=f"{texts} texts", settings=settings)
            server = held.enter_context(contextlib.closing(Server(own, model, requests.bodies[0])))
            target = learn_answers(server, requests)
            rounds = []
            for number in range(-1, arguments.rounds):  # the first one warms up
                patient = cpu_of(server, target, 32, arguments.seconds)
                full = cpu_of(server, target, FULL_CONNECTIONS, arguments.seconds)
                an_answer = patient["cpu_seconds"] / patient["answers"]
                of_refusals = full["cpu_seconds"] - an_answer * full["answers"]
                seen = {
                    "patient": patient,
                    "full": full,
                    "answer_ms": 1000 * an_answer,
                    "refusal_ms": 1000 * of_refusals / full["refusals"],
                    "refusals_per_second": full["refusals"] / full["seconds"],
                    "cores_of_refusals": of_refusals / full["seconds"],
                }
                print(texts, number, json.dumps(seen), flush=True)
                if number >= 0:
                    rounds.append(seen)
            names = ("answer_ms", "refusal_ms", "refusals_per_second", "cores_of_refusals")
            result["texts"][str(texts)] = {
                **{name: spread([one[name] for one in rounds]) for name in names},
                "rounds": rounds,
            }
    (RESULTS / "refusals.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
