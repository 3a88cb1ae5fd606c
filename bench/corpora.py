"""Rows of a corpus through `nerve predict`: one process, Ray, and nodes that are pinned to cores; memory on the way.

Every case answers the same rows until it is stopped; its rate is that of the manifest from its first rows on, so that
starts do not count. Rows come in bursts of a batch each, so a rate goes from one burst to another. Cases of a round
follow each other, and ratios are made within each round. `busy` is the share of the machine's cores that computed.
Needs the environment of `make test-scale`, root (network namespaces), two cores and a quiet machine; the defaults take
about eleven minutes.

With --docs the tables of docs/guide/corpora-at-scale.md are made of corpora.json and of whole-corpora.json.

usage: .venv-scale/bin/python -m bench.corpora [--seconds 18] [--rounds 3] [--models tiny rampart] [--cases here ray]
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml
from tokenizers import Tokenizer

from bench.paths import REPOSITORY, RESULTS, WORK
from bench.serving import machine
from bench.serving.models import BenchModel, find_model
from bench.serving.render import fill
from bench.serving.workload import make_text

# Input of a part: about a second of work, so that the manifest tells a rate.
PART_BYTES = {"tiny": 100_000, "rampart": 4_000}
# What the two ratios of a round are.
RATIOS = {"ray over one process": ("ray", "here"), "two nodes over two processes": ("nodes", "processes")}
CASES = ("here", "ray", "processes", "nodes")
_DISTINCT = 2_000
FILE = RESULTS / "corpora.json"
PAGE = REPOSITORY / "docs" / "guide" / "corpora-at-scale.md"
BEGIN = "<!-- results: made by bench/corpora.py -->"
TITLES = {
    "here": "one process with both cores",
    "ray": "`--ray local`",
    "processes": "two processes, a core each",
    "nodes": "two nodes, a core each",
}
MODELS = {"tiny": "tiny BERT (2 x 128)", "rampart": "default model"}


def main() -> None:
    """Measure, and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=18)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["tiny", "rampart"], choices=PART_BYTES)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--docs", action="store_true", help="measure nothing; render the result files")
    options = parser.parse_args()
    if options.docs:
        whole = RESULTS / "whole-corpora.json"
        fill(PAGE, render(json.loads(FILE.read_text())) + render_whole(json.loads(whole.read_text())), BEGIN)
        return
    isolate("bench.corpora")
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result |= {"started": datetime.now(UTC).isoformat(timespec="seconds"), **machine.describe()}
    for name in options.models:
        model = find_model(name)
        WORK.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="corpora-", dir=WORK) as folder:
            result[name] = compare(model, Path(folder), options)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def render(result: dict) -> str:
    """Return rates by case, and ratios, as Markdown."""
    names = [name for name in MODELS if name in result]
    lines = [f"| rows/s | {' | '.join(MODELS[name] for name in names)} |", "|---|" + "---|" * len(names)]

    def rates(name: str, case: str) -> str:
        seen = [each["rows_per_s"] for each in result[name]["cases"].get(case, [])]
        return f"{statistics.median(seen):,.0f} ({min(seen):,.0f} to {max(seen):,.0f})" if seen else ""

    for case, title in TITLES.items():
        lines.append(f"| {title} | {' | '.join(rates(name, case) for name in names)} |")
    for ratio in RATIOS:
        seen = [result[name]["ratios"].get(ratio, []) for name in names]
        cells = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" if r else "" for r in seen]
        lines.append(f"| {ratio} | {' | '.join(cells)} |")
    rounds = {name: len(next(iter(result[name]["cases"].values()))) for name in names}
    counts = " and ".join(map(str, dict.fromkeys(rounds.values())))
    facts = result["machine"]
    lines += [
        "",
        f"Medians, and the least and the most, of {counts} rounds; ratios are made within a round. Commit "
        f"{result['commit']}, {facts['cores']} cores of {facts['cpu']}, load before: {facts['load_before']:.1f}.",
    ]
    return "\n".join(lines) + "\n"


def render_whole(result: dict) -> str:
    """Return the runs of `bench.whole_corpus` as Markdown."""
    lines = [
        "",
        "| a whole corpus | rows | seconds | CPU seconds | killed at | memory, MB, by tenth | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, seen in result.items():
        rows = f"{seen['rows']:,}" if seen["to_the_end"] else f"{seen['rows']:,} of {seen['of_rows']:,}"
        cells = [name, rows, f"{seen['seconds']:,.0f}", f"{seen['cpu_seconds']:,.0f}"]
        cells.append(", ".join(f"{share:.0%}" for share in seen["killed_at"]))
        cells += [" ".join(map(str, filter(None, seen["rss_mb_by_tenth"]))), str(seen["load"]["mean"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def isolate(module: str) -> None:
    """Start a module of the bench again in a network with a loopback only (tests/scale/run.sh)."""
    if "BENCH_ISOLATED" in os.environ:
        return
    os.environ |= {
        "BENCH_ISOLATED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
    }
    command = 'ip link set lo up && exec "$@"'
    inner = [sys.executable, "-m", module, *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "--net", "bash", "-c", command, "bash", *inner])  # noqa: S606, S607


def compare(model: BenchModel, place: Path, options: argparse.Namespace) -> dict:
    """Measure all cases in turn, some rounds."""
    config = write_config(model, place)
    for half in ("a", "b"):
        write_corpus(model, place / f"{half}.jsonl", 40.0 if model.name == "tiny" else 4.0)
    part = str(PART_BYTES[model.name])
    seen: dict[str, list[dict]] = {}
    for number in range(options.rounds):
        for case in options.cases:
            print(model.name, case, number + 1, file=sys.stderr)
            with ExitStack() as stack:
                out = place / "out"
                commands = commands_of(case, config, out, part, stack)
                seen.setdefault(case, []).append(measure(commands, place, out, options.seconds))
            shutil.rmtree(out)
    ratios = {
        name: [one["rows_per_s"] / other["rows_per_s"] for one, other in zip(seen[a], seen[b], strict=True)]
        for name, (a, b) in RATIOS.items()
        if {a, b} <= seen.keys()
    }
    return {
        "seconds": options.seconds,
        "cases": seen,
        "ratios": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
        "medians": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
    }


def commands_of(case: str, config: Path, out: Path, part: str, stack: ExitStack) -> list[list[str]]:
    """Return the processes of a case; where it needs a cluster, start one."""
    base = [sys.executable, "-m", "nerve", "predict", "--config", str(config), "--part-bytes", part]
    both = [*base, "--file", "a.jsonl", "b.jsonl", "--output", str(out / "0")]
    if case == "here":
        return [both]
    if case == "ray":
        return [[*both, "--ray", "local"]]
    if case == "nodes":
        return [[*both, "--ray", stack.enter_context(pinned_nodes())]]
    return [
        ["taskset", "--cpu-list", str(core), *base, "--file", f"{half}.jsonl", "--output", str(out / half)]
        for core, half in enumerate("ab")
    ]


@contextmanager
def pinned_nodes():
    """Start two nodes of one core each, on a core each; gives their address."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - an extra

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    (Path(folder) / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = folder
    cores = os.sched_getaffinity(0)
    small = {"num_cpus": 1, "object_store_memory": 200 << 20}
    try:
        os.sched_setaffinity(0, {0})
        cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        os.sched_setaffinity(0, {1})
        cluster.add_node(**small)
        os.sched_setaffinity(0, cores)
        cluster.wait_for_nodes()
        yield cluster.address
        cluster.shutdown()
    finally:
        os.sched_setaffinity(0, cores)
        shutil.rmtree(folder, ignore_errors=True)


def measure(commands: list[list[str]], place: Path, out: Path, seconds: float) -> dict:
    """Run processes until all of them have answered for some seconds."""
    with tempfile.TemporaryFile() as said:
        running = [subprocess.Popen(command, cwd=place, stderr=said) for command in commands]
        # When rows came, how many there were then, and what the cores had done.
        series: list[tuple[float, int, tuple[int, int]]] = []
        memory: list[int] = []
        try:
            end = time.monotonic() + 180
            while time.monotonic() < end:
                time.sleep(0.2)
                rows = [rows_of(folder) for folder in sorted(out.glob("*"))]
                if any(process.poll() is not None for process in running):
                    said.seek(0)
                    raise SystemExit(f"a case ended too early: {said.read().decode()[-2_000:]}")
                if len(rows) == len(running) and all(rows):
                    if not series:
                        end = time.monotonic() + seconds
                    if not series or sum(rows) > series[-1][1]:
                        series.append((time.monotonic(), sum(rows), machine_ticks()))
                    memory.append(sum(map(rss_mb, (process.pid for process in running))))
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    (begun, before, ticks), (ended, after, later) = series[0], series[-1]
    return {
        "rows_per_s": round((after - before) / (ended - begun), 2),
        "rows": after - before,
        "busy": round((later[0] - ticks[0]) / (later[1] - ticks[1]), 3),
        "rss_mb": {"first": memory[0], "last": memory[-1], "most": max(memory)},
    }


def machine_ticks() -> tuple[int, int]:
    """Return what all cores have done since the machine started: ticks of work, and of everything."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def rows_of(folder: Path) -> int:
    """Return the rows in the parts of an output that are whole."""
    manifest = folder / "_manifest.jsonl"
    if not manifest.exists():
        return 0
    lines = manifest.read_bytes().split(b"\n")[1:-1]
    return sum(json.loads(line)["rows"] for line in lines)


def rss_mb(pid: int) -> int:
    """Return the memory of a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1000 for line in lines if line.startswith("VmRSS")), 0)


def write_config(model: BenchModel, place: Path) -> Path:
    """Write the configuration of our own server for a model."""
    path = place / "config.yaml"
    path.write_text(yaml.safe_dump({"model": model.source, **model.settings}))
    return path


def write_corpus(model: BenchModel, path: Path, megabytes: float) -> int:
    """Write rows of 10 to 60 tokens, from a seed; returns how many."""
    rng = random.Random(path.stem)
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    texts = [make_text(rng, tokenizer, rng.randint(10, 60)) for _ in range(_DISTINCT)]
    n_rows, size = 0, 0
    with path.open("w") as file:
        while size < megabytes * 1e6:
            line = json.dumps({"id": n_rows, "text": rng.choice(texts)}) + "\n"
            file.write(line)
            size += len(line)
            n_rows += 1
    return n_rows


if __name__ == "__main__":
    main()
