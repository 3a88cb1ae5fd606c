"""Messages say the same on both sides, however the stream cuts them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from nerve.channel.messages import (
    Inbox,
    read_answer,
    read_job,
    read_scores,
    write_cancel,
    write_job,
    write_refusal,
    write_scores,
)
from nerve.errors import DeadlineExceeded, NerveError, Overloaded, Unavailable
from nerve.scheduling.batching import Job
from nerve.types import TokenScores, Window


def make_job(lengths: list[int], needs_logits: bool) -> Job:
    """Return a job that has ended, with 5 labels."""
    job = Job([Window(list(range(n)), 0) for n in lengths], needs_logits, 12.5)
    job.queue_seconds, job.inference_seconds = 0.25, 0.5
    generator = np.random.default_rng(sum(lengths))
    job.results = [
        TokenScores(
            generator.integers(0, 5, n),
            generator.random(n, np.float32),
            generator.random((n, 5), np.float32) if needs_logits else None,
        )
        for n in lengths
    ]
    return job


@pytest.mark.parametrize("needs_logits", [False, True])
@pytest.mark.parametrize("lengths", [[1], [36], [0], [7, 3, 512], [0, 5]])
def test_jobs_and_scores_arrive_as_they_were(lengths: list[int], needs_logits: bool) -> None:
    """Ids there, labels, scores and logits back."""
    job = make_job(lengths, needs_logits)
    (message,) = Inbox().cut(write_job(3, job))
    submitted = read_job(message)
    assert submitted.windows is not None
    assert [list(window.ids) for window in submitted.windows] == [window.ids for window in job.windows]
    assert (submitted.number, submitted.needs_logits, submitted.deadline) == (3, needs_logits, 12.5)
    (message,) = Inbox().cut(write_scores(3, job))
    answer = read_answer(message)
    assert (answer.number, answer.error) == (3, None)
    assert (answer.queue_seconds, answer.inference_seconds) == (0.25, 0.5)
    for found, expected in zip(read_scores(answer, job.windows), job.results, strict=True):
        assert expected is not None
        np.testing.assert_array_equal(found.label_ids, expected.label_ids)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert (found.logits is None) is (expected.logits is None)
        if found.logits is not None and expected.logits is not None:
            np.testing.assert_array_equal(found.logits, expected.logits)


def test_a_stream_may_be_cut_anywhere() -> None:
    """Every message comes once, in order, whole."""
    sent = [write_job(number, make_job([number % 40], False)) for number in range(200)]
    sent.insert(50, write_cancel(17))
    stream, chance, inbox, found = b"".join(sent), random.Random(3), Inbox(), []
    while stream:
        n_bytes = chance.choice([1, 3, 8, 100, 1000])
        found += [bytes(message) for message in inbox.cut(stream[:n_bytes])]
        stream = stream[n_bytes:]
    assert found == sent
    assert read_job(memoryview(found[50])).windows is None


@pytest.mark.parametrize(
    "error", [Unavailable("not now"), DeadlineExceeded("late"), Overloaded("full", 2.5, "queue_wait")]
)
def test_a_refusal_keeps_its_kind(error: NerveError) -> None:
    """The client sees what it would have seen of one process."""
    (message,) = Inbox().cut(write_refusal(9, error))
    found = read_answer(message).error
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


@pytest.mark.parametrize("content", [b"\x07\0\0\0" + bytes(40), b"\xff\xff\xff\xff" + bytes(40), bytes(48)])
def test_what_is_no_message_is_refused(content: bytes) -> None:
    """A front that has gone wrong is noticed."""
    with pytest.raises(ValueError, match="message"):
        list(Inbox().cut(content))


def test_windows_that_do_not_fit_are_refused() -> None:
    """Nothing is read beyond the end of a message."""
    message = bytearray(write_job(1, Job([Window([1, 2], 0), Window([3], 0)], False, math.inf)))
    message[32:36] = (1000).to_bytes(4, "little")
    with pytest.raises(ValueError, match="fit"):
        read_job(memoryview(message))
