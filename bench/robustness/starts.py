"""Time and peak memory of each start: every checkpoint of the zoo by its name, and tokenizers of 250,000 pieces.

usage: python -m bench.robustness.starts [--only NAME ...] [--out starts]     (some five minutes)

`nerve serve NAME` against the stand-in of the hub with nothing here before (fetched, built), then again (from the
caches), each until its first answer. In /proc: the most resident memory that the worker and the supervisor have had
(VmHWM), in MiB. The checkpoints of the zoo are tiny, so what is told is what a kind of checkpoint costs beyond its
size.
The last rows have a vocabulary of 250,000 seeded pieces of Unigram: as sentencepiece's model, and as the tokenizer.json
of the same pieces.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from bench.paths import REPOSITORY, RESULTS
from bench.robustness.model_memory import ask, children, is_worker, read_sizes
from bench.serving import machine
from bench.serving.servers import free_port
from nerve.checkpoint.tokenizer import open_tokenizer

sys.path[:0] = [str(REPOSITORY / "tests")]
from hub_stand_in import HubStandIn, read_folder  # noqa: E402 - found on the path above
from vocabulary_cases import NORMAL, UNK_BOS_EOS, sentence_pieces  # noqa: E402

ZOO = REPOSITORY / "tests" / "zoo"
N_PIECES = 250_000
# Letters that pieces are made of: Latin twice, Cyrillic, Greek, Arabic, Chinese, Devanagari, Hangul.
ALPHABETS = (
    *((0x61, 0x7B), (0x61, 0x7B), (0x430, 0x450), (0x3B1, 0x3CA), (0x621, 0x64B), (0x4E00, 0x9000)),
    *((0x905, 0x940), (0xAC00, 0xD7A0)),
)
PATIENCE = 120


def write_large(models: Path) -> list[str]:
    """Write XLM-R's tiny checkpoint with a large vocabulary, in both forms; return their names."""
    folder = models / "large--sentencepiece"
    shutil.copytree(models / "Davlan--xlm-roberta-base-ner-hrl", folder)
    chance = random.Random(1)
    pieces: dict[str, None] = {}
    while len(pieces) < N_PIECES:
        first, last = chance.choice(ALPHABETS)
        word = "".join(chr(chance.randrange(first, last)) for _ in range(chance.randint(2, 9)))
        pieces.setdefault(("▁" if chance.random() < 0.5 else "") + word)
    more = tuple((piece, -8 - 6 * number / N_PIECES, NORMAL) for number, piece in enumerate(pieces))
    for name, data in sentence_pieces("sentencepiece.bpe.model", *UNK_BOS_EOS, more=more).items():
        (folder / name).write_bytes(data)
    whole = models / "large--tokenizer-json"
    shutil.copytree(folder, whole)
    open_tokenizer(folder)[0].save(str(whole / "tokenizer.json"))
    (whole / "sentencepiece.bpe.model").unlink()
    return [folder.name, whole.name]


def start(name: str, hub: str, home: Path) -> dict[str, float]:
    """Serve a name until it has answered; return seconds, and the peaks in MiB."""
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "NERVE_", "XDG_"))}
    environment = {**kept, "HOME": str(home), "HF_ENDPOINT": hub, "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-m", "nerve", "serve", name, "--port", str(port)]
    began = time.monotonic()
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)
    try:
        while not ask(port):
            if server.poll() is not None or time.monotonic() - began > PATIENCE:
                reason = (home / "log").read_text().strip().splitlines()[-1:]
                return {"refused": reason[0][-300:] if reason else "no answer"}
            time.sleep(0.02)
        seconds = time.monotonic() - began
        (worker,) = filter(is_worker, children(server.pid))
        peaks = [round(read_sizes(Path(f"/proc/{pid}/status"))["VmHWM"]) for pid in (worker, server.pid)]
        return {"seconds": round(seconds, 2), "worker": peaks[0], "supervisor": peaks[1]}
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def main() -> None:
    """Start each and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--out", default="starts")
    options = parser.parse_args()
    result: dict = {**machine.describe(), "unit": "MiB", "n_pieces": N_PIECES, "starts": {}}
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(ZOO / "zoo.tar.xz") as archive:
            archive.extractall(scratch, filter="data")
        models = Path(scratch, "models")
        names = [*sorted(folder.name for folder in models.iterdir()), *write_large(models)]
        with HubStandIn(read_folder(models)) as hub:
            for name in names:
                if options.only and name not in options.only:
                    continue
                home = Path(scratch, "home")
                home.mkdir()
                rows = [start(name.replace("--", "/", 1), hub.url, home) for _ in range(2)]
                shutil.rmtree(home)
                result["starts"][name] = (
                    {"first": rows[0], "again": rows[1]} if "refused" not in rows[0] else rows[0]
                )
                print(name, result["starts"][name], flush=True)
    (RESULTS / f"{options.out}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
