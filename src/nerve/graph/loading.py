"""Chooses and loads the ONNX graph of a model folder.

A checkpoint of a known architecture becomes a graph of our own making (`GraphKind.BUILT` for the CPU,
`GraphKind.PACKED` for CUDA); anything else runs as the ONNX file that lies in the folder (`GraphKind.READY`).
Called at start-up, from any thread; several processes may load the same folder at once.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerve.checkpoint.choice import Unbuildable
from nerve.checkpoint.settings import read_config
from nerve.config import Precision
from nerve.errors import ModelError, StartupError
from nerve.graph import builder, cache, int8, packed, ready, standard, weights
from nerve.graph.architectures import NotBuildable, describe, find_family, survey, why_not_packed
from nerve.graph.exportable import REFUSED
from nerve.graph.prepared import load_or_prepare
from nerve.graph.stored import UnknownType
from nerve.runtime.backend import GraphKind
from nerve.runtime.devices import CPU, choose_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from nerve.checkpoint.choice import BuildCheck
    from nerve.config import ModelConfig
    from nerve.graph.architectures.encoder import Encoder
    from nerve.runtime.backend import Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph for `onnxruntime.InferenceSession`.

    source: the graph itself, or the file that holds it.
    precision: what it really computes in.
    n_words: rows of the table that token ids are looked up in; None where that is not known.
    n_positions: rows of the position table in the weights it was built from; None for a ready graph.
    entry: folder of the cache that keeps a graph that was built; it may be absent where none can be written.
    mixes_rows: an operator with which what a row gets depends on the other rows of the batch; None for no such one.
    is_shared: sessions have the weights in common, those of other processes included.
    """

    source: bytes | Path
    kind: GraphKind
    precision: Precision
    n_words: int | None = None
    n_positions: int | None = None
    entry: Path | None = field(default=None, compare=False)
    mixes_rows: str | None = None
    is_shared: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes that a session holds of it, more or less: those of the graph and of the files that it names."""
        if isinstance(self.source, bytes):
            return len(self.source)
        size = self.source.stat().st_size
        if size > _LARGEST_OUTLINE:  # its tensors are inside
            return size
        return sum(part.stat().st_size for part in weights.onnx_parts(self.source))


# A graph whose tensors lie in other files is smaller than that.
_LARGEST_OUTLINE = 2**27


def build_check(model: ModelConfig) -> BuildCheck:
    """Return what tells whether a checkpoint's weights will be used on the device that `model` names."""

    def check(config: Mapping[str, Any], folder: Path | None = None) -> bool | Unbuildable:
        return is_buildable(
            config, folder, lambda: choose_provider(model.device, model.device_id, model.precision)
        )

    return check


def is_buildable(
    config: Mapping[str, Any], folder: Path | None = None, provider: Callable[[], Provider] = lambda: CPU
) -> bool | Unbuildable:
    """Return whether the guards let a checkpoint pass; log the reason if they do not, and return it.

    config: its decoded `config.json`. folder: where its weights lie; then the names and shapes of the tensors are
    looked at, too. provider: finds the one that will run the graph; asked only where that decides.
    A file that is damaged passes here: `load_graph` has the better word for it.
    """
    try:
        reason = why_not_packed(config)
        if reason is not None and provider().graph_kind is GraphKind.PACKED:
            raise NotBuildable(reason)
        if folder is not None and (files := weights.find_weights(folder)):
            survey(config, weights.open_weights(files))
    except StartupError:
        return True
    except NotBuildable as reason:
        log.info("no graph can be built from the weights: %s", reason)
        is_unknown = isinstance(reason, UnknownType)  # which lists all types
        text = (
            "docs/explanation/architectures.md has the types of which it can" if is_unknown else str(reason)
        )
        return Unbuildable(text, _remedy_for(config))
    return True


def _remedy_for(config: Mapping[str, Any]) -> str:
    """Say what helps where `nerve export` does not; "" where it may."""
    if config.get("quantization_config"):
        return "dequantise the model and save it again, or choose the one that it was made from"
    if (why := REFUSED.get(str(config.get("model_type")))) is None:
        return ""
    return f"`nerve export` makes none either, since {why}; choose one of docs/explanation/architectures.md"


def load_graph(
    folder: Path,
    precision: Precision,
    cache_dir: Path,
    graph_file: str | None = None,
    provider: Provider = CPU,
    calibration: Sequence[Sequence[int]] = (),
    *,
    show_progress: bool = False,
) -> Graph:
    """Return the graph of the model in `folder` for a provider.

    calibration: token ids of typical texts, for int8; without them random ids have to do.
    show_progress: draw a bar on stderr for what takes long.

    The first of these that applies: the named `graph_file`, as it is; a graph built from the weights, in safetensors
    or as PyTorch pickles them; one built from the weights inside an ONNX file; the ONNX file as it is. Raises
    `ModelError` with the remedy when there is none, and `CheckpointError` for a config or an index that cannot be read.
    """
    known = provider.precisions
    if precision not in (Precision.AUTO, *known):
        others = " or ".join(one.value for one in known)
        raise ModelError(
            f"model.precision {precision.value} is not available on {provider.device}; use auto, {others}"
        )
    if graph_file is not None:
        return _ready_graph(folder / graph_file, precision, provider)
    computed = known[0] if precision is Precision.AUTO else precision
    try:
        return _built_graph(folder, computed, cache_dir, provider, calibration, show_progress)
    except NotBuildable as reason:
        files = ready.find_onnx(folder, precision)
        if not files:
            raise ModelError(_remedy(folder, reason)) from reason
        log.info("the graph is not built from the weights: %s; using %s", reason, files[0])
        return _ready_graph(files[0], precision, provider)


def _built_graph(
    folder: Path,
    computed: Precision,
    cache_dir: Path,
    provider: Provider,
    calibration: Sequence[Sequence[int]],
    show_progress: bool,
) -> Graph:
    """Build the graph, or find it in the cache. Raises `NotBuildable`."""
    kind = provider.graph_kind
    config = read_config(folder)
    find_family(config)
    source = _open_source(folder, config)

    def build() -> onnx.ModelProto:
        encoder = source.read()
        if kind is GraphKind.PACKED:
            return packed.build(encoder, half=computed is Precision.FLOAT16)
        if computed is Precision.INT8:
            return int8.build(encoder, calibration, show_progress=show_progress)
        graph = builder.build(encoder)
        return standard.standardize(graph) if kind is GraphKind.STANDARD else graph

    used = [list(ids) for ids in calibration] if computed is Precision.INT8 else []
    facts = json.dumps([config, kind.value, used], sort_keys=True).encode()
    key = cache.make_key(source.files, facts, computed)
    entry = cache.entry_of(cache_dir, key)
    graph, is_shared = load_or_prepare(
        entry, provider.preparation, lambda: cache.load_or_build(cache_dir, key, build)
    )
    n_positions = source.n_positions
    if n_positions is None:
        n_positions = find_family(config).most_positions(config)
    return Graph(graph, kind, computed, source.n_words, n_positions, entry, is_shared=is_shared)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a graph is built from.

    files: all that it is made of. read: returns the encoder; it raises `NotBuildable`.
    n_words, n_positions: rows of tables; they can be fewer than `config.json` says.
    """

    files: list[Path]
    read: Callable[[], Encoder]
    n_words: int | None
    n_positions: int | None


def _open_source(folder: Path, config: Mapping[str, Any]) -> _Source:
    """Return the weights of a folder, or else what may be the weights inside its ONNX files."""
    files = weights.find_weights(folder)
    if not files:
        return _open_onnx(folder, config)
    stored = weights.open_weights(files)
    found = survey(config, stored)
    if found.leftovers:
        log.info(
            "%d tensors of pre-training or buffers are not used, such as %s",
            *_count_and_name(found.leftovers),
        )
    if found.unused:
        log.warning(
            "%d tensors of the weights are not used, by transformers neither, such as %s: what they stand for (a "
            "second head, a CRF) has no part in the answers",
            *_count_and_name(found.unused),
        )
    return _Source(files, lambda: describe(config, stored), found.n_words, found.n_positions)


def _count_and_name(names: Sequence[str]) -> tuple[int, str]:
    return len(names), ", ".join(ascii(name[:100])[1:-1] for name in names[:3])


def _open_onnx(folder: Path, config: Mapping[str, Any]) -> _Source:
    graphs = ready.find_onnx(folder, Precision.FLOAT32)  # the least rounded first
    family = find_family(config)
    shapes = [weights.read_onnx_shapes(file) for file in graphs]

    def rows(table: str | None) -> int | None:
        return next((found[table][0] for found in shapes if table in found), None)

    def read() -> Encoder:
        reason = NotBuildable("there are no weights in safetensors or of PyTorch")
        for file in graphs:
            unpacked = weights.read_onnx(file)
            if unpacked is None:
                continue
            try:
                return describe(config, unpacked, takes_all=True)
            except NotBuildable as error:
                reason = NotBuildable(f"the weights in {file.name} cannot be read back: {error}")
        raise reason

    files = [part for file in graphs for part in weights.onnx_parts(file)]
    return _Source(files, read, rows(family.word_table), rows(family.position_table))


def _ready_graph(file: Path, precision: Precision, provider: Provider) -> Graph:
    if not file.is_file():
        raise ModelError(f"model.graph: there is no file {file}; name one that is there")
    found = ready.check_ready(file)
    if provider.graph_kind is GraphKind.STANDARD and found.precision is Precision.FLOAT32:
        computed = provider.precisions[0]  # its runtime rounds what it computes
    else:
        computed = found.precision
    if precision not in (Precision.AUTO, computed):
        raise ModelError(
            f"model.precision is {precision.value}, but {file} computes in {found.precision.value} and cannot be "
            "rebuilt; use precision auto, or a checkpoint whose weights can be read"
        )
    return Graph(file, GraphKind.READY, computed, n_words=found.n_words, mixes_rows=found.mixes_rows)


def _remedy(folder: Path, reason: NotBuildable) -> str:
    """Say what to do about a folder that has no graph and cannot be built from."""
    return f"no graph for {folder}: {reason}, and there is no ONNX file; make one with `nerve export`"
