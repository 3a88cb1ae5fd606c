"""Length of a window and limits of a batch: the smallest of what is stated, and defaults."""

from __future__ import annotations

from typing import Any

import pytest

from nerve.config import BatchingConfig
from nerve.errors import ModelError
from nerve.models.limits import find_lengths, make_policy
from nerve.runtime.backend import Provider
from nerve.runtime.devices import CPU, CUDA


@pytest.mark.parametrize(
    ("settings", "tokenizer_settings", "asked", "expected"),
    [
        ({"max_position_embeddings": 512}, {}, None, 512),
        ({"max_position_embeddings": 512}, {"model_max_length": 256}, None, 256),
        ({"max_position_embeddings": 512}, {"model_max_length": 1024}, None, 512),
        ({"max_position_embeddings": 512}, {"model_max_length": 10**30}, None, 512),
        ({"max_position_embeddings": 512}, {}, 128, 128),
        ({}, {"model_max_length": 256}, None, 256),
        ({}, {"model_max_length": 10**30}, 64, 64),
        ({"max_position_embeddings": -1}, {}, 64, 64),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, {}, None, 512),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}, {}, None, 512),
        ({"max_position_embeddings": 514, "model_type": "mpnet", "pad_token_id": 1}, {}, None, 512),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 0}, {}, None, 513),
        ({"max_position_embeddings": 514, "model_type": "roberta"}, {}, None, 512),
        ({"max_position_embeddings": 514, "model_type": "camembert", "pad_token_id": None}, {}, None, 512),
        ({"max_position_embeddings": 512, "model_type": "bert", "pad_token_id": 0}, {}, None, 512),
    ],
)
def test_max_length_is_the_smallest_stated(
    settings: dict[str, Any], tokenizer_settings: dict[str, Any], asked: int | None, expected: int
) -> None:
    """Configuration, tokenizer and position table: the smallest wins, less the positions padding takes."""
    found = find_lengths(settings, tokenizer_settings, asked)
    assert (found.window_tokens, found.max_length) == (expected, expected)


@pytest.mark.parametrize(
    ("settings", "tokenizer_settings", "asked"),
    [
        ({}, {}, None),
        ({}, {"model_max_length": 10**30}, None),
        ({"max_position_embeddings": 512}, {}, 513),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, {}, 513),
        ({"max_position_embeddings": 512}, {"model_max_length": 256}, 257),
    ],
)
def test_max_length_that_cannot_be_is_refused(
    settings: dict[str, Any], tokenizer_settings: dict[str, Any], asked: int | None
) -> None:
    """No length stated at all, or more asked for than the model has."""
    with pytest.raises(ModelError, match="max_length"):
        find_lengths(settings, tokenizer_settings, asked)


@pytest.mark.parametrize(
    ("settings", "max_length", "window_tokens", "cut", "cut_from"),
    [
        ({"max_position_embeddings": 512}, None, 128, 512, "max_position_embeddings of config.json"),
        ({"max_position_embeddings": 512}, 256, 128, 256, "model.max_length of the configuration"),
        ({"max_position_embeddings": 512}, 128, 128, 128, "model.max_length of the configuration"),
        ({}, None, 128, 128, "runtime.window_tokens of the configuration"),
        ({}, 1024, 128, 1024, "model.max_length of the configuration"),
    ],
)
def test_a_window_may_be_shorter_than_where_texts_are_cut(
    settings: dict[str, Any], max_length: int | None, window_tokens: int, cut: int, cut_from: str
) -> None:
    """The two are two keys: `truncate` cuts where the model ends, or less; windows are as long as is said."""
    found = find_lengths(settings, {}, max_length, window_tokens)
    assert (found.window_tokens, found.window_tokens_from) == (
        window_tokens,
        "runtime.window_tokens of the configuration",
    )
    assert (found.max_length, found.max_length_from) == (cut, cut_from)


@pytest.mark.parametrize(
    ("max_length", "said"),
    [
        (None, "max_position_embeddings of config.json allows 512"),
        (256, "model.max_length of the configuration allows 256"),
    ],
)
def test_no_window_is_longer_than_a_text_may_be(max_length: int | None, said: str) -> None:
    """The refusal names both sides and the key to lower."""
    with pytest.raises(ModelError, match=rf"^runtime\.window_tokens is 513, but {said}; lower window_tokens"):
        find_lengths({"max_position_embeddings": 512}, {}, max_length, 513)


@pytest.mark.parametrize(
    ("batching", "provider", "budget", "padding", "size"),
    [
        (BatchingConfig(), CPU, 512, 0.05, 32),
        (BatchingConfig(), CUDA, 16384, 1.0, 256),
        (BatchingConfig(max_batch_tokens=1024, max_padding=0.5, max_batch_size=4), CPU, 1024, 0.5, 4),
        (BatchingConfig(max_batch_tokens=1024, max_padding=0.0, max_batch_size=32), CUDA, 1024, 0.0, 32),
    ],
)
def test_batch_policy_defaults(
    batching: BatchingConfig, provider: Provider, budget: int, padding: float, size: int
) -> None:
    """Null means one window and little padding on CPU, many windows on CUDA; 0 is a value."""
    policy = make_policy(batching, provider, 512, 512)
    assert (policy.token_budget, policy.max_padding, policy.max_batch_size) == (budget, padding, size)


@pytest.mark.parametrize(
    ("window", "max_length", "budget"), [(64, 512, 512), (64, 8192, 512), (2048, 8192, 2048), (16, 32, 32)]
)
def test_short_windows_do_not_shrink_batches(window: int, max_length: int, budget: int) -> None:
    """Windows shorter than the model allows are for long texts; short ones are batched as before."""
    assert make_policy(BatchingConfig(), CPU, window, max_length).token_budget == budget
