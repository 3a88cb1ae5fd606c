"""One corpus from its first row to its last through `nerve predict`: time, memory on the way, every row exactly once.

The run may be killed on the way (SIGKILL, at places drawn from a seed) and goes on with `--resume`. At the end each
row of the output is compared with the input: same number, same text, in order, none twice. A run that does not end
within --minutes is ended; the same command with the same --place goes on where it stopped, and the result file
has the sums of both. Load averages tell whether the machine did other work meanwhile.

usage: .venv-scale/bin/python -m bench.whole_corpus 1000 [--model tiny] [--precision int8] [--kills 2] [--minutes 40]
                                                         [--place FOLDER] [--ray]
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import msgspec

from bench.corpora import isolate, rows_of, rss_mb, write_config, write_corpus
from bench.paths import RESULTS, WORK
from bench.serving import machine
from bench.serving.models import find_model

FILE = RESULTS / "whole-corpora.json"
# So many parts tell the rows that are done about as closely as a percent; of 1 GB they are those of the default.
PARTS = 120
_LOOK_SECONDS = 2.0


class Row(msgspec.Struct):
    """What both an input and an output have of a row."""

    id: int
    text: str


@dataclass
class Seen:
    """What was seen so far, in this call and in those before it at the same place.

    memory: (share of the rows, MB) of the process that reads and writes. kills: shares of the rows at which it was
    killed. loads: the machine's load averages. tries: processes that were started. cpu_seconds: of those processes
    (not of Ray's workers), which says more than `seconds` where others used the machine, too.
    """

    n_rows: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: list[tuple[float, int]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    tries: int = 0


def main() -> None:
    """Run, check, and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("megabytes", type=float)
    parser.add_argument("--model", default="tiny", choices=["tiny", "rampart"])
    parser.add_argument("--precision", default="float32", choices=["float32", "int8"])
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of this machine")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--place", type=Path, help="kept, so that the same command can go on there")
    options = parser.parse_args()
    if options.ray:
        isolate("bench.whole_corpus")
    facts = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **machine.describe()}
    with ExitStack() as stack:
        place = options.place
        if place is None:
            WORK.mkdir(exist_ok=True)
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whole-", dir=WORK)))
        found = facts | run(options, place)
    key = f"{options.model} {options.precision}, {options.megabytes:g} MB{', ray' if options.ray else ''}"
    result = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps(result | {key: found}, indent=1) + "\n")
    print(json.dumps({key: {name: found[name] for name in ("rows", "of_rows", "seconds", "rss_mb_most")}}))


def run(options: argparse.Namespace, place: Path) -> dict:
    """Run until the end, or until the time is over; returns what the result file says."""
    seen = prepare(options, place)
    command = [sys.executable, "-m", "nerve", "predict", "--config", str(place / "config.yaml")]
    command += ["--file", "a.jsonl", "--output", "out", "--resume"]
    command += ["--part-bytes", str(round(options.megabytes * 1e6 / PARTS))]
    command += ["--ray", "local"] if options.ray else []
    rng = random.Random(len(seen.kills))
    planned = sorted(rng.uniform(0.05, 0.95) for _ in range(options.kills - len(seen.kills)))
    give_up = time.monotonic() + 60 * options.minutes
    status = None
    while status is None:
        status = attempt(command, place, seen, planned, give_up)
        (place / "seen.json").write_text(json.dumps(asdict(seen)))
    rows = rows_of(place / "out")
    if status == 0:
        check_rows(place, seen.n_rows)
    memory = [mb for _, mb in seen.memory]
    return {
        "to_the_end": status == 0,
        "rows": rows,
        "of_rows": seen.n_rows,
        "checked": "every row once, in order, with its text" if status == 0 else "not at its end",
        "seconds": round(seen.seconds, 1),
        "cpu_seconds": round(seen.cpu_seconds, 1),
        "rows_per_s": round(rows / seen.seconds, 1),
        "mb_per_s": round(options.megabytes * rows / seen.n_rows / seen.seconds, 3),
        "killed_at": [round(share, 3) for share in seen.kills],
        "processes": seen.tries,
        "load": {"mean": round(sum(seen.loads) / len(seen.loads), 1), "most": round(max(seen.loads), 1)},
        "rss_mb_by_tenth": [
            max((mb for share, mb in seen.memory if min(9, int(10 * share)) == tenth), default=None)
            for tenth in range(10)
        ],
        "rss_mb_most": max(memory),
    }


def prepare(options: argparse.Namespace, place: Path) -> Seen:
    """Make the corpus, unless an earlier call has."""
    place.mkdir(parents=True, exist_ok=True)
    state = place / "seen.json"
    if state.exists():
        return Seen(**json.loads(state.read_text()))
    shutil.rmtree(place / "out", ignore_errors=True)
    model = find_model(options.model)
    config = write_config(model, place)
    config.write_text(config.read_text().replace("precision: float32", f"precision: {options.precision}"))
    seen = Seen(n_rows=write_corpus(model, place / "a.jsonl", options.megabytes))
    state.write_text(json.dumps(asdict(seen)))
    return seen


def attempt(command: list[str], place: Path, seen: Seen, planned: list[float], give_up: float) -> int | None:
    """Run one process until it ends, is killed (None), or has no time left; returns its status."""
    begun, cpu_before = time.monotonic(), cpu_seconds()
    seen.tries += 1
    with (place / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=place, stderr=log)
        try:
            while process.poll() is None:
                time.sleep(_LOOK_SECONDS)
                share = rows_of(place / "out") / seen.n_rows
                if memory := rss_mb(process.pid):
                    seen.memory.append((round(share, 4), memory))
                seen.loads.append(os.getloadavg()[0])
                if planned and share >= planned[0]:
                    process.kill()
                    process.wait()
                    planned.pop(0)
                    seen.kills.append(share)
                    return None
                if time.monotonic() > give_up:
                    break
        finally:
            if process.poll() is None:
                process.terminate()  # SIGINT is ignored by what a script has put into the background
            process.wait()
            seen.seconds += time.monotonic() - begun
            seen.cpu_seconds += cpu_seconds() - cpu_before
    if process.returncode not in {0, -signal.SIGTERM, 128 + signal.SIGTERM}:
        raise SystemExit(f"it ended with {process.returncode}: {(place / 'log.txt').read_text()[-2000:]}")
    return process.returncode


def cpu_seconds() -> float:
    """Return the CPU time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check_rows(place: Path, n_rows: int) -> None:
    """Raise SystemExit where a row of the output is not the one of the input at that place."""
    decode = msgspec.json.Decoder(Row).decode
    parts = sorted((place / "out").glob("a-*.jsonl")) or [place / "out" / "a.jsonl"]
    n_seen = 0
    with (place / "a.jsonl").open("rb") as given, ExitStack() as stack:
        written = chain.from_iterable(stack.enter_context(part.open("rb")) for part in parts)
        for line, answer in zip(given, written, strict=True):
            row = decode(answer)
            if row != decode(line) or row.id != n_seen:
                raise SystemExit(f"row {n_seen} of the input is not the row {n_seen} of the output")
            n_seen += 1
    if n_seen != n_rows:
        raise SystemExit(f"{n_seen} rows, {n_rows} were written")


if __name__ == "__main__":
    main()
