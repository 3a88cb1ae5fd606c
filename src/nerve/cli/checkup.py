"""What this machine is good for, and whether `nerve serve` would start on it: the content of `nerve doctor`.

Every section can fail on its own, and says why; nothing here raises for what is wrong with a machine.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

import nerve
from nerve.checkpoint.reach import hub_left_alone, reach_hub
from nerve.cli.missing import why_missing
from nerve.cli.sizes import bytes_for_people
from nerve.config import (
    CheckpointSource,
    CpuMode,
    Precision,
    cache_dir_of,
    choose_config,
    config_of_machine,
    has_config_file,
    has_phonenumbers,
    load_api_key,
)
from nerve.errors import StartupError
from nerve.runtime.cores import allowed_cores, core_quota, usable_cores, why_busy
from nerve.runtime.machine import read_cards, read_processor
from nerve.runtime.memory import usable_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nerve.checkpoint.reach import Reach
    from nerve.config import Config
    from nerve.runtime.backend import Provider

T = TypeVar("T")

_HUB_SECONDS = 3.0
# What can be installed beside the core, and the module that shows it.
_EXTRAS = {
    "export": "torch",
    "openvino": "openvino",
    "otel": "opentelemetry.exporter.otlp.proto.http",
    "parquet": "pyarrow",
    "presidio": "presidio_analyzer",
    "ray": "ray",
    "spacy": "spacy",
}


class Checkup(msgspec.Struct):
    """What was found. A section is empty where nothing is known; its keys are those of `--json`.

    notes: what is worth knowing, but stops nothing. problems: each would make `nerve serve` fail; with its remedy.
    """

    version: dict[str, Any] = {}
    cores: dict[str, Any] = {}
    processor: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    runtime: dict[str, Any] = {}
    gpu: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    caches: list[dict[str, Any]] = []
    hub: dict[str, Any] = {}
    extras: dict[str, bool] = {}
    model: dict[str, Any] = {}
    notes: list[str] = []
    problems: list[str] = []


def examine(model: str | None, file: str | None) -> Checkup:
    """Look at the machine, and at what would be served: MODEL, or what the config file says."""
    found = Checkup()
    _look_at_machine(found)
    _look_at_runtime(found)
    config = _collect(found, lambda: _read_config(model, file))
    if config is None:
        return found
    reach = reach_hub(_HUB_SECONDS)
    _look_at_storage(found, config, reach)
    if not found.runtime:
        return found
    _collect(found, lambda: _choose(found, config))
    _collect(found, lambda: _look_at_server(config))
    if model is not None or file is not None or has_config_file():
        _look_at_model(found, config, reach)
    else:
        found.notes.append(
            "no model is named and there is no config file; `nerve doctor MODEL` looks at a model, too"
        )
    return found


def _collect(found: Checkup, step: Callable[[], T]) -> T | None:
    """Take a step; what would stop a start becomes a problem."""
    try:
        return step()
    except StartupError as error:
        if str(error) not in found.problems:
            found.problems.append(str(error))
        return None


def _read_config(model: str | None, file: str | None) -> Config:
    if model is None and file is None and not has_config_file():
        return config_of_machine()
    return choose_config(model, file)


def _look_at_machine(found: Checkup) -> None:
    found.version = {
        "nerve": nerve.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    cores = usable_cores()
    found.cores = {
        "usable": cores,
        "of_machine": os.cpu_count(),
        "allowed": allowed_cores(),
        "quota": core_quota(),
        "load": os.getloadavg()[0],
    }
    if busy := why_busy():
        found.notes.append(f"{busy}, and what is measured now says little")
    found.processor = msgspec.to_builtins(read_processor())
    if (memory := usable_memory()) is not None:
        found.memory = {"usable_bytes": memory.total, "free_bytes": memory.free}
    version, cards = read_cards()
    if version is not None:
        found.gpu = {"driver_supports_cuda": version, "cards": msgspec.to_builtins(cards)}
    found.extras = {name: _is_installed(module) for name, module in _EXTRAS.items()}
    found.extras["phone"] = has_phonenumbers()


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _look_at_runtime(found: Checkup) -> None:
    """Load onnxruntime, and let it compute once."""
    try:
        from nerve.runtime.sessions import are_products_clipped, ort

        found.runtime = {
            "onnxruntime": ort.__version__,
            "providers": ort.get_available_providers(),
            "int8_is_exact_by_itself": not are_products_clipped(),
        }
    except ModuleNotFoundError as error:
        found.problems.append(why_missing(error.name))
    except Exception as error:  # noqa: BLE001 - whatever a damaged or foreign library raises
        found.problems.append(
            f"onnxruntime does not work here ({type(error).__name__}: {error}); install it again"
        )


def _choose(found: Checkup, config: Config) -> None:
    """Say what the settings come to on this machine, and why."""
    from nerve.models.room import n_threads_of
    from nerve.runtime.devices import CUDA, choose_provider

    asked = config.model.device
    provider = choose_provider(asked, config.model.device_id, config.model.precision)
    because = f"model.device is {asked}"
    if asked == "auto":
        because = "a GPU can be used" if provider is CUDA else _why_no_gpu(found, config)
    threads, mode = n_threads_of(config), config.cpu.mode
    found.chosen = {
        "device": {"is": provider.device, "because": because},
        "precision": _precision(provider, config.model.precision, found),
        "threads": {"is": threads, "because": _threads_because(config)},
        "workers": {"is": config.server.workers, "because": "server.workers"},
    }
    if provider.shares_cores:
        found.chosen["cpu.mode"] = {"is": mode.value, "because": _mode_because(mode, threads)}


def _why_no_gpu(found: Checkup, config: Config) -> str:
    from nerve.runtime.devices import CUDA
    from nerve.runtime.driver import why_no_gpu
    from nerve.runtime.sessions import cuda_major

    if not found.gpu.get("cards"):
        return "there is no NVIDIA GPU that can be seen here"
    return CUDA.why_not() or why_no_gpu(config.model.device_id, cuda_major()) or "no GPU can be used"


def _precision(provider: Provider, asked: Precision, found: Checkup) -> dict[str, str]:
    if asked is not Precision.AUTO:
        return {"is": asked.value, "because": f"model.precision is {asked.value}"}
    because = f"what auto takes on {provider.device}"
    if provider.shares_cores and Precision.INT8 in provider.precisions:
        gain = "about twice" if found.processor["instructions"].get("VNNI") else "about 1.3 times"
        why = "has VNNI" if gain == "about twice" else "has no VNNI"
        if found.processor["architecture"] == "x86_64":
            because += (
                f"; int8 is {gain} as fast, since this processor {why} (model.precision: int8, nerve verify)"
            )
        if found.processor["instructions"].get("bf16"):
            because += f"; bfloat16 {_worth_of_bfloat16()}"
    return {"is": provider.precisions[0].value, "because": because}


def _worth_of_bfloat16() -> str:
    """Say what bfloat16 would bring on a processor that has instructions for it: one product tells, if it can."""
    from nerve.runtime.openvino import compare_products

    try:
        ours, theirs = compare_products()
    except ImportError:
        return "may be faster, nearer to float32 than int8 (nerve[openvino])"
    if ours < theirs:
        return (
            f"computes a product {theirs / ours:.1f} times as fast (model.precision: bfloat16, nerve verify)"
        )
    return "is not faster here"


def _threads_because(config: Config) -> str:
    if config.cpu.threads is not None:
        return "cpu.threads"
    return "all usable cores" if config.server.workers == 1 else "the usable cores, divided among the workers"


def _mode_because(mode: CpuMode, threads: int) -> str:
    if threads == 1:
        return "with one thread all modes are the same"
    return {
        CpuMode.AUTO: f"a lone request gets all {threads} threads, several share them",
        CpuMode.LATENCY: f"each request gets all {threads} threads, one after the other",
        CpuMode.THROUGHPUT: f"each request gets one of {threads} threads",
    }[mode]


def _look_at_storage(found: Checkup, config: Config, reach: Reach) -> None:
    own = _collect(found, lambda: cache_dir_of(config))
    hub = reach.cache if config.model.cache_dir is None or own is None else own / "hub"
    for what, path in (("checkpoints and graphs", own), ("models of the hub", hub)):
        if path is not None:
            found.caches.append({"what": what, **_describe_folder(path)})
    found.hub = {
        "endpoint": reach.endpoint,
        "is_reachable": reach.problem is None,
        "seconds": reach.seconds,
        "problem": reach.problem,
        "has_token": reach.has_token,
    }
    if reach.problem is not None:
        found.notes.append(
            f"the hub {reach.endpoint} cannot be reached ({reach.problem}): only models in the cache, folders and "
            "packages can be served; HF_ENDPOINT names another hub"
        )


def _describe_folder(path: Path) -> dict[str, Any]:
    """Return the size of a folder, which need not exist, and the room that is left for it."""
    there = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return {
        "path": str(path),
        "bytes": sum(_file_sizes(path)),
        "free_bytes": shutil.disk_usage(there).free,
        "is_writable": os.access(there, os.W_OK | os.X_OK),
    }


def _file_sizes(folder: Path) -> Iterator[int]:
    """Yield the bytes of each file; links count nothing, since what they lead to is counted where it is."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _file_sizes(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_size
    except OSError:
        return  # not there, not ours, or just removed


def _look_at_server(config: Config) -> None:
    """Raise the `StartupError` that a start would, short of the model: key, certificates, endpoints, address."""
    from nerve.endpoints import create_endpoints
    from nerve.server.listening import check_address, listening_host
    from nerve.server.tls import open_tls

    has_key = load_api_key(config.server) is not None
    create_endpoints(config)
    if config.server.tls is not None:
        open_tls(config.server.tls)
    check_address(config.server, listening_host(config.server, has_key=has_key))


def _look_at_model(found: Checkup, config: Config, reach: Reach) -> None:
    from nerve.models.outlook import foresee

    with hub_left_alone(reach):
        outlook = foresee(config, cache_dir_of(config))
    found.model = {
        "name": outlook.model["name"],
        "id": outlook.model.get("model_id", ""),
        "download_bytes": outlook.download_bytes if outlook.files else None,
        "weights_bytes": outlook.memory.get("weights_bytes"),
    }
    free, weights = found.memory.get("free_bytes"), found.model["weights_bytes"]
    if free is not None and weights is not None and weights > free:
        found.notes.append(
            f"{outlook.model['name']} needs {bytes_for_people(weights)} of memory for its weights alone, and "
            f"{bytes_for_people(free)} are free"
        )
    refused = outlook.refused
    if refused is not None and not outlook.files and reach.problem is not None and _is_of_a_hub(config):
        refused = (
            f"{config.model.checkpoint_repository.repo} is not whole in the cache {found.caches[-1]['path']}, and the "
            f"hub cannot be reached ({reach.problem}); check network, proxy and HF_ENDPOINT, or run `nerve pull` where "
            "there is a network and bring the cache here"
        )
    if refused is not None and refused not in found.problems:
        found.problems.append(refused)


def _is_of_a_hub(config: Config) -> bool:
    return config.model.checkpoint_repository.source is CheckpointSource.HF
