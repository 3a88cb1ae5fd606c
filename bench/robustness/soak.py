"""Soak: mixed sizes and bad input against a started `nerve serve`, for minutes; every answer is checked.

    python -m bench.robustness.soak [--minutes 10] [--config config.yaml] [--report result.json]

Good requests are compared, entity by entity, with what the server said of the same texts when it was idle. Bad ones
must get the status of the contract. Some clients leave early, some set a deadline that cannot be met. Memory of all
the server's processes is sampled each second; its slope is that of a straight line through the samples after the
warm-up, which is the first third. Ends with status 1 above 1 MB a minute, or with a wrong answer or status.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.paths import REPOSITORY
from bench.serving import machine
from bench.serving.workload import CITY, FIRST, LAST, PLAIN

MOST_GROWTH = 1.0  # MB a minute
CLIENTS = 4
# What a client is answered that sends this; the key is only a name for the report.
BAD = {
    "not json": (b'{"inputs": ', {}, {400}),
    "not utf-8": (b'{"inputs": "\xff\xfe"}', {}, {400}),
    "wrong type": (b'{"inputs": 7}', {}, {422}),
    "mixed levels": (b'{"inputs": ["a", ["b"]]}', {}, {422}),
    "unknown field": (b'{"inputs": "a", "agregation": "simple"}', {}, {422}),
    "no inputs": (b'{"inputs": []}', {}, {422}),
    "too many inputs": (json.dumps({"inputs": ["a"] * 1000}).encode(), {}, {422}),
    "media type": (b"inputs=a", {"content-type": "text/csv"}, {415}),
    "bad header": (b'{"inputs": "a"}', {"request-timeout-ms": "soon"}, {422}),
    "past deadline": (b'{"inputs": "a"}', {"request-deadline-ms": "1000"}, {504}),
    "tight deadline": (
        json.dumps({"inputs": "call Ann in Paris " * 400}).encode(),
        {"request-timeout-ms": "2"},
        {504},
    ),
    "too large": (b"x" * (9 * 2**20), {}, {413}),
    "blank": (b'{"inputs": "   ", "aggregation_strategy": "simple"}', {}, {200}),
}


def make_good(choose: random.Random) -> bytes:
    """Return a request of one or several texts, most of them short."""
    texts = []
    for _ in range(choose.choice((1, 1, 1, 2, 8))):
        words = choose.choice((3, 10, 25, 25, 60, 150, 600))
        parts = choose.choices(PLAIN, k=words)
        parts[words // 2] = f"{choose.choice(FIRST)} {choose.choice(LAST)} in {choose.choice(CITY)}"
        texts.append(" ".join(parts))
    strategy = choose.choice(("none", "simple", "first", "average", "max"))
    return json.dumps({"inputs": texts, "aggregation_strategy": strategy}).encode()


def found_in(body: bytes) -> list:
    """Return what an answer found, without its scores: the mates of a batch change their last digits."""
    return [
        [(row["token"], row["token_id"], row["start"], row["end"], *row["results"]) for row in rows]
        for rows in json.loads(body)
    ]


class Client:
    """One connection, opened again when it breaks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, body: bytes, headers: dict | None = None) -> tuple[int, bytes]:
        """Send one prediction; returns status and body, (0, reason) when no answer came."""
        try:
            with contextlib.suppress(
                BrokenPipeError, ConnectionResetError
            ):  # it may answer before it has read all
                self.connection.request(
                    "POST", "/predict_tokens", body, {"content-type": "application/json", **(headers or {})}
                )
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return 0, repr(error).encode()

    def leave(self, body: bytes) -> None:
        """Send a request and go before it is answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as one:
            one.sendall(
                b"POST /predict_tokens HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )


class Soak:
    """The clients, and what they saw."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.until = 0.0
        self.outcomes: Counter[str] = Counter()
        self.examples: list[str] = []
        self.lock = threading.Lock()
        choose = random.Random(1)
        asker = Client(port)
        self.good = []
        for _ in range(200):
            body = make_good(choose)
            status, answer = asker.post(body)
            if status != 200:
                raise SystemExit(f"the idle server answered {status}: {answer[:200]!r}")
            self.good.append((body, found_in(answer)))

    def note(self, outcome: str, example: str = "") -> None:
        """Count an outcome, and keep the first examples."""
        with self.lock:
            self.outcomes[outcome] += 1
            if example and len(self.examples) < 20:
                self.examples.append(example)

    def work(self, seed: int) -> None:
        """Be one client until the time is over."""
        choose = random.Random(seed)
        client = Client(self.port)
        while time.monotonic() < self.until:
            dice = choose.random()
            if dice < 0.05:
                client.leave(choose.choice(self.good)[0])
                self.note("left")
            elif dice < 0.25:
                name = choose.choice(list(BAD))
                body, headers, expected = BAD[name]
                status, answer = client.post(body, headers)
                if status in expected:
                    self.note(f"bad input, {status}")
                else:
                    self.note("unexpected status", f"{name}: {status} {answer[:200]!r}")
            else:
                body, expected = choose.choice(self.good)
                status, answer = client.post(body)
                if status == 200:
                    self.note("right" if found_in(answer) == expected else "wrong answer", "")
                elif status == 429:
                    self.note("refused")
                else:
                    self.note("unexpected status", f"good input: {status} {answer[:200]!r}")


def tree_rss_mb(pid: int) -> float:
    """Return the resident memory of a process and its descendants, in MB of 10^6 bytes."""
    return sum(rss_by_kind(pid).values())


def rss_by_kind(pid: int) -> Counter[str]:
    """Return the resident memory of a server's processes by what they are, in MB of 10^6 bytes."""
    found: Counter[str] = Counter()

    def add(process: int, depth: int) -> None:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        found[("server", "workers")[min(depth, 1)]] += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            add(int(child), depth + 1)

    add(pid, 0)
    return found


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a straight line through (x, y) samples."""
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / sum((x - mean_x) ** 2 for x, _ in samples)


def wait_ready(port: int, process: subprocess.Popen) -> None:
    """Return when the server is ready."""
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    raise SystemExit("the server did not become ready")


@contextlib.contextmanager
def serving(config: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """Run `nerve serve` on a free port while the block runs; give the port and the process."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = {"NERVE_SERVER__HOST": "127.0.0.1", "NERVE_SERVER__PORT": str(port)}
    command = [sys.executable, "-m", "nerve", "serve", "--config", config]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    try:
        wait_ready(port, process)
        yield port, process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)


def main() -> int:
    """Run the soak and print its report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--config", default=str(REPOSITORY / "config.yaml"))
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    with serving(options.config) as (port, process):
        soak = Soak(port)
        soak.until = time.monotonic() + options.minutes * 60
        threads = [threading.Thread(target=soak.work, args=(seed,)) for seed in range(CLIENTS)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        samples = []
        while time.monotonic() < soak.until:
            time.sleep(1)
            samples.append(((time.monotonic() - started) / 60, rss_by_kind(process.pid)))
        for thread in threads:
            thread.join()
    after = [sample for sample in samples if sample[0] > options.minutes / 3]
    report = {
        **machine.describe(),
        "minutes": options.minutes,
        "rss_mb_per_minute": round(slope([(minute, rss.total()) for minute, rss in after]), 3),
        "rss_mb_per_minute_of": {
            kind: round(slope([(minute, rss[kind]) for minute, rss in after]), 3) for kind in after[-1][1]
        },
        "rss_mb": {
            "start": round(samples[0][1].total(), 1),
            "after_warm_up": round(after[0][1].total(), 1),
            "end": round(after[-1][1].total(), 1),
            "most": round(max(rss.total() for _, rss in samples), 1),
        },
        "wrong_answers": soak.outcomes["wrong answer"],
        "unexpected_statuses": soak.outcomes["unexpected status"],
        "exit_status": process.returncode,
        "outcomes": dict(sorted(soak.outcomes.items())),
        "examples": soak.examples,
    }
    print(json.dumps(report, indent=2))
    if options.report:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    is_good = (
        report["rss_mb_per_minute"] <= MOST_GROWTH
        and not report["wrong_answers"]
        and not report["unexpected_statuses"]
        and process.returncode == 0
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
