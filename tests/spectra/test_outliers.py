import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl


def test_rules_on_a_clear_gap():
    spectrum = np.concatenate([np.linspace(0.5, 1.0, 90), [6.0, 7.0, 8.0]])
    for method in ("gap", "ratio", "elbow"):
        assert rl.count_outliers(spectrum, method, max_outliers=20) == 3
    assert rl.count_outliers(spectrum, "edge", edge=1.0) == 3
    assert rl.count_outliers(spectrum, "edge", edge=9.0) == 0


def test_rules_differ_where_scales_do():
    spectrum = [100.0, 60.0, 20.0, 1.0, 0.9, 0.8, 0.7]
    assert rl.count_outliers(spectrum, "gap") == 1 or rl.count_outliers(spectrum, "gap") == 2
    assert rl.count_outliers(spectrum, "ratio") == 3


def test_the_floor_of_rounding_is_not_a_gap_when_few_is_stated():
    spectrum = [5.0, 4.0, 1.0, 0.9, 0.8, 1e-17, 1e-19]
    assert rl.count_outliers(spectrum, "ratio", max_outliers=6) == 5
    assert rl.count_outliers(spectrum, "ratio", max_outliers=3) == 2


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=30), st.floats(0.01, 100))
def test_order_and_scale_do_not_matter(values, factor):
    rng = np.random.default_rng(0)
    spectrum = np.array(values)
    for method in ("gap", "ratio", "elbow"):
        count = rl.count_outliers(spectrum, method)
        assert 1 <= count <= max(1, spectrum.size // 2)
        assert rl.count_outliers(rng.permutation(spectrum), method) == count
    assert rl.count_outliers(spectrum * 2.0**3, "gap") == rl.count_outliers(spectrum, "gap")


def test_bad_arguments():
    with pytest.raises(ValueError, match="`method` must be one of 'gap', 'ratio', 'elbow', 'edge'; got 'eye'"):
        rl.count_outliers([1.0, 2.0], "eye")
    with pytest.raises(ValueError, match="`eigenvalues` must hold at least 2 to have a gap; got 1"):
        rl.count_outliers([1.0])
    with pytest.raises(ValueError, match="`eigenvalues` must hold at least 2 positive ones"):
        rl.count_outliers([1.0, -1.0, -2.0], "ratio")
    with pytest.raises(ValueError, match="`edge` must be given"):
        rl.count_outliers([1.0, 2.0], "edge")
    with pytest.raises(ValueError, match="`eigenvalues` must be finite"):
        rl.count_outliers([1.0, np.nan])
    with pytest.raises(ValueError, match="`max_outliers` must be >= 1; got 0"):
        rl.count_outliers([1.0, 2.0], max_outliers=0)
