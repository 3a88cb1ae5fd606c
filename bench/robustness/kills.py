"""What is lost when one of several processes before a card is killed: a front, then the process that runs the model.

The simulated card, with one, two and four fronts. While 64 connections are answered, SIGKILL hits one process; then
answers go on being counted. Lost: requests that got no answer or an error. Every answer is checked, and a wrong one
makes the status 1. A prober asks every 10 ms, each time over a new connection: the longest pause between two of its
answers is how long the server, as a client sees it, was away. Writes bench/results/kills.json.

usage: python -m bench.robustness.kills [--fronts 1 2 4] [--rounds 3] [--seconds 8]
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench.paths import RESULTS
from bench.serving import generators, machine
from bench.serving.models import find_model, hold_work
from bench.serving.run import learn_answers
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

CONNECTIONS = 64
PROBE_SECONDS = 0.01
HEADERS = {"content-type": "application/json"}
FRONT, ENGINE = b"spawn_main", b"engine_process"


class Prober(threading.Thread):
    """Asks again and again, each time over a new connection, until it is stopped."""

    def __init__(self, port: int, body: bytes) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._body = body
        self.answered: list[float] = []
        self.failures = 0
        self.is_stopped = threading.Event()

    def run(self) -> None:
        """Ask until it is stopped."""
        while not self.is_stopped.wait(PROBE_SECONDS):
            try:
                status = self._ask()
            except (OSError, HTTPException):
                status = 0
            if status == 200:
                self.answered.append(time.monotonic())
            else:
                self.failures += 1

    def _ask(self) -> int:
        with contextlib.closing(HTTPConnection("127.0.0.1", self._port, timeout=5)) as connection:
            connection.request("POST", "/predict_tokens", self._body, HEADERS)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def longest_pause(self) -> float:
        """Return the longest time between two answers, in seconds."""
        pairs = zip(self.answered, self.answered[1:], strict=False)
        return max((later - earlier for earlier, later in pairs), default=float("inf"))


def find(server: Server, kind: bytes) -> int | None:
    """Return a process of the server by what stands in its command line."""
    for pid in server.pids():
        with contextlib.suppress(OSError):
            if kind in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def kill(server: Server, target: generators.Target, kind: bytes, seconds: float) -> dict:
    """Kill one process of a kind under load; return what became of the requests."""
    with server.turn():
        victim = find(server, kind)
        if victim is None:
            raise RuntimeError(f"the server has no process with {kind!r}")
        prober = Prober(server.port, target.bodies[0])
        prober.start()
        timer = threading.Timer(seconds / 4, os.kill, (victim, signal.SIGKILL))
        timer.start()
        seen = generators.closed_loop(target, CONNECTIONS, seconds, reuse=True)
        prober.is_stopped.set()
        prober.join()
        settled = generators.closed_loop(target, CONNECTIONS, 2, reuse=True)
    return {
        "answers": seen["right"] + seen["near"],
        "errors": seen["errors"],
        "probes failed": prober.failures,
        "longest pause s": round(prober.longest_pause(), 3),
        "errors afterwards": settled["errors"],
        "rps afterwards": settled["rps"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fronts", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    arguments = parser.parse_args()
    result: dict = {**machine.describe(), "connections": CONNECTIONS, "fronts": {}}
    spec = next(one for one in read_specs() if one.label == "nerve/auto")
    is_wrong = False
    with hold_work(), contextlib.ExitStack() as held:
        model = find_model("card")
        requests = Reference(model).requests(Workload())
        for count in arguments.fronts:
            own = dataclasses.replace(
                spec, variant=f"{count} fronts", settings={"server": {"workers": count}}
            )
            server = held.enter_context(contextlib.closing(Server(own, model, requests.bodies[0])))
            target = learn_answers(server, requests)
            found = result["fronts"][str(count)] = {"front": [], "engine": []}
            for number in range(arguments.rounds):
                for name, kind in (("front", FRONT), ("engine", ENGINE)):
                    if name == "engine" and count == 1:
                        continue  # the one process is both
                    seen = kill(server, target, kind, arguments.seconds)
                    found[name].append(seen)
                    is_wrong |= "wrong" in seen["errors"]
                    print(count, name, number, json.dumps(seen), flush=True)
    (RESULTS / "kills.json").write_text(json.dumps(result, indent=1) + "\n")
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
