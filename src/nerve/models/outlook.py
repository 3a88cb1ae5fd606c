"""What a configuration would serve and how, found out without loading it: the content of `nerve show`.

The steps are those of `loader`, on shapes instead of weights. The first one that refuses says why the start would be
refused; the others tell what they can all the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.checkpoint.choice import arithmetic_of, choose_tokenizer
from nerve.checkpoint.preview import preview_checkpoint
from nerve.checkpoint.settings import (
    check_config,
    class_names,
    label_names,
    read_config,
    read_tokenizer_settings,
    why_made_up,
)
from nerve.checkpoint.tokenizer import open_tokenizer
from nerve.config import Precision, model_name
from nerve.errors import ModelError, StartupError
from nerve.graph import build_check, is_prepared, load_graph, local_windows
from nerve.graph.preview import (
    count_parameters,
    estimate_bytes,
    estimate_parameters,
    pickled_shapes,
    rows_of_tables,
    shapes_read_back,
    stored_shapes,
    why_no_family,
    why_not_built,
    why_not_opened,
)
from nerve.models.limits import find_lengths, make_policy
from nerve.models.room import find_room, reach_of
from nerve.models.tokens import limit_ids, warn_of_tokenizer
from nerve.models.vocabulary import read_vocabulary
from nerve.runtime.backend import GraphKind
from nerve.runtime.devices import choose_provider
from nerve.text.labels import parse_labels
from nerve.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from nerve.checkpoint.preview import Preview, Shapes
    from nerve.config import Config, ModelConfig
    from nerve.models.limits import Lengths
    from nerve.models.room import Room

_GRAPH = ".onnx"
_SHAPE_KEYS = {
    "layers": ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "dim", "d_model", "n_embd"),
    "heads": ("num_attention_heads", "n_heads", "n_head", "num_heads"),
}


class File(msgspec.Struct):
    """A file that the server needs; bytes: None where nobody tells. is_here: it need not be fetched."""

    name: str
    bytes: int | None
    is_here: bool


class Outlook(msgspec.Struct):
    """What would be served. A section is empty where nothing is known; its keys are those of `--json`.

    refused: why the start would be refused; None when nothing speaks against it.
    """

    model: dict[str, Any] = {}
    architecture: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    tokenizer: dict[str, Any] = {}
    graph: dict[str, Any] = {}
    files: list[File] = []
    download_bytes: int = 0
    lengths: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    refused: str | None = None


def foresee(config: Config, cache_dir: Path) -> Outlook:
    """Return what `config` would serve. Fetches small files into the cache; raises nothing that a start would."""
    outlook = Outlook()
    source = config.model.checkpoint_repository
    outlook.model = {
        "name": model_name(config.model),
        "source": source.source.value,
    }
    try:
        preview = preview_checkpoint(
            config.model,
            cache_dir,
            is_buildable=build_check(config.model),
            fits=partial(_fits, config.model),
            read_pickle=pickled_shapes,
        )
    except StartupError as error:
        outlook.refused = str(error)
        return outlook
    outlook.model |= {"model_id": preview.model_id, "revision": preview.revision}
    outlook.model["name"] = model_name(config.model)
    outlook.files = [File(name, preview.sizes.get(name), name in preview.here) for name in preview.used]
    outlook.download_bytes = sum(file.bytes or 0 for file in outlook.files if not file.is_here)
    if preview.refusal is not None:
        outlook.refused = str(preview.refusal)
    _Steps(config, cache_dir, preview, outlook).take()
    return outlook


class _Steps:
    """The steps of a start, each with what the ones before it have found."""

    def __init__(self, config: Config, cache_dir: Path, preview: Preview, outlook: Outlook) -> None:
        self._config = config
        self._cache_dir = cache_dir
        self._preview = preview
        self._outlook = outlook
        self._settings: dict[str, Any] = {}
        self._shapes: Shapes = {}
        self._n_parameters: int | None = None
        self._lengths: Lengths | None = None
        self._room: Room | None = None

    def take(self) -> None:
        """Take each step; the first refusal counts."""
        steps: tuple[Callable[[], None], ...] = (
            self._read_architecture,
            self._read_labels,
            self._foresee_graph,
            self._foresee_lengths,
            self._read_tokenizer,
        )
        for step in steps:
            if self._preview.folder is None:
                return
            try:
                step()
            except StartupError as error:
                self._outlook.refused = self._outlook.refused or str(error)

    def _folder(self) -> Path:
        if self._preview.folder is None:
            raise ModelError("there is no folder; check the name of the model")
        return self._preview.folder

    def _read_architecture(self) -> None:
        self._settings = settings = read_config(self._folder())
        found: dict[str, Any] = {"model_type": settings.get("model_type")}
        found["class"] = next(iter(class_names(settings)), None)
        for name, keys in _SHAPE_KEYS.items():
            found[name] = next((settings[key] for key in keys if key in settings), None)
        self._outlook.architecture = found
        self._shapes = self._preview.shapes or stored_shapes(self._folder())
        if self._shapes:
            self._n_parameters = count_parameters(self._shapes)
        else:
            self._n_parameters = estimate_parameters(settings)
        found |= {"parameters": self._n_parameters, "parameters_are_estimated": not self._shapes}
        check_config(settings, self._preview.model_id)

    def _read_labels(self) -> None:
        names = label_names(self._settings, self._preview.model_id)
        labels = parse_labels(names)
        tags = [tag for tag, id_ in zip(labels.tags, labels.tag_ids, strict=True) if id_ >= 0]
        self._outlook.labels = {
            "count": len(names),
            "names": list(names),
            "scheme": labels.scheme.value,
            "tags": list(dict.fromkeys(tags)),
            "made_up_because": why_made_up(self._settings),
        }

    def _foresee_graph(self) -> None:
        model = self._config.model
        provider = choose_provider(model.device, model.device_id, model.precision)
        found: dict[str, Any] = {"device": provider.device}
        self._outlook.graph = found
        if model.precision not in (Precision.AUTO, *provider.precisions):
            others = " or ".join(one.value for one in provider.precisions)
            raise ModelError(
                f"model.precision {model.precision.value} is not available on {provider.device}; use auto, {others}"
            )
        graph = next((name for name in self._preview.used if name.endswith(_GRAPH)), None)
        main = next((name for name in self._preview.used if _is_weights(name)), graph)
        if main is None:
            return
        found["from"] = graph or main
        reason = None
        if graph is None and self._shapes:
            reason = why_not_built(self._settings, self._shapes)
        elif graph is None and main in self._preview.here:
            reason = why_not_opened(self._folder())
        if reason is not None:
            raise ModelError(f"no graph can be built from {main}: {reason}; make one with `nerve export`")
        if graph is None or self._is_read_back(graph):
            kind = provider.graph_kind
            precision = provider.precisions[0] if model.precision is Precision.AUTO else model.precision
            n_bytes = estimate_bytes(self._n_parameters or 0, precision, self._shapes)
            found |= {"is_built": True, "precision": precision.value}
            is_shared = is_prepared(n_bytes, provider.preparation)
        else:
            kind, n_bytes, is_shared = GraphKind.READY, self._look_at_graph(graph, found), False
        room = find_room(self._config, provider, self._settings, kind, n_bytes, is_shared)
        self._room = room
        memory: dict[str, Any] = {
            "weights_bytes": room.weights,
            "sessions": room.n_sessions,
            "is_shared": is_shared,
        }
        if room.memory is not None:
            memory |= {"usable_bytes": room.memory.total, "free_bytes": room.memory.free}
        self._outlook.memory = memory

    def _is_read_back(self, graph: str) -> bool:
        """Tell whether a graph would be built from the weights in one that is here."""
        if graph not in self._preview.here or not self._may_be_read_back():
            return False
        shapes = shapes_read_back(self._settings, self._folder())
        if shapes is None:
            return False
        self._shapes, self._n_parameters = shapes, count_parameters(shapes)
        self._outlook.architecture |= {"parameters": self._n_parameters, "parameters_are_estimated": False}
        return True

    def _look_at_graph(self, graph: str, found: dict[str, Any]) -> int:
        """Say what is known of a graph that is used as it is, as far as can be told; return its bytes."""
        model = self._config.model
        if graph in self._preview.here:
            ready = load_graph(self._folder(), model.precision, self._cache_dir, graph)
            found |= {"is_built": False, "precision": ready.precision.value}
            return ready.n_bytes
        is_built = None if self._may_be_read_back() and why_no_family(self._settings) is None else False
        found |= {"is_built": is_built, "precision": arithmetic_of(graph)}
        return self._preview.sizes.get(graph, 0)

    def _may_be_read_back(self) -> bool:
        """Tell whether weights are looked for in graphs: where there are no others, and no graph was asked for."""
        return self._config.model.graph is None and not any(map(_is_weights, self._preview.used))

    def _foresee_lengths(self) -> None:
        if self._room is None:
            return
        config = self._config
        _, n_positions = rows_of_tables(self._settings, self._shapes)
        lengths = find_lengths(
            self._settings,
            read_tokenizer_settings(self._folder()),
            config.model.max_length,
            config.runtime.window_tokens,
            n_positions,
            self._room,
        )
        self._lengths = lengths
        self._outlook.lengths = {
            "max_length": lengths.max_length,
            "max_length_from": lengths.max_length_from,
            "window_tokens": lengths.window_tokens,
            "window_tokens_from": lengths.window_tokens_from,
        }
        calls = self._room.call_bytes(lengths.window_tokens) * self._room.n_calls
        self._outlook.memory |= {"calls": self._room.n_calls, "calls_bytes": calls}
        provider = choose_provider(config.model.device, config.model.device_id, config.model.precision)
        policy = make_policy(config.batching, provider, lengths.window_tokens, lengths.max_length)
        self._outlook.limits = {
            "max_batch_tokens": policy.token_budget,
            "max_batch_size": policy.max_batch_size,
            "max_inputs": config.limits.max_inputs,
            "max_input_tokens": config.limits.most_input_tokens,
            "max_request_tokens": config.limits.most_request_tokens,
            "max_body_bytes": config.limits.max_body_bytes,
        }

    def _read_tokenizer(self) -> None:
        file = next(iter(choose_tokenizer(self._preview.files)), None)
        if file is None:
            return
        self._outlook.tokenizer = {"file": file}
        if self._preview.refusal is not None and not (self._folder() / file).is_file():
            return  # refused before it was fetched
        raw, is_made = open_tokenizer(self._folder())
        self._outlook.tokenizer |= {
            "kind": type(raw.model).__name__,
            "vocabulary": raw.get_vocab_size(with_added_tokens=True),
        }
        settings = read_tokenizer_settings(self._folder())
        if not is_made:
            warn_of_tokenizer(raw, settings)
        if self._lengths is None:
            return
        tokenizer = TextTokenizer(
            raw,
            self._lengths.window_tokens,
            self._config.runtime.window_stride,
            self._config.limits.most_input_tokens,
            self._lengths.max_length,
            reach_of(local_windows(self._settings)),
        )
        self._outlook.tokenizer["special_tokens"] = [
            text for _, text in sorted(tokenizer.special_tokens.items())
        ]
        n_words, _ = rows_of_tables(self._settings, self._shapes)
        limit_ids(tokenizer, read_vocabulary(raw, settings, tokenizer.special_tokens), n_words)


def _fits(model: ModelConfig, config: Mapping[str, Any], folder: Path, shapes: Shapes) -> bool:
    """Tell whether a graph can be built from tensors, of which only the shapes may be here."""
    if not shapes:
        return bool(build_check(model)(config, folder))
    try:
        return bool(build_check(model)(config)) and why_not_built(config, shapes) is None
    except ModelError:
        return True  # `_foresee_graph` has the better word for it


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json"))
