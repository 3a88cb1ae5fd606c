"""Measure what large bodies take of memory: two of each kind are sent at once to a server of their own.

Noted are the statuses, the slower answer, the growth of the server's memory at its peak and 2 s after the answers, and
the slowest of the short requests that are sent meanwhile.

usage: python -m bench.robustness.memory [--bytes 8388000] [--kinds list]
"""

import argparse
import concurrent.futures
import dataclasses
import gzip
import http.client
import json
import time
from pathlib import Path

from bench.paths import RESULTS
from bench.robustness.stalls import text_of
from bench.serving import machine
from bench.serving.models import find_model
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload


def kinds(size: int) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return bodies of about `size` bytes and their headers, by name."""
    left = size - 100

    def body(**fields) -> bytes:
        return json.dumps(fields, ensure_ascii=False).encode()

    words = text_of(left)
    made = {
        "words": body(inputs=words),
        "words, cut at the right": body(inputs=words, truncate=True),
        "words, cut at the left": body(inputs=words, truncate=True, truncation_direction="Left"),
        "128 texts of words": body(inputs=[text_of(left // 128 - 4)] * 128),
        "128 texts of words, cut": body(inputs=[text_of(left // 128 - 4)] * 128, truncate=True),
        "punctuation": body(inputs="!" * left),
        "Chinese": body(inputs="東京" * (left // 6)),
        "kana and marks": body(inputs="あ、" * (left // 6)),
        "one word": body(inputs="a" * left),
        "one Thai word": body(inputs="ไทย" * (left // 9)),
        "spaces": body(inputs=" " * left),
        "many texts": body(inputs=["a"] * (left // 5)),
        "numbers": body(inputs=[1] * (left // 3)),
        "lists": body(inputs=[[]] * (left // 4)),
    }
    found = {name: (content, {}) for name, content in made.items()}
    found["gzip of words"] = (gzip.compress(made["words"], 1), {"content-encoding": "gzip"})
    found["gzip of spaces"] = (gzip.compress(made["spaces"]), {"content-encoding": "gzip"})
    return found


def ask(port: int, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
    """Return the status of a request and its seconds."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/predict_tokens", body, {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, time.perf_counter() - started


def memory_mib(server: Server, line: str) -> float:
    """Return a line of the status of the server's processes, added up."""
    found = 0
    for pid in server.pids():
        fields = dict(one.split(":", 1) for one in Path(f"/proc/{pid}/status").read_text().splitlines())
        found += int(fields[line].split()[0])
    return found / 1024


def measure(server: Server, body: bytes, headers: dict[str, str]) -> dict:
    """Send the body twice at once, and short requests beside it."""
    short = b'{"inputs": "Maria Gonzalez lives here."}'
    for _ in range(20):
        ask(server.port, short, {})
    before = memory_mib(server, "VmRSS")
    slowest = 0.0
    with concurrent.futures.ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(ask, server.port, body, headers) for _ in range(2)]
        while not all(answer.done() for answer in answers):
            slowest = max(slowest, ask(server.port, short, {})[1])
            time.sleep(0.01)
    time.sleep(2)
    return {
        "statuses": [answer.result()[0] for answer in answers],
        "seconds": round(max(answer.result()[1] for answer in answers), 2),
        "peak_mib": round(memory_mib(server, "VmHWM") - before),
        "kept_mib": round(memory_mib(server, "VmRSS") - before),
        "slowest_short_ms": round(slowest * 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=8_388_000)
    parser.add_argument("--kinds", help="only those whose name contains this")
    parser.add_argument("--out", default="memory")
    arguments = parser.parse_args()
    model = find_model("rampart")
    probe = Reference(model).requests(Workload(distinct=1)).bodies[0]
    spec = next(spec for spec in read_specs() if spec.name == "nerve" and spec.variant == "auto")
    settings = {"limits": {"max_body_bytes": 8 * 2**20}}
    result = {**machine.describe(), "bytes": arguments.bytes, "kinds": {}}
    for name, (body, headers) in kinds(arguments.bytes).items():
        if arguments.kinds and arguments.kinds not in name:
            continue
        server = Server(dataclasses.replace(spec, settings=settings), model, probe)
        try:
            with server.turn():
                result["kinds"][name] = measure(server, body, headers)
        finally:
            server.close()
        print(f"{name:26} {result['kinds'][name]}", flush=True)
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
