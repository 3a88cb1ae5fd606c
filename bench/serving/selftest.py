"""Test of the open-loop generator: stalls of the server must show in its percentiles.

peers/stalling.py blocks its event loop for 100 ms every 2 s, so 5 % of evenly spaced requests arrive
during a stall and the true p99 is 80 ms. A generator that waits for answers would miss most of it; k6 must see the
same. Also tested: wrong answers are counted, answers that differ in decimals are told apart, connections that the
server closed while idle are not used, and undoing wrk's correction restores the histogram.

usage: python -m bench.serving.selftest
"""

import contextlib
import sys
from collections import Counter

from bench.serving.generators import (
    Target,
    closed_loop,
    judge,
    open_loop,
    open_loop_by_k6,
    undo_correction,
)
from bench.serving.models import BenchModel, hold_work
from bench.serving.servers import HERE, Server, ServerSpec

NOTHING = BenchModel("none", HERE, HERE, {})
RIGHT = b'{"message":"hello"}'


def correct(histogram: Counter, interval: int) -> Counter:
    """Do what wrk does to its histogram at the end of a run."""
    out = Counter(histogram)
    for value, count in histogram.items():
        for lower in range(value - interval, interval, -interval) if value >= 2 * interval else ():
            out[lower] += count
    return out


def check_correction() -> None:
    measured = Counter({900: 50, 1000: 30, 1100: 10, 2500: 3, 7300: 2, 7301: 1, 5300: 4})
    assert undo_correction(correct(measured, 1000), 1000) == measured
    print("wrk's correction is undone exactly")


def check_judge() -> None:
    right = b'[{"token_id":7,"score":0.25}]'
    assert judge(200, right, right) == "right"
    assert judge(200, b'[{"token_id":7,"score":0.2511}]', right) == "near"
    assert judge(200, b'[{"token_id":7,"score":0.26}]', right) == "wrong"
    assert judge(200, b'[{"token_id":8,"score":0.25}]', right) == "wrong"
    assert judge(503, right, right) == "refused"
    print("answers are told apart")


def check_stalls(server: Server) -> None:
    target = Target(server.url, "/hello_world", [b"{}"], [RIGHT])
    for run in (open_loop, open_loop_by_k6):
        with server.turn():
            seen = run(target, rate=300, seconds=10)
        print(f"{run.__name__} on a stalling server: {seen['latency_ms']}, lateness {seen['lateness_ms']}")
        print(f"  {seen['generator_cores']:.3f} cores; " + ("; ".join(seen["invalid"]) or "valid"))
        assert not seen["errors"], seen["errors"]
        assert seen["latency_ms"]["p99"] >= 80, "the generator hides stalls"


def check_idle_connections(server: Server) -> None:
    """Uvicorn closes the connection of the first request 5 s after it."""
    target = Target(server.url, "/hello_world", [b"{}"], [RIGHT])
    with server.turn():
        seen = open_loop(target, rate=1 / 7, seconds=14)
        burst = open_loop(target, rate=1000, seconds=0.5, reuse=False)
    assert seen["right"] == 2, seen
    assert (burst["right"], burst["connects"]) == (500, 500), burst
    print("a connection that the server closed is not used again, and new ones made where none is reused")


def check_wrong_answers(server: Server) -> None:
    target = Target(server.url, "/hello_world", [b"{}"], [b'{"message":"goodbye"}'])
    with server.turn():
        for seen in (
            closed_loop(target, 4, 1, reuse=True),
            open_loop(target, rate=50, seconds=1),
            open_loop_by_k6(target, rate=50, seconds=1),
        ):
            assert seen["errors"].get("wrong") == seen["requests"] > 0, seen
    print("wrong answers are counted by all generators")


def main() -> int:
    check_correction()
    check_judge()
    spec = ServerSpec("stalling", "1", ["{python}", "stalling.py"], route="/hello_world")
    with hold_work(), contextlib.closing(Server(spec, NOTHING, b"{}")) as server:
        check_stalls(server)
        check_wrong_answers(server)
        check_idle_connections(server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
