"""Measure whether patient clients are served: many connections that each wait for their answer, whatever the model.

For each model: right answers a second with 32, 128, 400 and 1,000 connections, round after round, as ratios to 32 in
the same round; then with a queue that is full, where 400 clients repeat what was refused at once; then a fleet that
starts at once (1,000 connections, one request each) and a batch job (requests of 32 texts) beside one client of single
texts. Requests may take 120 s, those of the batch job 600. Writes bench/results/patience.json; models that were not run
now stay, and with --only job all that is not the batch job.

usage: python -m bench.robustness.patience [--models rampart base] [--rounds 5] [--seconds 10] [--only job]
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import statistics
import time

from bench.paths import RESULTS
from bench.serving import generators, machine
from bench.serving.generators import Target
from bench.serving.models import find_model, hold_work
from bench.serving.results import spread
from bench.serving.run import learn_answers
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

CONNECTIONS = [32, 128, 400, 1000]
FULL_CONNECTIONS = 400
FLEET = 1000
PATIENT = {"limits": {"request_timeout_ms": 120_000}}
# Room for the requests of 32 connections, and no more.
FULL = {**PATIENT, "batching": {"max_queue_tokens": 32 * 36}}
BATCH_REQUESTS, BATCH_TEXTS = 64, 32
# A batch job of BERT-base may take more than 120 s beside another client.
JOB = {"limits": {"request_timeout_ms": 600_000}}
LONGEST_SECONDS = 660


def start(model, requests, settings: dict) -> tuple[Server, Target]:
    spec = next(one for one in read_specs() if one.label == "nerve/auto")
    server = Server(dataclasses.replace(spec, settings=settings), model, requests.bodies[0])
    return server, learn_answers(server, requests)


def measure(server: Server, target: Target, connections: int, seconds: float) -> dict:
    with server.turn():
        seen = generators.closed_loop(target, connections, seconds, reuse=True)
    return {name: seen[name] for name in ("rps", "latency_ms", "errors", "requests")}


async def ask(port: int, body: bytes, started: float) -> tuple[int, float]:
    """Send one request over a connection of its own; return the status (0: none) and the seconds from the start."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /predict_tokens HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.read(), LONGEST_SECONDS)
        writer.close()
        return int(answer.split(b" ", 2)[1]), time.perf_counter() - started
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0, time.perf_counter() - started


async def start_fleet(port: int, bodies: list[bytes]) -> dict:
    """Open all connections at once, one request each."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(ask(port, bodies[k % len(bodies)], started) for k in range(FLEET)))
    statuses: dict[str, int] = {}
    for status, _ in answers:
        statuses[str(status)] = statuses.get(str(status), 0) + 1
    return {"statuses": statuses, "seconds": max(seconds for _, seconds in answers)}


async def run_batch_job(port: int, bodies: list[bytes]) -> dict:
    """Send a batch job beside one interactive client; return the client's p99 alone and beside it, in ms."""
    texts = [text for body in bodies for text in json.loads(body)["inputs"]]
    job = json.dumps({"inputs": (texts * BATCH_TEXTS)[:BATCH_TEXTS]}).encode()

    async def interact(until: asyncio.Task | None, count: int) -> list[float]:
        seen = []
        while (until is None and len(seen) < count) or (until is not None and not until.done()):
            seen.append((await ask(port, bodies[len(seen) % len(bodies)], time.perf_counter()))[1] * 1000)
        return seen

    async def send_job() -> list[int]:
        answers = await asyncio.gather(*(ask(port, job, time.perf_counter()) for _ in range(BATCH_REQUESTS)))
        return [status for status, _ in answers]

    quiet = await interact(None, 200)
    task = asyncio.create_task(send_job())
    beside = await interact(task, 0)
    return {
        "quiet_p99_ms": statistics.quantiles(quiet, n=100)[98],
        "beside_p99_ms": statistics.quantiles(beside, n=100)[98] if len(beside) > 1 else None,
        "interactive_requests": len(beside),
        "job_statuses": {str(s): task.result().count(s) for s in set(task.result())},
    }


def run_model(name: str, rounds: int, seconds: float) -> dict:
    model = find_model(name)
    requests = Reference(model).requests(Workload())
    found: dict = {"rounds": [], "ratios": {}}
    with contextlib.ExitStack() as held:
        server, target = start(model, requests, PATIENT)
        held.callback(server.close)
        full, full_target = start(model, requests, FULL)
        held.callback(full.close)
        measure(server, target, 32, 3)
        for number in range(rounds):
            seen = {str(n): measure(server, target, n, seconds) for n in CONNECTIONS}
            seen["full"] = measure(full, full_target, FULL_CONNECTIONS, seconds)
            found["rounds"].append(seen)
            print(
                f"{name} round {number + 1}: "
                + ", ".join(f"{k} {s['rps']:.1f}/s {s['errors'] or ''}" for k, s in seen.items())
            )
        for label in found["rounds"][0]:
            found["ratios"][label] = spread(
                [seen[label]["rps"] / seen["32"]["rps"] for seen in found["rounds"]]
            )
        with server.turn():
            found["fleet"] = asyncio.run(start_fleet(server.port, requests.bodies))
        found["batch_job"] = run_job(name)
    print(json.dumps({key: found[key] for key in ("ratios", "fleet", "batch_job")}, indent=1))
    return found


def run_job(name: str) -> dict:
    """Run the batch job of a model on a server of its own."""
    model = find_model(name)
    requests = Reference(model).requests(Workload())
    server, _ = start(model, requests, JOB)
    with contextlib.closing(server), server.turn():
        found = asyncio.run(run_batch_job(server.port, requests.bodies))
    return {"commit": machine.describe()["commit"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["rampart", "base"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", choices=["job"])
    arguments = parser.parse_args()
    file = RESULTS / "patience.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    with hold_work():
        for name in arguments.models:
            if arguments.only == "job":
                content[name]["batch_job"] = run_job(name)
                file.write_text(json.dumps(content, indent=1) + "\n")
                print(json.dumps(content[name]["batch_job"]))
                continue
            found = run_model(name, arguments.rounds, arguments.seconds)
            content[name] = {**machine.describe(), **found}
            file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
