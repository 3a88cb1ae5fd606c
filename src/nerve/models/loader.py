"""Loads a model folder, proves that its parts agree, and warms it up.

What is proven before anything is served: the token budget holds one window; the stride is shorter than
a window; the graph gives as many labels as `id2label` names; its inputs are known; the execution provider
is the one asked for; a short window, a full one and a padded batch run. Every refusal says what to change.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Any

from nerve.checkpoint.folder import explain_unreadable, list_files
from nerve.checkpoint.revision import revision_of
from nerve.checkpoint.settings import (
    doubt_about_labels,
    label_names,
    padding_id,
    read_config,
    read_tokenizer_settings,
    why_made_up,
)
from nerve.checkpoint.tokenizer import open_tokenizer
from nerve.config import Precision, model_name
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.models.agreement import Judge, check_agreement
from nerve.models.decoding import read_decoding
from nerve.models.limits import find_lengths, make_policy
from nerve.models.model import Model
from nerve.models.room import find_room, n_threads_of
from nerve.models.samples import calibration_texts
from nerve.models.tokens import fit_tokenizer, warn_of_tokenizer
from nerve.models.warm_up import prove
from nerve.runtime.backend import GraphKind, OpenOptions
from nerve.runtime.devices import CPU, choose_provider
from nerve.runtime.memory import give_back_free_memory
from nerve.scheduling.threads import EngineThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nerve.checkpoint import ModelFolder
    from nerve.config import Config
    from nerve.graph import Graph
    from nerve.runtime.backend import Backend, Provider

log = logging.getLogger(__name__)

# Precisions whose graphs must agree with float32.
_ROUNDED = (Precision.INT8, Precision.BFLOAT16)


def load_model(config: Config, folder: ModelFolder, cache_dir: Path, *, show_progress: bool = False) -> Model:
    """Load and prove the model of `folder`; blocks for as long as that takes.

    show_progress: draw bars on stderr while an int8 graph is built and judged.
    Raises `ModelError` or `CheckpointError`.
    """
    started = time.monotonic()
    settings = read_config(folder.path)
    decoding = read_decoding(
        label_names(settings, str(folder.path)), folder.path, config.runtime, config.redaction.operators
    )
    labels = decoding.labels
    if doubt := doubt_about_labels(settings):
        log.warning("%s", doubt)
    raw_tokenizer, is_made = open_tokenizer(folder.path)
    tokenizer_settings = read_tokenizer_settings(folder.path)
    if not is_made:
        warn_of_tokenizer(raw_tokenizer, tokenizer_settings)
    provider = choose_provider(config.model.device, config.model.device_id, config.model.precision)
    calibration: list[list[int]] = []
    if config.model.precision is Precision.INT8:
        calibration = [found.ids for found in raw_tokenizer.encode_batch(calibration_texts())]
    graph = load_graph(
        folder.path,
        config.model.precision,
        cache_dir,
        config.model.graph,
        provider,
        calibration,
        show_progress=show_progress,
    )
    lengths = find_lengths(
        settings,
        tokenizer_settings,
        config.model.max_length,
        config.runtime.window_tokens,
        graph.n_positions,
        find_room(config, provider, settings, graph.kind, graph.n_bytes, graph.is_shared),
    )
    tokenizer, vocabulary = fit_tokenizer(
        raw_tokenizer, settings, tokenizer_settings, config, lengths, graph.n_words
    )
    policy = make_policy(config.batching, provider, lengths.window_tokens, lengths.max_length)
    if graph.mixes_rows is not None:
        log.warning(
            "the graph quantises with one scale for a whole batch (%s): what it gives for a text depends on the texts "
            "beside it, so each window runs alone; a graph that nerve builds from weights (precision: int8) need not",
            graph.mixes_rows,
        )
        policy = dataclasses.replace(policy, max_batch_size=1)

    revision = folder.revision or _revision_here(folder)

    def open_backend(graph: Graph, provider: Provider = provider) -> Backend:
        return provider.open(
            OpenOptions(
                source=graph.source,
                kind=graph.kind,
                device_id=config.model.device_id,
                pad_id=padding_id(settings),
                max_length=lengths.window_tokens,
                policy=policy,
                max_batch_tokens=config.batching.max_batch_tokens,
                n_threads=n_threads_of(config),
                mode=config.cpu.mode,
            )
        )

    def open_float32() -> Backend:
        exact = provider if Precision.FLOAT32 in provider.precisions else CPU
        return open_backend(load_graph(folder.path, Precision.FLOAT32, cache_dir, provider=exact), exact)

    def open_model(thread: EngineThread | None) -> Model:
        backend = open_backend(graph)
        if backend.n_labels not in (None, len(labels.names)):
            raise ModelError(_wrong_number_of_labels(settings, len(labels.names), backend.n_labels))
        if graph.entry is not None and graph.precision in _ROUNDED:
            check_agreement(
                graph.precision,
                Judge(tokenizer, labels, vocabulary),
                backend,
                open_float32,
                config.model.min_agreement,
                graph.entry,
                raw_tokenizer.to_str(),
                show_progress=show_progress,
            )
        model = Model(
            name=model_name(config.model),
            model_id=folder.model_id,
            revision=revision,
            folder=folder.path,
            labels=labels,
            decoder=decoding.decoder,
            entity_strategy=decoding.entity_strategy,
            vocabulary=vocabulary,
            tokenizer=tokenizer,
            backend=backend,
            precision=graph.precision,
            policy=backend.policy,
            lengths=lengths,
            n_words=graph.n_words,
            n_threads=backend.n_threads,
            shares_cores=provider.shares_cores,
            can_spread=backend.can_spread,
            thread=thread,
        )
        model = prove(model, is_ready=graph.kind is GraphKind.READY)
        backend.give_back_memory()  # of the longest windows, which few requests have
        return model

    model = _open_on_engine_thread(open_model) if graph.kind in provider.owned else open_model(None)
    give_back_free_memory()
    log.info(
        "model %s loaded in %.1f s: %d labels, windows of %d tokens, %s, %s",
        model.model_id,
        time.monotonic() - started,
        len(labels.names),
        lengths.window_tokens,
        graph.precision.value,
        model.backend.provider,
    )
    return model


def _revision_here(folder: ModelFolder) -> str:
    """Return the revision of a folder that has none of its own, as its files are now."""
    try:
        return revision_of(folder.path, folder.files or list_files(folder.path))
    except OSError as error:
        raise explain_unreadable(error) from error


def _wrong_number_of_labels(settings: dict[str, Any], n_named: int, n_given: int | None) -> str:
    if reason := why_made_up(settings):
        return f"{reason}; the graph gives {n_given} labels: add id2label with a name for each"
    return (
        f"config.json names {n_named} labels in id2label, but the graph gives {n_given}; they belong to "
        "different models: fetch the checkpoint again"
    )


def _open_on_engine_thread(open_model: Callable[[EngineThread], Model]) -> Model:
    """Open a model on the thread that will run it; the thread ends when that fails."""
    thread = EngineThread("nerve-engine-0")
    try:
        return thread.call(lambda: open_model(thread))
    except BaseException:
        thread.close()
        raise
