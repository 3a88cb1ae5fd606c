from __future__ import annotations

from nerve.models.samples import calibration_texts, sample_texts


def test_what_is_judged_was_not_fitted_to() -> None:
    """The gate's texts and the calibration's share no sentence, and both are the same in every run."""
    judged, fitted = sample_texts(), calibration_texts()
    assert not set(judged) & set(fitted)
    assert (judged, fitted) == (sample_texts(), calibration_texts())
    assert len(set(fitted)) == len(fitted) > 50
    assert max(map(len, fitted)) < 200
