"""Compare versions of our own server, side by side in one run: which is faster, and by how much more than the noise.

Each version is a git revision, or the working tree (`.`), with a patch on it if need be. A server of each is started
and held; in every round each is measured once, in an order that is rotated from round to round, and its figures are
divided by those of the first version in the same round. The first version takes part twice: the second time shows
what is noise (A/A).

Loads: cN (closed loop, N connections), open (constant arrivals at 70 % of what the first version answers to 32
connections, the same rate for all), docs (8 connections with short texts while one client sends documents).

usage: python -m bench.serving.compare --model tiny --version old=HEAD~1 --version new=. --out NAME
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from bench.paths import REPOSITORY, RESULTS, WORK
from bench.serving import generators, machine, results
from bench.serving.generators import Target
from bench.serving.models import Unavailable, find_model, hold_work
from bench.serving.run import learn_answers, line, measure
from bench.serving.servers import Server, ServerSpec
from bench.serving.workload import Reference, Workload

HERE = Path(__file__).parent
LOADS = ["c1", "c8", "c32", "open"]
SHARE = 0.7  # of saturation, in the open loop
METRICS = ("rps", "p50", "p99")
DOCUMENT_TOKENS = 20_000


def make_tree(name: str, what: str) -> Path:
    """Return the source tree of a version `REVISION[+PATCH]`, checked out beside the others; `.` is this one."""
    revision, _, patch = what.partition("+")
    if revision == "." and not patch:
        return REPOSITORY
    tree = WORK / "trees" / name
    if tree.exists():
        subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=REPOSITORY, check=True)
    subprocess.run(["git", "worktree", "prune"], cwd=REPOSITORY, check=True)
    base = "HEAD" if revision == "." else revision
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, base], cwd=REPOSITORY, check=True)
    if revision == ".":  # with what is not committed yet
        shutil.copytree(REPOSITORY / "src", tree / "src", dirs_exist_ok=True)
    if patch:
        subprocess.run(["git", "apply", Path(patch).resolve()], cwd=tree, check=True)
    return tree


def server_spec(name: str, tree: Path, settings: dict) -> ServerSpec:
    path = os.pathsep.join(str(part) for part in (tree / "src", HERE / "card_hook"))
    return ServerSpec(
        name="nerve",
        variant=name,
        command=["{python}", "-m", "nerve", "serve", "--config", "{config}"],
        settings=settings,
        environment={"PYTHONPATH": path},
    )


class Documents:
    """A client that sends one long document again and again, for as long as the block lasts."""

    def __init__(self, server: Server, text: str):
        self.server = server
        self.body = json.dumps({"inputs": text, "aggregation_strategy": "simple"}).encode()
        self.stop = threading.Event()
        self.answered = 0

    def __enter__(self):
        self.thread = threading.Thread(target=self.send)
        self.thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        while not self.stop.is_set():
            connection.request("POST", "/predict_tokens", self.body, {"content-type": "application/json"})
            self.answered += connection.getresponse().read(1) == b"["
            connection.close()


def measure_load(load: str, server: Server, target: Target, seconds: float, rate: float, document: str) -> dict:
    with server.turn():
        if load == "open":
            run = partial(generators.open_loop, target, rate, seconds)
        else:
            connections = 8 if load == "docs" else int(load.removeprefix("c"))
            run = partial(generators.closed_loop, target, connections, seconds, True)
        if load != "docs":
            return measure(server, target, run)
        with Documents(server, document) as documents:
            seen = measure(server, target, run)
        return {**seen, "documents": documents.answered}


def summarise(rounds: list[dict[str, dict]], names: list[str]) -> dict:
    """Return, for each version, the ratios of its figures to the first version's, made within the rounds."""
    first = names[0]
    found: dict = {}
    for name in names:
        pairs = [(seen[name], seen[first]) for seen in rounds if name in seen and first in seen]
        found[name] = {
            metric: results.spread(
                [results.read_metric(ours, metric) / results.read_metric(theirs, metric) for ours, theirs in pairs]
            )
            for metric in METRICS
        } | {"absolute": {metric: statistics.median(results.read_metric(o, metric) for o, _ in pairs) for metric in METRICS},
             "errors": [ours["errors"] for ours, _ in pairs if ours["errors"]]}
    return found


def print_table(content: dict) -> None:
    for load, entry in content["loads"].items():
        print(f"\n{content['model']} {load}: over {content['names'][0]}, median (least-greatest) of {len(entry['rounds'])} rounds")
        for name, row in entry["summary"].items():
            cells = [
                f"{metric} {row[metric]['median']:.3f} ({row[metric]['min']:.2f}-{row[metric]['max']:.2f})"
                for metric in METRICS
            ]
            print(f"  {name:16} {'  '.join(cells)}   {row['absolute']['rps']:.1f}/s p50 {row['absolute']['p50']:.2f} p99 {row['absolute']['p99']:.2f}"
                  + (f"  ERRORS {row['errors']}" if row["errors"] else ""))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="append", required=True, metavar="NAME=REVISION[+PATCH]")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--load", nargs="+", default=LOADS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--settings", type=json.loads, default={}, help="of all servers, as JSON")
    parser.add_argument("--settings-of", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--out", required=True, metavar="NAME")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    versions = dict(one.split("=", 1) for one in arguments.version)
    first = next(iter(versions))
    own = {name: json.loads(text) for name, text in (one.split("=", 1) for one in arguments.settings_of)}
    file = RESULTS / f"{arguments.out}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with hold_work(), contextlib.ExitStack() as held:
        model = find_model(arguments.model)
        requests = Reference(model).requests(Workload())
        document = " ".join(json.loads(requests.bodies[0])["inputs"] * (DOCUMENT_TOKENS // 36))
        trees = {name: make_tree(name, what) for name, what in versions.items()}
        starts = {first: trees[first], f"{first} again": trees[first], **trees}
        servers: dict[str, Server] = {}
        targets: dict[str, Target] = {}
        skipped: dict[str, str] = {}
        for name, tree in starts.items():
            settings = {**arguments.settings, **own.get(name, {})}
            try:
                server = Server(server_spec(name, tree, settings), model, requests.bodies[0])
                held.callback(server.close)
                targets[name] = learn_answers(server, requests)
            except Unavailable as reason:
                skipped[name] = str(reason)
                print(f"SKIPPED {name}: {reason}", flush=True)
                continue
            servers[name] = server
        names = list(servers)
        content = {
            **machine.describe(),
            "command": " ".join(sys.argv[1:]),
            "model": model.name,
            "versions": versions,
            "packages": machine.find_versions(),
            "names": names,
            "skipped": skipped,
            "loads": {},
        }
        rate = 0.0
        for name, server in servers.items():
            with server.turn():
                seen = generators.closed_loop(targets[name], 32, 2, True)
            rate = rate or SHARE * seen["rps"]
            print(f"warm: {line(name, seen)}", flush=True)
        if "open" in arguments.load:
            content["open_rate"] = rate
        for load in arguments.load:
            entry = content["loads"][load] = {"rounds": [], "summary": {}}
            for number in range(arguments.rounds):
                shift = number % len(names)
                seen_now: dict[str, dict] = {}
                for name in names[shift:] + names[:shift]:
                    seen_now[name] = measure_load(load, servers[name], targets[name], arguments.seconds, rate, document)
                entry["rounds"].append(seen_now)
                entry["summary"] = summarise(entry["rounds"], names)
                file.write_text(json.dumps(content, indent=1) + "\n")
                print(f"{load} round {number + 1}: " + ", ".join(f"{n} {s['rps']:.0f}" for n, s in seen_now.items()), flush=True)
        print_table(content)


if __name__ == "__main__":
    main()
