"""A model whose graph runs in another process: what that one says of it, and all that is needed around it here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nerve.checkpoint.settings import label_names, read_config, read_tokenizer_settings
from nerve.checkpoint.tokenizer import open_tokenizer
from nerve.config import Precision, model_name
from nerve.errors import ModelError
from nerve.models.decoding import read_decoding
from nerve.models.limits import Lengths
from nerve.models.model import Model
from nerve.models.tokens import fit_tokenizer
from nerve.runtime.backend import Backend
from nerve.scheduling.batching import BatchPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.channel.front import Remote
    from nerve.checkpoint import ModelFolder
    from nerve.config import Config
    from nerve.types import TokenScores, Window


class Greeting(msgspec.Struct, frozen=True):
    """What the process that runs a model tells the fronts of it; the fields are those of `Model` and its backend."""

    revision: str
    provider: str
    n_labels: int | None
    precision: Precision
    policy: BatchPolicy
    lengths: Lengths
    n_words: int | None


class Elsewhere(Backend):
    """Stands for the backend in another process. policy: of that one."""

    def __init__(self, greeting: Greeting) -> None:
        self.provider = greeting.provider
        self.n_labels = greeting.n_labels
        self.policy = greeting.policy

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Raise `RuntimeError`: jobs go to the other process whole."""
        raise RuntimeError("this model runs in another process")


def greet(model: Model) -> bytes:
    """Return what to tell fronts of a model."""
    return msgspec.json.encode(
        Greeting(
            model.revision,
            model.backend.provider,
            model.backend.n_labels,
            model.precision,
            model.policy,
            model.lengths,
            model.n_words,
        )
    )


def load_front(config: Config, folder: ModelFolder, remote: Remote) -> Model:
    """Load everything of a model but its graph; `load_model` in the other process has proven that the parts agree.

    Raises `ModelError` or `CheckpointError`.
    """
    try:
        greeting = msgspec.json.decode(remote.link.greeting, type=Greeting)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"the process that runs the model is of another version: {error}; start the whole server again"
        ) from error
    settings = read_config(folder.path)
    decoding = read_decoding(
        label_names(settings, str(folder.path)), folder.path, config.runtime, config.redaction.operators
    )
    raw_tokenizer, _ = open_tokenizer(folder.path)
    lengths = greeting.lengths
    tokenizer, vocabulary = fit_tokenizer(
        raw_tokenizer, settings, read_tokenizer_settings(folder.path), config, lengths, greeting.n_words
    )
    return Model(
        name=model_name(config.model),
        model_id=folder.model_id,
        revision=greeting.revision,
        folder=folder.path,
        labels=decoding.labels,
        decoder=decoding.decoder,
        entity_strategy=decoding.entity_strategy,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        backend=Elsewhere(greeting),
        precision=greeting.precision,
        policy=greeting.policy,
        lengths=lengths,
        n_words=greeting.n_words,
        n_threads=1,
        shares_cores=False,
        can_spread=False,
        remote=remote,
    )
