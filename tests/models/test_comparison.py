"""The comparison of a served model with its reference: numbers worked out by hand."""

import pytest

from nerve.models.comparison import Incomparable, TextComparison, compare_text, summarize_texts
from nerve.models.samples import sample_texts
from nerve.types import Row

CLS = Row("[CLS]", 2, 0, 0, {"O": 0.9})
CLS_REFERENCE = Row("[CLS]", 2, 0, 0, {"O": 0.1, "B-PER": 0.9})


def served(token_id: int, label: str, score: float) -> Row:
    """Build a token as the served side prints it: the best label only."""
    return Row("t", token_id, token_id, token_id + 1, {label: score})


def reference(token_id: int, outside: float) -> Row:
    """Build a token as the reference prints it: all labels."""
    return Row("t", token_id, token_id, token_id + 1, {"O": outside, "B-PER": 1 - outside})


def span(start: int, end: int, label: str) -> Row:
    """Build an entity."""
    return Row("t", 0, start, end, {label: 0.5})


def compare(**changes: list[Row]) -> TextComparison:
    """Compare two tokens that agree, apart from `changes`."""
    rows = {
        "served_tokens": [CLS, served(5, "O", 0.75), served(6, "B-PER", 0.5)],
        "reference_tokens": [CLS_REFERENCE, reference(5, 0.875), reference(6, 0.375)],
        "served_spans": [span(6, 7, "PER")],
        "reference_spans": [span(6, 7, "PER")],
    }
    return compare_text(0, **{**rows, **changes})


def test_agreement_leaves_special_tokens_out() -> None:
    """[CLS] differs here and does not count; the drift is that of the served label."""
    text = compare()
    assert (text.n_tokens, text.n_agreeing) == (2, 2)
    assert text.total_drift == pytest.approx(0.125 + 0.125)
    assert text.max_drift == pytest.approx(0.125)
    assert (text.n_common, text.lost, text.added) == (1, (), ())


def test_differing_label_drifts_by_the_references_score_of_the_served_one() -> None:
    """Where labels differ, drift still compares the same label on both sides."""
    text = compare(served_tokens=[CLS, served(5, "B-PER", 0.5), served(6, "B-PER", 0.625)])
    assert (text.n_agreeing, text.n_disagreeing) == (1, 1)
    assert text.max_drift == pytest.approx(0.5 - 0.125)


def test_spans_are_common_when_offsets_and_label_are_equal() -> None:
    """A span that only one side has is lost or added; a wrong label is both."""
    text = compare(
        served_spans=[span(0, 1, "PER"), span(3, 4, "LOC")],
        reference_spans=[span(0, 1, "PER"), span(3, 4, "PER"), span(5, 6, "PER")],
    )
    assert text.n_common == 1
    assert text.lost == ((3, 4, "PER"), (5, 6, "PER"))
    assert text.added == ((3, 4, "LOC"),)
    assert summarize_texts([text]).span_f1 == pytest.approx(2 * 1 / (2 + 3))


def test_other_tokens_are_refused() -> None:
    """Two models with other tokenizers or windows cannot be compared."""
    with pytest.raises(Incomparable, match=r"text 0: .* 2 tokens, the reference 3"):
        compare(served_tokens=[CLS, served(5, "O", 0.75)])


def test_unknown_label_is_refused() -> None:
    """A label that the reference has not cannot be compared."""
    with pytest.raises(Incomparable, match="B-LOC"):
        compare(served_tokens=[CLS, served(5, "B-LOC", 0.75), served(6, "O", 0.5)])


def test_summary_weighs_tokens_not_texts() -> None:
    """Agreement and mean drift are over tokens of all texts together."""
    one = TextComparison(0, 1, 0, 0.5, 0.5, 0, (), ())
    many = TextComparison(1, 9, 9, 0.1, 0.1, 4, (), ())
    total = summarize_texts([one, many])
    assert (total.n_texts, total.n_tokens, total.n_spans) == (2, 10, 4)
    assert total.token_agreement == pytest.approx(0.9)
    assert (total.mean_drift, total.max_drift) == (pytest.approx(0.06), 0.5)
    assert total.span_f1 == 1.0


def test_worst_texts_come_first_and_perfect_ones_not_at_all() -> None:
    """Wrong spans weigh more than wrong tokens, those more than drift; the list is bounded."""
    perfect = TextComparison(0, 5, 5, 0.0, 0.0, 0, (), ())
    drifted = TextComparison(1, 5, 5, 0.9, 0.9, 0, (), ())
    wrong_token = TextComparison(2, 5, 4, 0.1, 0.1, 0, (), ())
    wrong_span = TextComparison(3, 5, 4, 0.1, 0.1, 0, ((0, 1, "PER"),), ())
    texts = [perfect, drifted, wrong_token, wrong_span]
    assert [text.index for text in summarize_texts(texts).worst] == [3, 2, 1]
    assert [text.index for text in summarize_texts(texts, n_worst=1).worst] == [3]
    assert summarize_texts(texts, n_worst=0).worst == ()


def test_nothing_to_compare_is_full_agreement() -> None:
    """Texts without tokens and without spans do not divide by zero."""
    total = summarize_texts([TextComparison(0, 0, 0, 0.0, 0.0, 0, (), ())])
    assert (total.token_agreement, total.span_f1, total.mean_drift) == (1.0, 1.0, 0.0)


def test_samples_are_fixed_and_varied() -> None:
    """The built-in texts are the same in every call, distinct, in several scripts, one of them long."""
    texts = sample_texts()
    assert texts == sample_texts()
    assert len(set(texts)) == len(texts) > 100
    joined = "".join(texts)
    for character in "éßłяΓşمह王で김😀":
        assert character in joined
    assert len(texts[-1]) > 2_000
