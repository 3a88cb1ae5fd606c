"""How long a window may be, and how large a batch: what the files of a model and the configuration allow together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.checkpoint.settings import stated_length, stated_positions, unused_positions
from nerve.errors import ModelError
from nerve.models.room import ALWAYS_TOKENS
from nerve.scheduling.batching import BatchPolicy

if TYPE_CHECKING:
    from nerve.config import BatchingConfig
    from nerve.models.room import Room
    from nerve.runtime.backend import Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MaxLength:
    """How long a window may be.

    tokens: most tokens of a window, special ones included. origin: what says so, in words.
    cut: tokens at which `truncate` cuts: what the model allows, or less where the configuration says so.
    """

    tokens: int
    origin: str
    cut: int


def find_max_length(
    settings: dict[str, Any],
    tokenizer_settings: dict[str, Any],
    asked: int | None,
    n_positions: int | None = None,
    room: Room | None = None,
) -> MaxLength:
    """Return the most tokens of a window: the smallest that the model's files state, if there is room for it.

    asked: what the configuration says; it is taken as it is, or refused. n_positions: rows of the table in the
    weights, where they are known. room: what windows may take; None for as much as they like.
    Raises `ModelError` when `asked` is above what the model or the memory allows, or nothing states a length.
    """
    limits = _stated(settings, tokenizer_settings, n_positions)
    if not limits and asked is None:
        raise ModelError(
            "neither config.json nor tokenizer_config.json states a maximum length; set model.max_length"
        )
    name = min(limits, key=lambda key: limits[key], default="")
    if asked is not None:
        if limits and asked > limits[name]:
            raise ModelError(
                f"model.max_length is {asked}, but {name} allows {limits[name]}; lower max_length"
            )
        if reason := room.why_too_long(asked) if room is not None else None:
            raise ModelError(f"model.max_length is {asked}, but {reason}")
        if room is not None and asked > ALWAYS_TOKENS and not room.fits(asked):
            log.warning("memory may run out: %s, and windows of %d tokens take more", room.describe(), asked)
        found = MaxLength(asked, "model.max_length of the configuration", asked)
    else:
        tokens, shortened = room.shorten(limits[name]) if room is not None else (limits[name], None)
        found = MaxLength(tokens, shortened or name, limits[name])
    log.info("max length %d tokens, from %s", found.tokens, found.origin)
    return found


def _stated(
    settings: dict[str, Any], tokenizer_settings: dict[str, Any], n_positions: int | None
) -> dict[str, int]:
    """Return what the files of the model state of its length, by what states it."""
    limits: dict[str, int] = {}
    positions = stated_positions(settings)
    if positions is not None:
        limits["max_position_embeddings of config.json"] = positions
    if n_positions is not None:
        limits["the position table in the weights"] = n_positions - unused_positions(settings)
    stated = stated_length(tokenizer_settings)
    if stated is not None:
        limits["model_max_length of tokenizer_config.json"] = stated
    return limits


def make_policy(batching: BatchingConfig, provider: Provider, max_length: int) -> BatchPolicy:
    """Fill the defaults of the batching section in; raises `ModelError` when no window would fit."""
    budget = batching.max_batch_tokens or max(max_length, provider.least_batch_tokens)
    if budget < max_length:
        raise ModelError(
            f"batching.max_batch_tokens is {budget}, less than one window of {max_length} tokens; "
            "raise it, or lower model.max_length"
        )
    return BatchPolicy(
        token_budget=budget,
        max_batch_size=batching.max_batch_size,
        max_padding=provider.max_padding if batching.max_padding is None else batching.max_padding,
        enough_tokens=provider.enough_tokens,
    )
