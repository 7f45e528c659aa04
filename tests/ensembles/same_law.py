"""Two samples of one law: means and variances, by the project's own test of means."""

import numpy as np

from tests.statistical import assert_mean


def assert_same_law(x, y, *, mean, variance):
    """Independent draws x and y agree in mean to `mean` and in variance to `variance` (relative)."""
    size = min(len(x), len(y))
    x, y = np.asarray(x)[:size], np.asarray(y)[:size]
    assert_mean(x - y, 0.0, detect=mean)
    centre = 0.5 * (x.mean(axis=0) + y.mean(axis=0))
    spread = 0.5 * (x.var(axis=0) + y.var(axis=0))
    # Taking the mean from the samples lowers both sides alike.
    assert_mean(((x - centre) ** 2 - (y - centre) ** 2) / spread, 0.0, detect=variance)
