"""Measure several servers behind the shipped Nginx: throughput, fairness, and what clients see of a fault.

Two and three servers of the default model (float32), one engine thread each, on this machine's cores:

- throughput: 24 clients with sentences, against one, two and three servers; a third server on two cores can add none.
- unequal: 8 clients with sentences beside 4 with documents of about 3,000 words: the sentences' p99, and how the work
  was shared.
- killed: one server is killed (SIGKILL) under load, and started again after five seconds.
- slow: one server computes for a tenth of the time only (it is stopped and continued).
- draining: one server gets SIGTERM under load and goes.
- rolling: every server in turn gets SIGTERM, is started anew, and the next follows three seconds after readiness.

In the last four no request may fail. Rounds follow each other; `servers` has the medians, the longest
answer, and the sums of what was answered and of what failed. Writes bench/results/replicas.json. Needs nginx; the
defaults take about seven minutes.

With --docs it renders the result file into docs/benchmarks/replicas.md.

usage: python -m bench.deploy.replicas [--seconds 6] [--rounds 3] [--docs]
"""

import argparse
import json
import signal
import statistics
import threading
import time
from datetime import UTC, datetime
from itertools import chain

from bench.deploy.fleet import PASSIVE_HEALTH_SECONDS, Clients, Fleet, bodies_of, fleet
from bench.paths import REPOSITORY, RESULTS
from bench.serving import machine
from bench.serving.render import fill

FILE = RESULTS / "replicas.json"
PAGE = REPOSITORY / "docs" / "benchmarks" / "replicas.md"
BEGIN = "<!-- results: made by bench/deploy/replicas.py -->"
BODIES = {"sentence": bodies_of(25), "document": bodies_of(3000, 8)}
SENTENCES = {"sentence": 24}
# On SIGTERM a server serves for so long with readiness off; Nginx does not ask for readiness, so it costs nothing here.
DRAIN_MS = "500"


def share(before: list[float], servers: list) -> list[float]:
    """Return the share of the answers that each server gave."""
    given = [server.answered() - already for server, already in zip(servers, before, strict=True)]
    return [round(each / max(1.0, sum(given)), 3) for each in given]


def load(held: Fleet, seconds: float, counts: dict[str, int]) -> dict:
    """Load the fleet; return what clients saw, and the servers' shares."""
    before = [server.answered() for server in held.servers]
    with Clients(held.port, BODIES, counts) as clients:
        time.sleep(seconds)
    return {**clients.outcome.summary(), "shares": share(before, held.servers)}


def killed(held: Fleet, seconds: float) -> dict:
    with Clients(held.port, BODIES, SENTENCES) as clients:
        time.sleep(seconds / 4)
        victim = held.servers[0]
        victim.close()
        time.sleep(5)
        victim.start()
        time.sleep(seconds / 4)
    return clients.outcome.summary()


def slow(held: Fleet, seconds: float) -> dict:
    done = threading.Event()

    def hold_back() -> None:
        while not done.is_set():
            held.servers[0].signal_all(signal.SIGSTOP)
            done.wait(0.09)
            held.servers[0].signal_all(signal.SIGCONT)
            done.wait(0.01)

    before = [server.answered() for server in held.servers]
    holder = threading.Thread(target=hold_back)
    holder.start()
    with Clients(held.port, BODIES, SENTENCES) as clients:
        time.sleep(seconds)
    done.set()
    holder.join()
    return {**clients.outcome.summary(), "shares": share(before, held.servers)}


def draining(held: Fleet, seconds: float) -> dict:
    with Clients(held.port, BODIES, SENTENCES) as clients:
        time.sleep(seconds / 4)
        status = held.servers[0].terminate()
        time.sleep(seconds / 4)
    held.servers[0].start()
    return {**clients.outcome.summary(), "exit_status": status}


def rolling(held: Fleet, seconds: float) -> dict:
    statuses = []
    with Clients(held.port, BODIES, SENTENCES) as clients:
        time.sleep(seconds / 4)
        for server in held.servers:
            statuses.append(server.terminate())
            server.start()
            time.sleep(PASSIVE_HEALTH_SECONDS)
        time.sleep(seconds / 4)
    return {**clients.outcome.summary(), "exit_statuses": statuses}


def measure(count: int, seconds: float) -> dict:
    """Run everything against so many servers."""
    found: dict = {}
    with fleet(count, NERVE_SERVER__DRAIN_DELAY_MS=DRAIN_MS) as held:
        load(held, 2, SENTENCES)
        found["throughput"] = load(held, seconds, SENTENCES)
        found["unequal"] = load(held, seconds, {"sentence": 8, "document": 4})
        if count > 1:
            for fault in (killed, slow, draining, rolling):
                found[fault.__name__] = fault(held, seconds)
        for name, seen in found.items():
            print(count, name, json.dumps(seen), flush=True)
    return found


def middle(rounds: list[dict]) -> dict:
    """Return one case of several rounds: medians, sums of `answered` and `failed`, every exit status."""
    found: dict = {}
    for name in dict.fromkeys(name for each in rounds for name in each):
        values = [each[name] for each in rounds if name in each]
        if name == "failed":
            found[name] = {kind: sum(each.get(kind, 0) for each in values) for kind in {*chain(*values)}}
        elif name == "exit_statuses":
            found[name] = [status for each in values for status in each]
        elif name == "exit_status":
            found[name] = max(values, key=abs)
        elif name == "answered":
            found[name] = sum(values)
        elif isinstance(values[0], dict):
            found[name] = middle(values)
        elif isinstance(values[0], list):
            found[name] = [round(statistics.median(each), 3) for each in zip(*values, strict=True)]
        else:
            middle_one = max(values) if name == "max_ms" else statistics.median(values)
            found[name] = round(middle_one, 1)
    return found


def render(content: dict) -> str:
    """Return the results as Markdown."""
    lines = [
        "| servers | load | sentences/s | p50 ms | p99 ms | longest ms | documents, p50 s | shares | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for count, parts in content["servers"].items():
        for name, seen in parts.items():
            one = seen["sentence"]
            shares = ", ".join(f"{each:.0%}" for each in seen.get("shares", []))
            cells = [count, name, one["rps"], one["p50_ms"], one["p99_ms"], one["max_ms"]]
            cells += [f"{seen['document']['p50_ms'] / 1000:.1f}" if "document" in seen else "", shares]
            lines.append(f"| {' | '.join(map(str, cells))} | {sum(seen['failed'].values())} |")
    answered = sum(
        each["sentence"]["answered"] for parts in content["servers"].values() for each in parts.values()
    )
    facts = content["machine"]
    lines += [
        "",
        f"{answered} answers in {len(content.get('rounds', [0]))} rounds, of which these are the medians. "
        f"{content['seconds']:g} s of load each (less or more where the fault takes its own time), "
        f"{content['started'][:10]}, commit {content['commit']}, {facts['cores']} cores of {facts['cpu']}, load "
        f"before: {facts['load_before']:.1f}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--docs", action="store_true", help="measure nothing; render the result file")
    arguments = parser.parse_args()
    if arguments.docs:
        fill(PAGE, render(json.loads(FILE.read_text())), BEGIN)
        return
    facts = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **machine.describe()}
    rounds = [
        {str(count): measure(count, arguments.seconds) for count in arguments.servers}
        for _ in range(arguments.rounds)
    ]
    servers = {
        count: {name: middle([each[count][name] for each in rounds]) for name in parts}
        for count, parts in rounds[0].items()
    }
    content = {**facts, "seconds": arguments.seconds, "servers": servers, "rounds": rounds}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    lost = {
        count: sum(sum(part["failed"].values()) for part in parts.values())
        for count, parts in servers.items()
    }
    print("failed requests by number of servers:", lost)
    assert not any(lost.values())


if __name__ == "__main__":
    main()
