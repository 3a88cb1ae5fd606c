"""What a result depends on besides the code: machine, versions, commit."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
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
    "onnxruntime-gpu",
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
    # Where it is from tells how it was built: without profile-guided optimisation it is slower.
    found = {"python": f"{platform.python_version()} ({os.path.realpath(sys.executable)})"}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    wrk = shutil.which("wrk")
    if wrk:
        said = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False).stdout
        found["wrk"] = said.split("[")[0].removeprefix("wrk").strip()
    return found


# What a measurement does not depend on: results themselves, and the pages made of them.
NOT_MEASURED = (":(top,exclude)bench/results", ":(top,exclude)docs")


def find_commit() -> str:
    """Name the checked-out commit, with `-dirty` when files that are measured differ from it.

    Results that are being written, and docs/, do not count. `unknown` outside a repository.
    """
    commit = run_git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    changed = run_git("status", "--porcelain", "--untracked-files=normal", "--", ":(top)", *NOT_MEASURED)
    return f"{commit}-dirty" if changed else commit


def run_git(*arguments: str) -> str:
    """Return what git prints; nothing where there is no git or no repository."""
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, *arguments]
    folder = Path(__file__).parent
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()


def busy_seconds() -> float:
    """CPU seconds used by everything on this machine since it started; idle, waiting and stolen time apart."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / TICKS
