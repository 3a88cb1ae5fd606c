"""Measure documents of 64 kB to 1 MB of every kind of text: seconds, peak of memory, and whether the answer is right.

Each goes to /redact of a server with the shipped configuration, and to `nerve redact --whole`. Right is a text that is
as before outside the items. A time that is linear in the length doubles with it; `s_per_mb` shows it.

usage: python -m bench.robustness.documents [--sizes 65536 262144 1000000] [--kinds English] [--no-server]
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.paths import REPOSITORY, RESULTS
from bench.serving import machine

PORT = 8919
ENGLISH = (
    "Maria Garcia wrote to maria.garcia@example.org from 10 Downing Street on Monday, and asked for the contract that "
    "the team of the new hospital had signed. Her number is +1 212 555 0143, her card 4111 1111 1111 1111.\n"
)
KINDS = {
    "English": ENGLISH,
    "CRLF": "Anna Maria\r\n\r\nlives in Paris\r\n",
    "emoji": "😀🎉 Anna 👋",
    "ZWJ": "👩\u200d👩\u200d👧 and 👨\u200d🚀 met Anna. ",
    "right-to-left": "שלום אנה גרסיה מרחוב הרצל 5. ",
    "combining marks": "A\u0301nna\u0308 e\u0301\u0323crit \u0301",
    "one word": "a",
    "digits": "1234567890",
    "numbers": "12 345 6789 ",
    "colons": "ab:cd::",
    "at signs": "a@",
    "Chinese": "東京に住む。",
}


def text_of(kind: str, n_bytes: int) -> str:
    """Return a text of about so many bytes of UTF-8."""
    part = KINDS[kind]
    return part * (n_bytes // len(part.encode()))


def is_right(text: str, answer: dict) -> bool:
    """Tell whether a text is as before outside the items, which are in order."""
    position = redacted = 0
    for item in answer["items"]:
        if text[position : item["start"]] != answer["text"][redacted : item["redacted_start"]]:
            return False
        position, redacted = item["end"], item["redacted_end"]
    return text[position:] == answer["text"][redacted:]


def ask(text: str) -> tuple[int, float, bool]:
    """Return status, seconds, and whether the answer is right."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    body = json.dumps({"inputs": text}, ensure_ascii=False).encode()
    started = time.perf_counter()
    connection.request("POST", "/redact", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    seconds = time.perf_counter() - started
    connection.close()
    return answer.status, seconds, answer.status != 200 or is_right(text, json.loads(content)[0])


def in_process(text: str) -> dict[str, object]:
    """Run `nerve redact` on one file and return its seconds, start included, and the peak of its memory."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "text.txt")
        source.write_text(text, encoding="utf-8", newline="")
        command = [sys.executable, "-m", "nerve", "redact", "--whole", "--file", str(source)]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
    return {
        "status": process.returncode,
        "seconds": round(seconds, 2),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def start() -> subprocess.Popen:
    """Start a server of the default model, and wait until it is ready."""
    command = [sys.executable, "-m", "nerve", "serve", "--config", "config.yaml", "--port", str(PORT)]
    server = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            if ask("Anna")[0] == 200:
                return server
        except OSError:
            pass
        time.sleep(0.5)


def peak_of(pid: int) -> float:
    """Return the peak of a process's children together, in MiB, and forget it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = 0
    for child in children:
        lines = Path(f"/proc/{child}/status").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        Path(f"/proc/{child}/clear_refs").write_text("5")
    return found / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[65_536, 262_144, 1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--no-server", action="store_true", help="only `nerve redact`")
    parser.add_argument("--out", type=Path, default=RESULTS / "documents.json")
    options = parser.parse_args()
    facts = machine.describe()
    server = None if options.no_server else start()
    rows = []
    try:
        for kind in options.kinds:
            for size in options.sizes:
                text = text_of(kind, size)
                row: dict[str, object] = {"kind": kind, "bytes": len(text.encode())}
                if server is not None:
                    peak_of(server.pid)
                    status, seconds, right = ask(text)
                    row["http"] = {
                        "status": status,
                        "seconds": round(seconds, 2),
                        "s_per_mb": round(seconds / size * 1e6, 2),
                        "right": right,
                        "peak_mib": round(peak_of(server.pid)),
                    }
                row["command"] = in_process(text)
                rows.append(row)
                print(row, flush=True)
    finally:
        if server is not None:
            server.terminate()
            server.wait(30)
    content = {**facts, "command": " ".join(sys.argv[1:]), "documents": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
