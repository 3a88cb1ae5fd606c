"""What a result depends on besides the code: machine, versions, commit."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = [
    "fastapi",
    "granian",
    "httptools",
    "litserve",
    "mosec",
    "msgspec",
    "numpy",
    "onnxruntime",
    "orjson",
    "pydantic",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
    "uvloop",
    "k6",
]
TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict:
    return {"machine": describe_machine(), "versions": find_versions(), "commit": find_commit()}


def describe_machine() -> dict:
    cpu = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )
    flags = set(cpu.get("flags", "").split())
    wanted = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [name for name in wanted if name in flags],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }


def find_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def find_commit() -> str:
    """Name the checked-out commit, with `-dirty` when files differ from it; `unknown` outside a repository."""
    describe_command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(
        describe_command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def busy_seconds() -> float:
    """CPU seconds used by everything on this machine since it started; idle, waiting and stolen time apart."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / TICKS
