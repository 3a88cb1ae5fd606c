"""Measure what a long document does to the latency of short requests sent meanwhile.

One connection sends a 36-token sentence every 20 ms; the server answers first alone, then while it works on
one document of about 100,000 tokens; round after round. Writes bench/results/isolation.json.

usage: python -m bench.robustness.isolation [--rounds 3] [--tokens 100000]
"""

import argparse
import dataclasses
import http.client
import json
import statistics
import threading
import time

from bench.paths import RESULTS
from bench.serving import machine
from bench.serving.models import find_model
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

PAUSE = 0.02
ALONE = 600
WAIT_MS = "600000"


class Short:
    """A client that sends the same short request and checks its answer."""

    def __init__(self, server: Server, body: bytes, answer: bytes):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.body, self.answer = body, answer

    def ask(self) -> float:
        """Return the milliseconds of one request."""
        started = time.perf_counter()
        self.connection.request("POST", "/predict_tokens", self.body, {"content-type": "application/json"})
        answer = self.connection.getresponse().read()
        assert answer == self.answer, "a wrong answer"
        return (time.perf_counter() - started) * 1000

    def series(self, count: int, stop: threading.Event | None = None) -> list[float]:
        """Ask until `count` answers or `stop`; return the milliseconds."""
        found = []
        while len(found) < count and not (stop and stop.is_set()):
            found.append(self.ask())
            time.sleep(PAUSE)
        return found


def ask_document(server: Server, text: str, done: threading.Event, seen: dict) -> None:
    """Send the document and note how long it took."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    body = json.dumps({"inputs": text, "aggregation_strategy": "simple"})
    headers = {"content-type": "application/json", "request-timeout-ms": WAIT_MS}
    started = time.perf_counter()
    connection.request("POST", "/predict_tokens", body, headers)
    answer = connection.getresponse()
    answer.read()
    seen.update(
        status=answer.status,
        tokens=int(answer.getheader("x-compute-tokens", 0)),
        seconds=round(time.perf_counter() - started, 2),
    )
    done.set()


def percentiles(values: list[float]) -> dict[str, float]:
    """Return what is reported of a series."""
    ordered = sorted(values)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: round(ordered[int(len(ordered) * share)], 2) for name, share in shares.items()}
    return {**found, "max": round(ordered[-1], 2), "requests": len(ordered)}


def measure(server: Server, body: bytes, document: str, count: int) -> list[dict]:
    """Return what each round showed."""
    short = Short(server, body, server.post(body))
    short.series(100)
    rounds = []
    for number in range(count):
        done, seen = threading.Event(), {}
        alone = percentiles(short.series(ALONE))
        worker = threading.Thread(target=ask_document, args=(server, document, done, seen))
        worker.start()
        meanwhile = percentiles(short.series(10**9, done))
        worker.join()
        rounds.append({"alone": alone, "meanwhile": meanwhile, "document": seen})
        print(f"round {number + 1}: alone {alone}, meanwhile {meanwhile}, document {seen}")
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=100_000)
    arguments = parser.parse_args()
    model = find_model("rampart")
    requests = Reference(model).requests(Workload(distinct=1))
    sentence = json.loads(requests.bodies[0])["inputs"][0]
    document = " ".join([sentence] * (arguments.tokens // 34))
    spec = next(spec for spec in read_specs() if spec.name == "nerve" and spec.variant == "auto")
    limits = {"request_timeout_ms": int(WAIT_MS), "max_input_tokens": 2 * arguments.tokens}
    server = Server(dataclasses.replace(spec, settings={"limits": limits}), model, requests.bodies[0])
    try:
        with server.turn():
            rounds = measure(server, requests.bodies[0], document, arguments.rounds)
    finally:
        server.close()
    ratios = [entry["meanwhile"]["p99"] / entry["alone"]["p99"] for entry in rounds]
    result = {**machine.describe(), "rounds": rounds, "p99_ratio": [round(ratio, 2) for ratio in ratios]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "isolation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"p99 meanwhile over alone: median {statistics.median(ratios):.2f} of {result['p99_ratio']}")


if __name__ == "__main__":
    main()
