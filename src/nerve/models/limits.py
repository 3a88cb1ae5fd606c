"""How long a window may be, and how large a batch: what the files of a model and the configuration allow together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nerve.checkpoint.settings import stated_length, stated_positions, unused_positions
from nerve.errors import ModelError
from nerve.scheduling.batching import BatchPolicy

if TYPE_CHECKING:
    from nerve.config import BatchingConfig
    from nerve.runtime.backend import Provider

log = logging.getLogger(__name__)


def find_max_length(
    settings: dict[str, Any],
    tokenizer_settings: dict[str, Any],
    asked: int | None,
    n_positions: int | None = None,
) -> int:
    """Return the most tokens of a window: the smallest of the config's, the tokenizer's and the position table's.

    n_positions: rows of the table in the weights, where they are known.
    Raises `ModelError` when `asked` is above what the model allows, or nothing states a length.
    """
    limits: dict[str, int] = {}
    positions = stated_positions(settings)
    if positions is not None:
        limits["max_position_embeddings of config.json"] = positions
    if n_positions is not None:
        limits["the position table in the weights"] = n_positions - unused_positions(settings)
    stated = stated_length(tokenizer_settings)
    if stated is not None:
        limits["model_max_length of tokenizer_config.json"] = stated
    if asked is not None:
        if limits and asked > min(limits.values()):
            name = min(limits, key=lambda key: limits[key])
            raise ModelError(
                f"model.max_length is {asked}, but {name} allows {limits[name]}; lower max_length"
            )
        limits["model.max_length of the configuration"] = asked
    if not limits:
        raise ModelError(
            "neither config.json nor tokenizer_config.json states a maximum length; set model.max_length"
        )
    name = min(limits, key=lambda key: limits[key])
    log.info("max length %d tokens, from %s", limits[name], name)
    return limits[name]


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
