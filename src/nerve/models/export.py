"""Exports any token-classification checkpoint to a model folder with an ONNX graph; needs `nerve[export]`.

For architectures that `graph` cannot build from the weights (docs/explanation/architectures.md). The model is
traced with PyTorch; the result is compared with PyTorch on several shapes, with padding, before the folder
is put in its place. The sole user of `torch` and `transformers`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.checkpoint.calibration import CALIBRATION
from nerve.checkpoint.settings import padding_id, stated_positions
from nerve.checkpoint.storage import draft_beside, place
from nerve.config import Device
from nerve.errors import ModelError
from nerve.graph.exportable import REFUSED
from nerve.models.traced_experts import use_traced_experts
from nerve.observability.progress import progress
from nerve.runtime.padded import Session
from nerve.types import Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nerve.observability.progress import Task

log = logging.getLogger(__name__)

_OPSET = 17
# Batches compared with PyTorch, as lengths of their rows: alone, padded, more than one tile of the kernels, and
# farther apart than local attention (ModernBERT) and exact distances (DeBERTa-v2) reach.
_CHECKED_LENGTHS = ((3,), (9, 5), (33, 2, 17), (70,), (512, 300))
_LONGEST = max(map(max, _CHECKED_LENGTHS))
_TOLERANCE = 1e-4
_MASK_NAMES = ("input_ids", "attention_mask", "token_type_ids")


def export_checkpoint(
    source: str, target: Path, revision: str | None = None, *, show_progress: bool = False
) -> float:
    """Write a model folder for the checkpoint `source` (a folder or a hub repository) at `target`.

    show_progress: draw bars on stderr. Returns the largest difference of a logit from PyTorch's. Raises `ModelError`.
    """
    torch, transformers = _import_export_libraries()
    if not show_progress:
        transformers.utils.logging.disable_progress_bar()  # it would draw into a log, too
    if target.exists():
        raise ModelError(f"{target} exists already; name a new folder")
    with _loading(source):
        config = transformers.AutoConfig.from_pretrained(source, revision=revision)
    _refuse_at_once(source, config, transformers)
    with _loading(source):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision)
    if not tokenizer.is_fast:
        raise ModelError(f"{source} has no fast tokenizer; convert it to tokenizer.json first")
    with _loading(source):
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            source,
            revision=revision,
            dtype=torch.float32,
            attn_implementation="eager",
            trust_remote_code=False,
        ).eval()
    steps = 1 + len(_CHECKED_LENGTHS)
    with draft_beside(target) as folder, progress(f"tracing {source}", steps, show=show_progress) as task:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        calibration = transformers.utils.cached_file(
            source,
            CALIBRATION,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if calibration is not None:
            shutil.copyfile(calibration, folder / CALIBRATION)
        difference = _write_graph(model, folder / "model.onnx", torch, task, source)
        place(folder, target)
    return difference


def _refuse_at_once(source: str, config: Any, transformers: Any) -> None:
    """Raise `ModelError` for what is known to give no graph that can be served, before its weights are fetched."""
    kind = getattr(config, "model_type", None)
    if kind in REFUSED:
        raise ModelError(
            f"{source} cannot be exported: a model of the type {kind} cannot be served, since {REFUSED[kind]}; "
            "choose one of "
            "docs/explanation/architectures.md"
        )
    known = transformers.models.auto.modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES
    if kind not in known:
        raise ModelError(
            f"{source} cannot be exported: transformers {transformers.__version__} has no token classifier of the type "
            f"{kind}; try a newer transformers, or choose another checkpoint"
        )


@contextlib.contextmanager
def _loading(source: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())  # in one line
        raise ModelError(
            f"transformers cannot load {source}: {reason}; check the checkpoint, or try a newer transformers"
        ) from error


def _import_export_libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ModelError(
            f"`nerve export` needs PyTorch and transformers ({error.name} is missing); install nerve[export]"
        ) from error
    # The hub's library would write its lines twice: by a handler of its own, and by those of the process.
    logging.getLogger("huggingface_hub").handlers.clear()
    return torch, transformers


def _write_graph(model: Any, path: Path, torch: Any, task: Task, source: str) -> float:
    """Write a graph that gives PyTorch's logits; return the largest difference. Raises `ModelError` where none does.

    Of the tracer, whose graphs ONNX Runtime optimises best; of torch.export where that fails, or its graph does.
    """
    use_traced_experts(model, torch)
    failures = []
    for write in (_trace, _export):
        try:
            write(model, path, torch)
        except Exception as error:  # noqa: BLE001 - both raise anything
            failures.append(f"{write.__name__.strip('_')}: {_last_line(error)}")
            log.warning("%s cannot be written by %s", source, failures[-1])
            continue
        task.advance()
        task.describe(f"comparing {source} with PyTorch")
        try:
            return _check_graph(model, path, torch, task)
        except ModelError as error:
            failures.append(f"{write.__name__.strip('_')}: {error}")
            log.warning("%s: %s", source, failures[-1])
    raise ModelError(
        f"PyTorch cannot export {type(model).__name__} to ONNX ({'; '.join(failures)}); try newer versions of it"
    )


def _last_line(error: BaseException) -> str:
    """Say in a line what the first of nested errors was."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _arguments(model: Any, torch: Any) -> tuple[list[str], tuple[Any, ...], Any]:
    """Return the names of the inputs, values of them, and the model that takes them by position."""
    names = _input_names(model)
    ids = torch.arange(5, 5 + 16, dtype=torch.int64).reshape(2, 8) % model.config.vocab_size  # (B,T)
    examples = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    return names, tuple(examples[name] for name in names), _logits_of(model, names, torch)


def _trace(model: Any, path: Path, torch: Any) -> None:
    """Export with the tracer."""
    names = (*_input_names(model), "logits")
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    _write(model, path, torch, dynamo=False, dynamic_axes=axes, opset_version=_OPSET)


def _export(model: Any, path: Path, torch: Any) -> None:
    """Export with torch.export, whose reports go nowhere."""
    dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    shapes = (tuple(dimensions for _ in _input_names(model)),)  # those of `*tensors`, which is one argument
    with contextlib.redirect_stdout(io.StringIO()):
        _write(model, path, torch, dynamo=True, dynamic_shapes=shapes, external_data=False)


def _write(model: Any, path: Path, torch: Any, **how: Any) -> None:
    names, arguments, wrapped = _arguments(model, torch)
    with _quiet():
        torch.onnx.export(wrapped, arguments, str(path), input_names=names, output_names=["logits"], **how)


def _logits_of(model: Any, names: list[str], torch: Any) -> Any:
    """Wrap a model so that it takes tensors by position and gives logits alone."""

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            return self.model(**dict(zip(names, tensors, strict=True)), return_dict=True).logits

    return Logits().eval()


def _input_names(model: Any) -> list[str]:
    """Return the graph's inputs: token types only where the model has a table of them."""
    uses_types = (
        getattr(model.config, "type_vocab_size", 0) > 0
        and "token_type_ids" in inspect.signature(model.forward).parameters
    )
    return list(_MASK_NAMES if uses_types else _MASK_NAMES[:2])


def _check_graph(model: Any, path: Path, torch: Any, task: Task) -> float:
    """Compare logits with PyTorch's on seeded random batches; returns the largest difference.

    task: is told of each batch. Raises `ModelError` when the graph fails or is not faithful.
    """
    settings = model.config.to_dict()
    pad_id = padding_id(settings)
    session = Session(path, Device.CPU, 0, pad_id, n_threads=1)
    random = np.random.default_rng(0)
    ids = np.setdiff1d(np.arange(model.config.vocab_size), [pad_id])
    positions = stated_positions(settings)
    limit = _LONGEST if positions is None else positions
    largest = 0.0
    for lengths in _CHECKED_LENGTHS:
        rows = [random.choice(ids, min(n, limit)).tolist() for n in lengths]
        shape = " and ".join(str(len(row)) for row in rows)
        try:
            got = session.run([Window(row, 0) for row in rows], needs_logits=True)
        except Exception as error:  # onnxruntime raises its own classes, all plain `Exception`s
            raise ModelError(
                f"the exported graph fails on a batch of {shape} tokens, so this architecture cannot be exported "
                f"with these library versions: {' '.join(str(error).split())}; try newer ones"
            ) from error
        for row, scores in zip(rows, got, strict=True):
            with torch.no_grad():
                expected = model(input_ids=torch.tensor([row])).logits[0].numpy()  # (T,L)
            difference = float(np.abs(np.asarray(scores.logits) - expected).max())
            if not difference <= largest:  # also where it is no number
                largest = difference
        if not largest <= _TOLERANCE:
            raise ModelError(
                f"on a batch of {shape} tokens the exported graph differs from PyTorch by {largest:.2g}, more than "
                f"{_TOLERANCE:g}; this architecture cannot be exported faithfully with these library versions, "
                "or its answers change with the padding beside a text; try newer ones, or choose another checkpoint"
            )
        task.advance()
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes about their own deprecation from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
