"""Measure what programs that keep every core busy do to the server, by the priority of the threads that compute.

Two jobs: documents on four connections all the time, while another one asks /health/live every 20 ms; and a 36-token
sentence every 50 ms. Each alone, and beside one spinning process for each core (nice 0, same control group). Three
servers in turns, round after round: `cpu.niceness` 10 and 0, and one whose threads are all put back to the normal
priority, as if nothing gave way. Clients wait for a core beside the spinning processes, too. Writes
bench/results/neighbours.json.

usage: python -m bench.robustness.neighbours [--rounds 2] [--seconds 4]
"""

import argparse
import contextlib
import dataclasses
import http.client
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

from bench.paths import RESULTS
from bench.robustness.isolation import percentiles
from bench.serving import machine
from bench.serving.models import find_model
from bench.serving.servers import CORES, Server, read_specs
from bench.serving.workload import Reference, Workload

# Name of the server -> `cpu.niceness`; what it does not say is put right from outside.
SERVERS = {"niceness 10": 10, "niceness 0": 0, "all equal": 0}
DOCUMENTS = 4
DOCUMENT_SENTENCES = 20  # more than 512 tokens: for the lane of large requests
LIVE_PAUSE = 0.02
SHORT_PAUSE = 0.05
JSON = {"content-type": "application/json"}


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


@contextlib.contextmanager
def spinning(count: int):
    """Run processes that spin."""
    neighbours = [multiprocessing.get_context("fork").Process(target=spin, daemon=True) for _ in range(count)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.join()


def ask(port: int, method: str, path: str, body: bytes | None, pause: float, stop, found: list) -> None:
    """Ask again and again until told to stop; note the milliseconds of each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while not stop.is_set():
        started = time.perf_counter()
        connection.request(method, path, body, JSON if body else {})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        found.append((time.perf_counter() - started) * 1000)
        time.sleep(pause)


def put_right(server: Server) -> None:
    """Put every thread of a server back to the normal priority; needs root."""
    for pid in server.pids():
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), 0)


def run(seconds: float, jobs: list[tuple]) -> float:
    """Ask by all jobs, one thread each; return for how long."""
    stop = threading.Event()
    threads = [threading.Thread(target=ask, args=(*job[:-1], stop, job[-1])) for job in jobs]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    passed = time.perf_counter() - started
    stop.set()
    for thread in threads:
        thread.join()
    return passed


def measure(server: Server, sentence: bytes, document: bytes, seconds: float) -> dict:
    """Return the percentiles of probes beside documents, and of sentences alone."""
    live, sentences, documents = [], [], []
    one = (server.port, "POST", "/predict_tokens", document, 0.0, documents)
    passed = run(seconds, [(server.port, "GET", "/health/live", None, LIVE_PAUSE, live), *[one] * DOCUMENTS])
    n_documents = max(0, len(documents) - DOCUMENTS)  # the last ones were answered afterwards
    run(seconds, [(server.port, "POST", "/predict_tokens", sentence, SHORT_PAUSE, sentences)])
    return {
        "live_ms": percentiles(live),
        "documents_per_second": round(n_documents / passed, 2),
        "sentence_ms": percentiles(sentences),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    model = find_model("rampart")
    sentence = Reference(model).requests(Workload(distinct=1)).bodies[0]
    text = " ".join(json.loads(sentence)["inputs"] * DOCUMENT_SENTENCES)
    document = json.dumps({"inputs": text, "aggregation_strategy": "simple"}).encode()
    spec = next(spec for spec in read_specs() if spec.name == "nerve" and spec.variant == "auto")
    limits = {"request_timeout_ms": 120_000}
    servers = {}
    found = {name: {"alone": [], "beside": []} for name in SERVERS}
    try:
        for name, value in SERVERS.items():
            settings = {"limits": limits, "cpu": {"niceness": value}}
            variant = name.replace(" ", "-")
            servers[name] = Server(
                dataclasses.replace(spec, variant=variant, settings=settings), model, sentence
            )
        put_right(servers["all equal"])
        for _ in range(arguments.rounds):
            for name, server in servers.items():
                with server.turn():
                    found[name]["alone"].append(measure(server, sentence, document, arguments.seconds))
                    with spinning(CORES):
                        found[name]["beside"].append(measure(server, sentence, document, arguments.seconds))
    finally:
        for server in servers.values():
            server.close()
    result = {**machine.describe(), "spinning": CORES, "document_connections": DOCUMENTS, "servers": found}
    (RESULTS / "neighbours.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, conditions in found.items():
        for condition, rounds in conditions.items():
            for entry in rounds:
                live, short = entry["live_ms"], entry["sentence_ms"]
                print(
                    f"{name:12} {condition:7} live p50 {live['p50']:6} p99 {live['p99']:6} max {live['max']:6}",
                    f"  documents/s {entry['documents_per_second']:5}",
                    f"  sentence p50 {short['p50']:6} p99 {short['p99']:6}",
                )


if __name__ == "__main__":
    main()
