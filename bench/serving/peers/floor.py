"""The floor (f): the graph called in process on ready token ids. No HTTP, no tokenizer, no answer.

Reads {"ids": [[[...], ...], ...]} (requests, texts, tokens) from the file in argv[1] and calls the graph
text by text from BENCH_WORKERS threads over one session for argv[2] seconds after argv[3] seconds of
warm-up. Prints JSON: latencies in microseconds, the seconds they took, and the CPU seconds used.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from onnx_model import Graph, threads


def caller(graph: Graph, feeds: list, outputs: list[str], until: float, latencies: list[int]) -> None:
    at = 0
    while time.perf_counter() < until:
        start = time.perf_counter_ns()
        for feed in feeds[at % len(feeds)]:
            graph.session.run(outputs, feed)
        latencies.append((time.perf_counter_ns() - start) // 1000)
        at += 1


def run(graph: Graph, feeds: list, outputs: list[str], seconds: float) -> dict:
    n_callers = int(os.environ["BENCH_WORKERS"])
    per_caller: list[list[int]] = [[] for _ in range(n_callers)]
    start, cpu = time.perf_counter(), time.process_time()
    pool = [
        threading.Thread(
            target=caller, args=(graph, feeds[i:] + feeds[:i], outputs, start + seconds, latencies)
        )
        for i, latencies in enumerate(per_caller)
    ]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return {
        "latencies_us": [value for values in per_caller for value in values],
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }


def main(requests: str, seconds: str, warm_up: str) -> None:
    graph = Graph(os.environ["BENCH_GRAPH"], threads())
    work = json.loads(Path(requests).read_text())
    feeds = [[graph.feed([ids]) for ids in texts] for texts in work["ids"]]
    outputs = ["label_ids", "scores"] if graph.has_top and not work["raw_scores"] else ["logits"]
    run(graph, feeds, outputs, float(warm_up))
    print(json.dumps(run(graph, feeds, outputs, float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
