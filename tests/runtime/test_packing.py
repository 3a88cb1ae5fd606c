from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerve.runtime.packing import (
    Bucket,
    PackingRules,
    StepInputs,
    StepLimits,
    choose_bucket,
    choose_budget,
    count_positions,
    halve,
    lay_out,
    list_buckets,
    longest_windows,
    make_bucket,
    make_distances,
    split_results,
)
from nerve.types import Window

PAD = 3
PLAIN = PackingRules(n_words=10, padding_id=None, n_positions=600, has_distances=False)
ROBERTA = PackingRules(n_words=10, padding_id=PAD, n_positions=600, has_distances=False)
MPNET = PackingRules(n_words=10, padding_id=1, n_positions=40, has_distances=True)
LIMITS = StepLimits(max_length=512, max_sequences=32, max_tokens=2048)

limits = st.builds(
    StepLimits,
    max_length=st.integers(8, 700),
    max_sequences=st.integers(1, 64),
    max_tokens=st.integers(1, 4096),
    max_cells=st.none() | st.integers(2_000, 1_000_000),
)
texts = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=70), min_size=1, max_size=20)


def windows_of(texts: list[list[int]]) -> list[Window]:
    """Make a window of each list of ids."""
    return [Window(text, 0) for text in texts]


@settings(deadline=None)  # some sixty shapes in each example, and a machine may be busy
@given(limits)
def test_every_bucket_can_hold_something(limits: StepLimits) -> None:
    """Shapes are distinct and ascend, and S never exceeds what a sequence can need by more than a level."""
    buckets = list_buckets(limits)
    assert len(set(buckets)) == len(buckets)
    assert [b.tokens for b in buckets] == sorted(b.tokens for b in buckets)
    for bucket in buckets:
        inputs = StepInputs(bucket, PLAIN)
        inputs.fill([])  # as it is captured
        check_inputs(inputs, [])
        assert bucket.sequences <= limits.max_sequences + 1 or bucket.sequences == 2
        assert bucket.longest % 8 == 0
        assert limits.max_cells is None or bucket.cells <= limits.max_cells
        lengths = longest_windows(bucket, limits.max_length)
        if lengths:  # as it is timed
            assert set(lengths) == {bucket.room(limits.max_length)}
            inputs.fill(windows_of([[1] * length for length in lengths]))
            check_inputs(inputs, [[1] * length for length in lengths])


def test_the_default_steps_of_a_gpu_are_timed_full() -> None:
    """Of each T the step with room for the longest windows holds as many of them as it can."""
    buckets = list_buckets(StepLimits(max_length=512, max_sequences=256, max_tokens=2048))
    for bucket in {bucket.tokens: bucket for bucket in buckets}.values():  # the last of each T
        lengths = longest_windows(bucket, 512)
        assert sum(lengths) > (bucket.tokens - bucket.sequences) / 2
    (last,) = [bucket for bucket in buckets if bucket.tokens == 2304 and bucket.longest == 512]
    assert longest_windows(last, 512) == [512] * 4


def test_scores_that_are_kept_leave_room_for_fewer_sequences() -> None:
    """BERT-base in float32: at most 128 MiB, where 33 sequences of 512 would take 415 MB."""
    cells = 128 * 2**20 // (4 * 12)
    buckets = list_buckets(StepLimits(512, 32, 2048, cells))
    assert max(bucket.cells for bucket in buckets) * 12 * 4 <= 128 * 2**20
    assert Bucket(2080, 33, 512).cells * 12 * 4 == 415_236_096
    shapes = {bucket.longest: bucket.sequences for bucket in buckets if bucket.tokens == 2080}
    assert shapes == {64: 33, 128: 33, 256: 33, 512: 10}


def test_default_limits_need_few_graphs() -> None:
    """All traffic of a BERT on the default settings is served by some sixty captured graphs."""
    for max_sequences in (32, 256):
        assert len(list_buckets(replace(LIMITS, max_sequences=max_sequences))) <= 65


@given(limits, st.data())
def test_a_full_window_has_a_bucket(limits: StepLimits, data: st.DataObject) -> None:
    """Any one window within the budget runs captured, up to the largest captured shape, where no scores are kept."""
    limits = replace(limits, max_cells=None)
    length = data.draw(st.integers(1, min(limits.max_length, limits.max_tokens, 2048)))
    assert choose_bucket(list_buckets(limits), [length]) is not None


@given(st.lists(st.integers(1, 512), min_size=1, max_size=32))
def test_chosen_bucket_holds_the_windows(lengths: list[int]) -> None:
    """The choice fits; every smaller bucket does not; beyond the largest there is none."""
    buckets = list_buckets(LIMITS)
    bucket = choose_bucket(buckets, lengths)
    facts = (len(lengths), sum(lengths), max(lengths))
    if bucket is None:
        assert not any(b.fits(*facts) for b in buckets)
        return
    assert bucket.fits(*facts)
    assert not any(b.fits(*facts) for b in buckets[: buckets.index(bucket)])


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([36], Bucket(48, 6, 64)),
        ([12], Bucket(16, 2, 32)),
        ([16], Bucket(32, 4, 32)),  # a bucket of 16 has no token left for its second sequence
        ([36, 36, 36], Bucket(128, 16, 64)),
        ([512], Bucket(768, 33, 512)),
        ([512] * 5, None),
        ([1] * 33, None),
    ],
)
def test_choices(lengths: list[int], expected: Bucket | None) -> None:
    """What common steps fall into, worked out by hand."""
    assert choose_bucket(list_buckets(LIMITS), lengths) == expected


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=100))
def test_uncaptured_shape_holds_the_windows(lengths: list[int]) -> None:
    """There is a shape for whatever comes, of whole steps of 512 tokens."""
    bucket = make_bucket(lengths)
    assert bucket.fits(len(lengths), sum(lengths), max(lengths))
    assert bucket.tokens % 512 == 0


def check_inputs(inputs: StepInputs, texts: list[list[int]]) -> None:
    """Check all that the graph relies on."""
    bucket = inputs.bucket
    lengths = np.diff(inputs.starts)
    n_tokens = sum(map(len, texts))
    assert inputs.starts[0] == 0
    assert inputs.starts[-1] == bucket.tokens
    assert lengths[: len(texts)].tolist() == [len(text) for text in texts]
    assert (lengths >= 1).all()
    assert (lengths <= bucket.longest).all()
    assert inputs.ids[:n_tokens].tolist() == [token for text in texts for token in text]
    assert (inputs.ids[n_tokens:] == 0).all()
    assert sorted(inputs.offsets.reshape(-1).tolist()) == list(range(inputs.offsets.size))
    for token, slot in enumerate(inputs.offsets.reshape(-1)[: bucket.tokens].tolist()):
        row, column = divmod(slot, bucket.longest)
        assert inputs.starts[row] + column == token


@given(texts, texts)
def test_step_describes_its_windows(first: list[list[int]], second: list[list[int]]) -> None:
    """Whatever the buffers held before, they describe the windows of now, and dummies in the rest."""
    wide = max(sum(map(len, first)), sum(map(len, second)))
    inputs = StepInputs(Bucket(wide + 40, 30, 96), PLAIN)
    for texts in (first, second):
        inputs.fill(windows_of(texts))
        check_inputs(inputs, texts)
        positions = [position for text in texts for position in range(len(text))]
        assert inputs.positions[: len(positions)].tolist() == positions
        assert (inputs.positions[len(positions) :] == 0).all()


@given(texts)
def test_positions_of_the_roberta_family(texts: list[list[int]]) -> None:
    """Positions count from padding id + 1 in every window, and stand still at padding ids inside."""
    inputs = StepInputs(Bucket(sum(map(len, texts)) + 40, 30, 96), ROBERTA)
    inputs.fill(windows_of(texts))
    expected: list[int] = []
    for text in texts:
        count = PAD
        for token in text:
            count += token != PAD
            expected.append(PAD if token == PAD else count)
    assert inputs.positions[: len(expected)].tolist() == expected
    assert (inputs.positions[len(expected) :] == PAD + 1).all()


def test_positions_with_padding_inside() -> None:
    """The example of transformers' create_position_ids_from_input_ids."""
    assert count_positions(np.array([5, 1, 6, 1, 7], np.int32), 1).tolist() == [2, 1, 3, 1, 4]


def test_distances_stay_inside_the_table() -> None:
    """Query minus key, shifted by P - 1, and cut where S is beyond the position table."""
    inputs = StepInputs(Bucket(128, 4, 64), MPNET)
    distances = inputs.views["distances"]
    assert distances.shape == (64, 64)
    assert distances[0, 0] == 39
    assert distances[5, 2] == 42
    assert distances[2, 5] == 36
    assert distances.min() == 0
    assert distances.max() == 78
    np.testing.assert_array_equal(distances, make_distances(64, 40))


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.integers(1, 100), st.integers(1, 9)), min_size=1))
def test_arrays_of_a_block_do_not_overlap(shapes: dict[str, tuple[int, ...]]) -> None:
    """Every array starts at a multiple of 256 bytes, after the one before."""
    places, size = lay_out(shapes)
    end = 0
    for start, shape in places.values():
        assert start % 64 == 0
        assert start >= end
        end = start + int(np.prod(shape))
    assert size >= end


@given(texts, st.booleans())
def test_results_are_scattered_back(texts: list[list[int]], has_logits: bool) -> None:
    """Each window gets the rows of its own tokens, and the dummies' rows are nobody's."""
    inputs = StepInputs(Bucket(sum(map(len, texts)) + 40, 30, 96), PLAIN)
    inputs.fill(windows_of(texts))
    label_ids = inputs.ids.astype(np.int64)
    scores = inputs.positions.astype(np.float32)
    logits = np.stack([scores, label_ids.astype(np.float32)], axis=1) if has_logits else None
    results = split_results(windows_of(texts), label_ids, scores, logits)
    for text, result in zip(texts, results, strict=True):
        assert result.label_ids.tolist() == text
        assert result.scores.tolist() == list(range(len(text)))
        assert (result.logits is not None) is has_logits
        if result.logits is not None:
            assert result.logits[:, 1].tolist() == text


@pytest.mark.parametrize(
    ("fixed", "per_token", "expected"),
    [(0.7e-3, 2.7e-6, 256), (0.25e-3, 0.4e-6, 512), (0.1e-3, 0.0, 2080), (0.0, 1e-6, 16)],
)
def test_budget_is_where_the_step_has_doubled(fixed: float, per_token: float, expected: int) -> None:
    """About T = a / b of a step that costs a + b T: an L4, an H100, a model too small to fill the card, none."""
    buckets = list_buckets(LIMITS)
    seconds = {bucket.tokens: fixed + per_token * bucket.tokens for bucket in buckets}
    budget = choose_budget(buckets, seconds)
    shape = next(bucket for bucket in buckets if bucket.tokens == expected)
    # As many tokens as one window and the dummies beside it leave room for, and no more.
    assert budget == shape.tokens - (shape.sequences - 1)


def test_halves_are_the_whole() -> None:
    """A step is split in two with nothing lost, and the order kept."""
    assert halve([1, 2, 3]) == ([1], [2, 3])
    assert halve([1, 2]) == ([1], [2])


def test_unknown_token_id_is_refused() -> None:
    """An id outside the table fails its step on the host; the GPU would read wherever it points."""
    inputs = StepInputs(Bucket(32, 4, 32), PLAIN)
    with pytest.raises(ValueError, match="table of words"):
        inputs.fill([Window([1, 10], 0)])
    inputs.fill([Window([1, 9], 0)])
    check_inputs(inputs, [[1, 9]])
