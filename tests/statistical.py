"""How this project tests a random quantity: by the mean of independent draws, never vacuously."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student_t


def assert_mean(samples, expected, *, bias=0.0, detect, alpha=1e-6):
    """Assert that independent `samples` (draws first) have mean `expected`, up to a known `bias`.

    Passes if |mean - expected| <= z SE + bias with z the two-sided Student quantile at `alpha`, and fails as
    vacuous unless z SE + bias <= detect / 2: a deviation of `detect`, the smallest one that matters, could not
    have passed. Works element by element; `detect` and `bias` broadcast.
    """
    samples = np.asarray(samples, dtype=float)
    n = samples.shape[0]
    assert n >= 8, f"{n} draws are too few to know their own spread"
    standard_error = samples.std(axis=0, ddof=1) / np.sqrt(n)
    allowed = student_t.ppf(1 - alpha / 2, n - 1) * standard_error + bias
    error = np.abs(samples.mean(axis=0) - expected)
    assert np.all(allowed <= np.asarray(detect) / 2), (
        f"vacuous: allows {allowed} where {detect} should be detected; take more draws"
    )
    assert np.all(error <= allowed), (
        f"mean {samples.mean(axis=0)} against {expected}: off by {error}, allowed {allowed}"
    )
