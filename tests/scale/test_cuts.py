"""A run that is killed again and again, at any moment, over a corpus of every format."""

from __future__ import annotations

import csv
import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import n_entries, tree

KILLS = 20
N_ROWS = 1_500
WORDS = ("Anna Maria lives in New York", "Bob sees Paris", "é . x\nand 🎉", "bob@example.org in Newville")


def write_corpus(folder: Path) -> None:
    """Write rows of every format, bad ones, empty files and a damaged one among them."""
    folder.mkdir()
    texts = [f"{WORDS[index % 4]} {index} " + "Anna . " * (index % 23) for index in range(N_ROWS)]
    lines = [json.dumps({"id": index, "text": text}) for index, text in enumerate(texts)]
    lines[7] = "{"
    lines[900] = json.dumps({"id": 900, "text": "Anna " * 3_000})
    content = "\n".join(lines).encode()
    (folder / "a.jsonl").write_bytes(content)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(content))
    with (folder / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "te\nxt", "text"], *([n, 'a "q"', text] for n, text in enumerate(texts))]
        )
        file.write('1,"not closed\n')
    (folder / "d.txt").write_bytes("\n".join(texts).encode() + b"\n\xff\n")
    nested = pa.array([{"x": [index, None]} for index in range(N_ROWS)])
    given = pa.array([text if index % 10 else None for index, text in enumerate(texts)])
    pq.write_table(
        pa.table({"id": range(N_ROWS), "text": given, "deep": nested}),
        folder / "e.parquet",
        row_group_size=70,
    )
    (folder / "f.parquet").write_bytes((folder / "e.parquet").read_bytes()[:3_000])
    (folder / "g.jsonl").write_bytes(b"")
    (folder / "h.csv").write_bytes(b"")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", ["predict", "redact"])
def test_a_run_that_is_killed_again_and_again(command: str, model: Path, tmp_path: Path) -> None:
    """SIGKILL twenty times, while it starts, reads or writes: every row once, byte for byte as in one go."""
    write_corpus(tmp_path / "in")
    line = [sys.executable, "-m", "nerve", command, "--config", str(model), "--file", "in", "--skip-bad"]
    line += ["--part-bytes", "4000"]
    subprocess.run([*line, "--output", "whole"], cwd=tmp_path, check=True, capture_output=True)
    rng = random.Random(command)
    out = tmp_path / "out"
    for number in range(KILLS):
        before = n_entries(out)
        process = subprocess.Popen(
            [*line, "--output", "out", "--resume"], cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        # Some die while they start, most after a part or more, at any moment between two of them.
        more = rng.randint(1, 4) if number % 5 else 0
        end = time.monotonic() + 60
        while n_entries(out) < before + more and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert 10 < n_entries(out) < n_entries(tmp_path / "whole")
    done = subprocess.run(
        [*line, "--output", "out", "--resume"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert tree(out) == tree(tmp_path / "whole")
    assert n_entries(out) == n_entries(tmp_path / "whole")
