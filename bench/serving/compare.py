"""Compare versions of our own server side by side, and tell differences between them from noise.

A version is a git revision, or `.` for the working tree, with a patch on top where one is named. One server
of each version is started and held. In every round each server is measured once; the order rotates from round
to round. Every figure is divided by that of the first version in the same round. The first version takes part
twice: how far its second server is from the first shows the noise.

Loads:
  cN    closed loop with N connections
  open  constant arrivals, for all versions at 70 % of what the first one answers to 32 connections
  docs  closed loop of 8 connections with short texts, while one more client sends long documents

The result is bench/results/NAME.json, written after every round. The path of a patch starts at the current
folder; bench/results/trial/patches has those of the trial.

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.paths import REPOSITORY, RESULTS, WORK
from bench.serving import generators, machine, results
from bench.serving.generators import Target
from bench.serving.models import PLUGINS, BenchModel, Unavailable, find_model, hold_work
from bench.serving.run import learn_answers, line, measure
from bench.serving.servers import Server, ServerSpec
from bench.serving.workload import Reference, Requests, Workload

LOADS = ["c1", "c8", "c32", "open"]
METRICS = ("rps", "p50", "p99")
# Of what the first version answers to SATURATING connections, in the open loop.
SHARE = 0.7
SATURATING = 32
# Connections with short texts, while documents are sent.
BESIDE_DOCUMENTS = 8
TEXT_TOKENS = Workload().max_tokens
DOCUMENT_TOKENS = 20_000


@dataclass(frozen=True)
class Version:
    """One side of the comparison: its name in the tables, and where its source comes from.

    revision: of git, or `.` for the working tree. patch: the file that is applied on top, or nothing.
    """

    name: str
    revision: str
    patch: str = ""

    @property
    def source(self) -> str:
        """Return the source as the command line has it."""
        return f"{self.revision}+{self.patch}" if self.patch else self.revision


def parse_version(text: str) -> Version:
    """Read `NAME=REVISION[+PATCH]`. Raises `ArgumentTypeError`."""
    name, _, source = text.partition("=")
    revision, _, patch = source.partition("+")
    if not name or not revision:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=REVISION[+PATCH]")
    return Version(name, revision, patch)


def parse_settings(text: str) -> tuple[str, dict]:
    """Read `NAME=JSON`: settings of one version alone. Raises `ValueError`."""
    name, _, settings = text.partition("=")
    return name, json.loads(settings)


def list_servers(versions: dict[str, Version]) -> dict[str, Version]:
    """Return the version of each server to start: one of every version, and two of the first."""
    first = next(iter(versions))
    return {first: versions[first], f"{first} again": versions[first], **versions}


def git(*arguments: str | Path, folder: Path = REPOSITORY) -> None:
    """Run git in a folder. Raises `CalledProcessError`, and SystemExit where git is not installed."""
    program = shutil.which("git")
    if program is None:
        raise SystemExit("git is not installed")
    subprocess.run([program, *arguments], cwd=folder, check=True)


def make_tree(version: Version) -> Path:
    """Return a folder with the version's source: the repository itself, or a checkout under WORK."""
    is_working_tree = version.revision == "."
    if is_working_tree and not version.patch:
        return REPOSITORY
    tree = WORK / "trees" / version.name
    if tree.exists():
        git("worktree", "remove", "--force", tree)
    git("worktree", "prune")
    git("worktree", "add", "--quiet", "--detach", tree, "HEAD" if is_working_tree else version.revision)
    if is_working_tree:  # with what is not committed yet
        shutil.copytree(REPOSITORY / "src", tree / "src", dirs_exist_ok=True)
    if version.patch:
        git("apply", Path(version.patch).resolve(), folder=tree)
    return tree


def server_spec(name: str, tree: Path, settings: dict) -> ServerSpec:
    """Describe a server that runs from a source tree, on the simulated card if the model asks for it."""
    return ServerSpec(
        name="nerve",
        variant=name,
        command=["{python}", "-m", "nerve", "serve", "--config", "{config}"],
        settings=settings,
        environment={"PYTHONPATH": os.pathsep.join([str(tree / "src"), str(PLUGINS)])},
    )


class Documents:
    """A client that sends one long document again and again while the block runs."""

    def __init__(self, server: Server, text: str):
        self.server = server
        self.body = json.dumps({"inputs": text, "aggregation_strategy": "simple"}).encode()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.send)
        self.answered = 0

    def __enter__(self):
        self.thread.start()
        time.sleep(0.5)  # until the first document is being computed
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def send(self) -> None:
        """Send until told to stop, and count the answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        while not self.stop.is_set():
            connection.request("POST", "/predict_tokens", self.body, {"content-type": "application/json"})
            self.answered += connection.getresponse().read(1) == b"["
            connection.close()


class Comparison:
    """The servers that are compared, by name, and what to send to each."""

    def __init__(self, model: BenchModel, requests: Requests, held: contextlib.ExitStack):
        self.model = model
        self.requests = requests
        self.held = held
        self.servers: dict[str, Server] = {}
        self.targets: dict[str, Target] = {}
        self.skipped: dict[str, str] = {}
        texts = json.loads(requests.bodies[0])["inputs"]
        self.document = " ".join(texts * (DOCUMENT_TOKENS // TEXT_TOKENS))

    def start(self, name: str, tree: Path, settings: dict) -> None:
        """Start a server and check its answers; note why where it cannot take part."""
        try:
            server = Server(server_spec(name, tree, settings), self.model, self.requests.bodies[0])
            self.held.callback(server.close)
            self.targets[name] = learn_answers(server, self.requests)
        except Unavailable as reason:
            self.skipped[name] = str(reason)
            print(f"SKIPPED {name}: {reason}", flush=True)
            return
        self.servers[name] = server

    def warm_up(self) -> float:
        """Load every server for 2 s; return the requests/s of the first."""
        rates = []
        for name, server in self.servers.items():
            with server.turn():
                seen = generators.closed_loop(self.targets[name], SATURATING, 2, reuse=True)
            rates.append(seen["rps"])
            print(f"warm: {line(name, seen)}", flush=True)
        return rates[0]

    def measure_round(self, load: str, number: int, seconds: float, rate: float) -> dict[str, dict]:
        """Measure each server once, another one first in each round. `rate` is that of the open loop."""
        names = list(self.servers)
        shift = number % len(names)
        return {name: self.measure_one(name, load, seconds, rate) for name in names[shift:] + names[:shift]}

    def measure_one(self, name: str, load: str, seconds: float, rate: float) -> dict:
        """Measure one server under one load."""
        server, target = self.servers[name], self.targets[name]
        if load == "open":
            run = partial(generators.open_loop, target, rate, seconds)
        else:
            connections = BESIDE_DOCUMENTS if load == "docs" else int(load.removeprefix("c"))
            run = partial(generators.closed_loop, target, connections, seconds, reuse=True)
        with server.turn():
            if load != "docs":
                return measure(server, target, run)
            with Documents(server, self.document) as documents:
                seen = measure(server, target, run)
            return {**seen, "documents": documents.answered}


def summarise(rounds: list[dict[str, dict]], names: list[str]) -> dict[str, dict]:
    """Return a summary for each server.

    Its metrics are ratios to the first server's, made within each round: median, least and greatest.
    `absolute` has the medians of the figures themselves, `errors` those of the rounds that had any.
    """
    return {name: summarise_one(rounds, name, names[0]) for name in names}


def summarise_one(rounds: list[dict[str, dict]], name: str, first: str) -> dict:
    pairs = [(seen[name], seen[first]) for seen in rounds if name in seen and first in seen]
    columns = {
        metric: [tuple(results.read_metric(one, metric) for one in pair) for pair in pairs]
        for metric in METRICS
    }
    ratios = {
        metric: results.spread([own / other for own, other in column]) for metric, column in columns.items()
    }
    absolute = {metric: statistics.median(own for own, _ in column) for metric, column in columns.items()}
    return {**ratios, "absolute": absolute, "errors": [own["errors"] for own, _ in pairs if own["errors"]]}


def print_tables(content: dict) -> None:
    """Print one table for each load, a line for each server."""
    for load, entry in content["loads"].items():
        what = f"median (least-greatest) of {len(entry['rounds'])} rounds"
        print(f"\n{content['model']} {load}: over {content['names'][0]}, {what}")
        for name, row in entry["summary"].items():
            print(table_line(name, row))


def table_line(name: str, row: dict) -> str:
    """Return one server's line: ratios, then the figures themselves, then errors."""
    ratios = [
        f"{metric} {row[metric]['median']:.3f} ({row[metric]['min']:.2f}-{row[metric]['max']:.2f})"
        for metric in METRICS
    ]
    absolute = row["absolute"]
    figures = f"{absolute['rps']:.1f}/s p50 {absolute['p50']:.2f} p99 {absolute['p99']:.2f}"
    errors = f"  ERRORS {row['errors']}" if row["errors"] else ""
    return f"  {name:16} {'  '.join(ratios)}   {figures}{errors}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--version", action="append", required=True, type=parse_version, metavar="NAME=REVISION[+PATCH]"
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--load", nargs="+", default=LOADS)
    parser.add_argument("--texts", type=int, default=1, help="of a request")
    parser.add_argument("--distinct", type=int, default=Workload().distinct, help="requests that differ")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--settings", type=json.loads, default={}, help="of all servers, as JSON")
    parser.add_argument(
        "--settings-of",
        action="append",
        default=[],
        type=parse_settings,
        metavar="NAME=JSON",
        help="of one version alone",
    )
    parser.add_argument("--out", required=True, metavar="NAME", help="bench/results/NAME.json")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    versions = {version.name: version for version in arguments.version}
    file = RESULTS / f"{arguments.out}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with hold_work(), contextlib.ExitStack() as held:
        model = find_model(arguments.model)
        requests = Reference(model).requests(Workload(texts=arguments.texts, distinct=arguments.distinct))
        comparison = Comparison(model, requests, held)
        start_all(comparison, versions, arguments.settings, dict(arguments.settings_of))
        content = {
            **machine.describe(),
            "command": " ".join(sys.argv[1:]),
            "model": model.name,
            "versions": {name: version.source for name, version in versions.items()},
            "packages": machine.find_versions(),
            "names": list(comparison.servers),
            "skipped": comparison.skipped,
            "loads": {},
        }
        rate = SHARE * comparison.warm_up()
        if "open" in arguments.load:
            content["open_rate"] = rate
        for load in arguments.load:
            entry = content["loads"][load] = {"rounds": [], "summary": {}}
            for number in range(arguments.rounds):
                seen = comparison.measure_round(load, number, arguments.seconds, rate)
                entry["rounds"].append(seen)
                entry["summary"] = summarise(entry["rounds"], content["names"])
                file.write_text(json.dumps(content, indent=1) + "\n")
                rates = ", ".join(f"{name} {one['rps']:.0f}" for name, one in seen.items())
                print(f"{load} round {number + 1}: {rates}", flush=True)
    print_tables(content)


def start_all(
    comparison: Comparison, versions: dict[str, Version], settings: dict, settings_of: dict[str, dict]
) -> None:
    """Check out all versions, then start a server of each, and two of the first. Raises SystemExit."""
    trees = {name: make_tree(version) for name, version in versions.items()}
    for name, version in list_servers(versions).items():
        comparison.start(name, trees[version.name], {**settings, **settings_of.get(version.name, {})})
    if not comparison.servers:
        raise SystemExit("no version could be started")


if __name__ == "__main__":
    main()
