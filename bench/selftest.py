"""Test of the open-loop generator: stalls of the server must show in its percentiles.

peers/stalling.py blocks its event loop for 100 ms every 2 s, so 5 % of evenly spaced requests arrive
during a stall and the true p99 is 80 ms. A generator that waits for answers would miss most of it. Also
tested: wrong answers are counted, and undoing wrk's correction restores the histogram.

usage: python bench/selftest.py
"""

import contextlib
import sys
from collections import Counter

from generators import Target, closed_loop, open_loop, undo_correction
from models import BenchModel, hold_work
from servers import HERE, Server, ServerSpec

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


def check_stalls(server: Server) -> None:
    with server.turn():
        seen = open_loop(Target(server.url, "/hello_world", [b"{}"], [RIGHT]), rate=300, seconds=10)
    print(f"open loop on a stalling server: {seen['latency_ms']}, lateness {seen['lateness_ms']}")
    print("  " + ("; ".join(seen["invalid"]) or "valid"))
    assert not seen["errors"], seen["errors"]
    assert seen["latency_ms"]["p99"] >= 80, "the generator hides stalls"


def check_wrong_answers(server: Server) -> None:
    target = Target(server.url, "/hello_world", [b"{}"], [b'{"message":"goodbye"}'])
    with server.turn():
        for seen in (closed_loop(target, 4, 1, reuse=True), open_loop(target, rate=50, seconds=1)):
            assert seen["errors"].get("wrong") == seen["requests"] > 0, seen
    print("wrong answers are counted by both generators")


def main() -> int:
    check_correction()
    spec = ServerSpec("stalling", "1", ["{python}", "stalling.py"], route="/hello_world")
    with hold_work(), contextlib.closing(Server(spec, NOTHING, b"{}")) as server:
        check_stalls(server)
        check_wrong_answers(server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
