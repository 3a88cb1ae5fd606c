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
class Lengths:
    """How long a text and a window may be, special tokens included, and what says so, in words.

    max_length: tokens at which `truncate` cuts. window_tokens: most tokens of a window.
    """

    max_length: int
    max_length_from: str
    window_tokens: int
    window_tokens_from: str


def find_lengths(
    settings: dict[str, Any],
    tokenizer_settings: dict[str, Any],
    max_length: int | None = None,
    window_tokens: int | None = None,
    n_positions: int | None = None,
    room: Room | None = None,
) -> Lengths:
    """Return where texts are cut: what the model's files state, or less; and the longest window that there is room for.

    max_length, window_tokens: what the configuration says; it is taken as it is, or refused. n_positions: rows of the
    table in the weights, where they are known. room: what windows may take; None for as much as they like.
    Raises `ModelError` for what is above what the model or the memory allows, or where nothing states a length.
    """
    cut, cut_from = _find_cut(settings, tokenizer_settings, max_length, window_tokens, n_positions)
    if window_tokens is None:
        window, shortened = room.shorten(cut) if room is not None else (cut, None)
        window_from = shortened or cut_from
    else:
        _check_window(window_tokens, cut, cut_from, room)
        window, window_from = window_tokens, "runtime.window_tokens of the configuration"
    log.info("max length %d tokens, from %s", cut, cut_from)
    log.info("windows of %d tokens, from %s", window, window_from)
    return Lengths(cut, cut_from, window, window_from)


def _find_cut(
    settings: dict[str, Any],
    tokenizer_settings: dict[str, Any],
    max_length: int | None,
    window_tokens: int | None,
    n_positions: int | None,
) -> tuple[int, str]:
    limits = _stated(settings, tokenizer_settings, n_positions)
    name = min(limits, key=lambda key: limits[key], default="")
    if max_length is not None:
        if limits and max_length > limits[name]:
            raise ModelError(
                f"model.max_length is {max_length}, but {name} allows {limits[name]}; lower max_length"
            )
        return max_length, "model.max_length of the configuration"
    if limits:
        return limits[name], name
    if window_tokens is not None:
        return window_tokens, "runtime.window_tokens of the configuration"
    raise ModelError(
        "neither config.json nor tokenizer_config.json states a maximum length; set model.max_length "
        "(NERVE_MODEL__MAX_LENGTH)"
    )


def _check_window(asked: int, cut: int, cut_from: str, room: Room | None) -> None:
    """Prove that a window that was asked for can be had; raises `ModelError`."""
    if asked > cut:
        raise ModelError(
            f"runtime.window_tokens is {asked}, but {cut_from} allows {cut}; lower window_tokens"
        )
    if room is None:
        return
    if reason := room.why_too_long(asked):
        raise ModelError(f"runtime.window_tokens is {asked}, but {reason}")
    if asked > ALWAYS_TOKENS and not room.fits(asked):
        log.warning("memory may run out: %s, and windows of %d tokens take more", room.describe(), asked)


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


def make_policy(
    batching: BatchingConfig, provider: Provider, window_tokens: int, max_length: int
) -> BatchPolicy:
    """Fill the defaults of the batching section in; raises `ModelError` when no window would fit.

    max_length: tokens that the model allows; windows may be shorter, and short texts are batched as well as with long
    ones.
    """
    least = max(provider.least_batch_tokens, min(max_length, ALWAYS_TOKENS))
    budget = batching.max_batch_tokens or max(window_tokens, least)
    if budget < window_tokens:
        raise ModelError(
            f"batching.max_batch_tokens is {budget}, less than one window of {window_tokens} tokens; "
            "raise it, or lower runtime.window_tokens"
        )
    return BatchPolicy(
        token_budget=budget,
        max_batch_size=batching.max_batch_size or provider.max_batch_size,
        max_padding=provider.max_padding if batching.max_padding is None else batching.max_padding,
        enough_tokens=provider.enough_tokens,
    )
