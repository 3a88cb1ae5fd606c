"""Measure for how long a large request stalls all others: /health/live is polled every ms meanwhile.

Each kind of request is sent one after the other for some seconds. Printed are the polls that took longer than
2, 5 and 10 ms. From each poll is taken off what this process and the worker's threads (those that do not step
back) waited for a core meanwhile, as the kernel counts it in schedstat: other programs have no part in a stall.

usage: python -m bench.robustness.stalls [--seconds 5] [--kinds 500]
"""

import argparse
import contextlib
import dataclasses
import http.client
import json
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path

from bench.paths import RESULTS
from bench.serving import machine
from bench.serving.models import find_model
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

PAUSE = 0.001
LIMITS = {"request_timeout_ms": 600_000, "max_input_tokens": 10_000_000, "max_body_bytes": 8 * 2**20}
QUEUE = {"max_queue_tokens": 10_000_000, "max_queue_ms": None}
SENTENCE = (
    "Please send the papers of Maria Gonzalez to 12 Rue de l'Église, card 4111-1111-1111-1111, or write to "
    "maria.gonzalez@example.com; tel. +1 (555) 010-9999. Заранее спасибо, 田中さん, ευχαριστώ!"
)


def text_of(size: int) -> str:
    """Return a text of about `size` bytes in UTF-8."""
    chosen = random.Random(1).choices(SENTENCE.split(), k=size // 5)
    return " ".join(chosen).encode()[:size].decode(errors="ignore")


def kinds() -> dict[str, dict]:
    """Return the bodies, by name."""
    return {
        "nothing": {},
        "15 KB, every token": {"inputs": text_of(15_000)},
        "15 KB, all scores": {"inputs": text_of(15_000), "raw_scores": True},
        "60 KB, cut": {"inputs": text_of(60_000), "truncate": True},
        "500 KB, cut": {"inputs": text_of(500_000), "truncate": True},
        "2 MB, cut": {"inputs": text_of(2_000_000), "truncate": True},
        "8 MB, cut": {"inputs": text_of(8_000_000), "truncate": True},
        "60 KB, every token": {"inputs": text_of(60_000)},
        "60 KB, all scores": {"inputs": text_of(60_000), "raw_scores": True},
        "100,000 tokens, entities": {"inputs": text_of(300_000), "aggregation_strategy": "simple"},
        "100,000 tokens, every token": {"inputs": text_of(300_000)},
    }


def send(port: int, body: bytes, stop, done) -> None:
    """Send the body again and again until told to stop; count the answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    while not stop.is_set():
        connection.request("POST", "/predict_tokens", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        done.value += 1


def core_waits(pids: list[int]) -> float:
    """Return the milliseconds for which threads of normal priority have waited for a core so far."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if os.getpriority(os.PRIO_PROCESS, int(task.name)) == 0:
                    total += int((task / "schedstat").read_text().split()[1])
    return total / 1e6


def poll(port: int, pids: list[int], stop) -> list[float]:
    """Return the milliseconds of each poll, without what was waited for a core."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    while not stop.is_set():
        waited = core_waits(pids)
        started = time.perf_counter()
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        seconds = time.perf_counter() - started
        found.append(max(0, seconds * 1000 - (core_waits(pids) - waited)))
        time.sleep(PAUSE)
    return found


def worker_of(server: Server) -> int:
    """Return the process that serves: of the server's children the one with an event loop, and so most threads."""
    return max(
        (pid for pid in server.pids() if pid != server.process.pid),
        key=lambda pid: len(os.listdir(f"/proc/{pid}/task")),
    )


def measure(port: int, pids: list[int], body: dict, seconds: float) -> dict:
    """Poll while the request is sent, for `seconds` and until it was answered once; another process sends it."""
    fork = multiprocessing.get_context("fork")
    stop, done = fork.Event(), fork.Value("i", 0)
    sender = fork.Process(target=send, args=(port, json.dumps(body, ensure_ascii=False).encode(), stop, done))
    timer = threading.Timer(seconds, stop.set)
    if body:
        sender.start()
    timer.start()
    ended = fork.Event() if body else stop
    waiter = threading.Thread(target=lambda: (sender.join(), ended.set()))
    if body:
        waiter.start()
    found = sorted(poll(port, pids, ended))
    return {
        "polls": len(found),
        "p50_ms": round(found[len(found) // 2], 2),
        "p99_ms": round(found[int(len(found) * 0.99)], 2),
        "max_ms": round(found[-1], 1),
        **{f"above_{limit}_ms": sum(value > limit for value in found) for limit in (2, 5, 10)},
        "requests": done.value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--kinds", help="only those whose name contains this")
    parser.add_argument("--out", default="stalls")
    arguments = parser.parse_args()
    model = find_model("rampart")
    probe = Reference(model).requests(Workload(distinct=1)).bodies[0]
    spec = next(spec for spec in read_specs() if spec.name == "nerve" and spec.variant == "auto")
    settings = {"limits": LIMITS, "batching": QUEUE}
    server = Server(dataclasses.replace(spec, settings=settings), model, probe)
    result = {**machine.describe(), "kinds": {}}
    try:
        with server.turn():
            pids = [os.getpid(), worker_of(server)]
            for name, body in kinds().items():
                if not arguments.kinds or arguments.kinds in name:
                    result["kinds"][name] = measure(server.port, pids, body, arguments.seconds)
                    print(f"{name:28} {result['kinds'][name]}", flush=True)
            print(f"{server.rss_mib():.0f} MiB in all processes")
    finally:
        server.close()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
