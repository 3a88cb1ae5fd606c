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

from nerve.checkpoint.settings import (
    TOKENIZER,
    label_names,
    padding_id,
    read_config,
    read_tokenizer_settings,
    why_made_up,
)
from nerve.config import Precision
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.models.agreement import Judge, check_agreement
from nerve.models.limits import find_max_length, make_policy
from nerve.models.model import Model
from nerve.models.samples import calibration_texts
from nerve.models.vocabulary import read_vocabulary
from nerve.models.warm_up import find_batching, warm_up
from nerve.runtime.backend import GraphKind, OpenOptions
from nerve.runtime.cores import usable_cores
from nerve.runtime.devices import choose_provider
from nerve.scheduling.threads import EngineThread
from nerve.text.labels import parse_labels
from nerve.text.tokenizer import (
    TextTokenizer,
    contradictions,
    follows_its_file,
    load_tokenizer,
    missing_special_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tokenizers import Tokenizer

    from nerve.checkpoint import ModelFolder
    from nerve.config import Config
    from nerve.graph import Graph
    from nerve.runtime.backend import Backend

log = logging.getLogger(__name__)

_WRITE_ANEW = "write both anew with AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(FOLDER)"


def load_model(config: Config, folder: ModelFolder, cache_dir: Path) -> Model:
    """Load and prove the model of `folder`; blocks for as long as that takes.

    Raises `ModelError` or `CheckpointError`.
    """
    started = time.monotonic()
    settings = read_config(folder.path)
    labels = parse_labels(label_names(settings, str(folder.path)))
    if reason := why_made_up(settings):
        log.warning("%s: labels are called LABEL_0 to %s; add id2label for names", reason, labels.names[-1])
    raw_tokenizer = load_tokenizer(folder.path)
    tokenizer_settings = read_tokenizer_settings(folder.path)
    _warn_of_tokenizer(raw_tokenizer, tokenizer_settings)
    provider = choose_provider(config.model.device, config.model.device_id)
    calibration: list[list[int]] = []
    if config.model.precision is Precision.INT8:
        calibration = [found.ids for found in raw_tokenizer.encode_batch(calibration_texts())]
    graph = load_graph(
        folder.path, config.model.precision, cache_dir, config.model.graph, provider, calibration
    )
    max_length = find_max_length(settings, tokenizer_settings, config.model.max_length, graph.n_positions)
    tokenizer = TextTokenizer(
        raw_tokenizer, max_length, config.runtime.window_stride, config.limits.max_input_tokens
    )
    policy = make_policy(config.batching, provider, max_length)
    if graph.mixes_rows is not None:
        log.warning(
            "the graph quantises with one scale for a whole batch (%s): what it gives for a text depends on the texts "
            "beside it, so each window runs alone; a graph that nerve builds from weights (precision: int8) need not",
            graph.mixes_rows,
        )
        policy = dataclasses.replace(policy, max_batch_size=1)

    def open_backend(graph: Graph) -> Backend:
        return provider.open(
            OpenOptions(
                source=graph.source,
                kind=graph.kind,
                device_id=config.model.device_id,
                pad_id=padding_id(settings),
                max_length=max_length,
                policy=policy,
                max_batch_tokens=config.batching.max_batch_tokens,
                n_threads=config.cpu.threads or max(1, usable_cores() // config.server.workers),
                mode=config.cpu.mode,
            )
        )

    def open_float32() -> Backend:
        return open_backend(load_graph(folder.path, Precision.FLOAT32, cache_dir, provider=provider))

    def open_model(thread: EngineThread | None) -> Model:
        backend = open_backend(graph)
        if backend.n_labels not in (None, len(labels.names)):
            raise ModelError(_wrong_number_of_labels(settings, len(labels.names), backend.n_labels))
        vocabulary = read_vocabulary(raw_tokenizer, tokenizer_settings, tokenizer.special_tokens)
        if graph.entry is not None and graph.precision is Precision.INT8:
            check_agreement(
                Judge(tokenizer, labels, vocabulary),
                backend,
                open_float32,
                config.model.min_agreement,
                graph.entry,
                folder.path / TOKENIZER,
            )
        model = Model(
            model_id=folder.model_id,
            revision=folder.revision,
            folder=folder.path,
            labels=labels,
            vocabulary=vocabulary,
            tokenizer=tokenizer,
            backend=backend,
            precision=graph.precision,
            policy=backend.policy,
            max_length=max_length,
            n_threads=backend.n_threads,
            shares_cores=provider.shares_cores,
            can_spread=backend.can_spread,
            thread=thread,
        )
        warm_up(model)
        return find_batching(model) if graph.kind is GraphKind.READY else model

    model = _open_on_engine_thread(open_model) if graph.kind in provider.owned else open_model(None)
    log.info(
        "model %s loaded in %.1f s: %d labels, max length %d, %s, %s",
        model.model_id,
        time.monotonic() - started,
        len(labels.names),
        max_length,
        graph.precision.value,
        model.backend.provider,
    )
    return model


def _warn_of_tokenizer(tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """Say where transformers may give other tokens than tokenizer.json, which is used as it is."""
    if contradicted := contradictions(tokenizer, settings):
        log.warning(
            "tokenizer_config.json contradicts tokenizer.json in %s; tokenizer.json is used, where transformers may "
            "follow the other: %s",
            *(" and ".join(contradicted), _WRITE_ANEW),
        )
    if missing := missing_special_tokens(tokenizer, settings):
        log.warning(
            "tokenizer.json puts no %s around a text, though the tokenizer has these special tokens; it is used as it "
            "is, %s",
            " and no ".join(missing),
            "and so it is in transformers: see that the model was trained without them"
            if follows_its_file(settings)
            else f"where transformers' own class adds them: {_WRITE_ANEW}",
        )


def _wrong_number_of_labels(settings: dict[str, Any], n_named: int, n_given: int | None) -> str:
    if reason := why_made_up(settings):
        return f"{reason}, but the graph gives {n_given}; add id2label with a name for each"
    return (
        f"config.json names {n_named} labels in id2label, but the graph gives {n_given}; they belong to "
        "different models"
    )


def _open_on_engine_thread(open_model: Callable[[EngineThread], Model]) -> Model:
    """Open a model on the thread that will run it; the thread ends when that fails."""
    thread = EngineThread("nerve-engine-0")
    try:
        return thread.call(lambda: open_model(thread))
    except BaseException:
        thread.close()
        raise
