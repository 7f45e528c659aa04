import statistics

import numpy as np
import pytest
from scipy import stats

from rmtland.ensembles.transition import BBPTransition, bbp_transition
from rmtland.ensembles.wishart import SpikedCovariance
from rmtland.laws.tracy_widom import TracyWidom
from tests.statistical import assert_mean


def test_far_from_the_threshold_draws_follow_the_limits():
    result = bbp_transition(0.5, [1.2, 3.0, 6.0], 10**6, 60, rng=0)
    for row in result.rows()[1:]:
        sd = row["eigenvalue_sd"]
        i = list(result.spikes).index(row["spike"])
        assert_mean(result.eigenvalues[i], row["location"], bias=1e-5, detect=2 * sd)
        assert_mean(result.overlaps[i], row["overlap_limit"], bias=1e-5, detect=0.02)
    assert np.all(result.overlaps[0] < 1e-3)
    assert result.threshold == pytest.approx(1 + 0.5**0.5)
    assert result.num_draws == 60


def test_limits_are_those_of_the_largest_eigenvalue():
    """A spike below 1 - sqrt(ratio) leaves to the left: the largest eigenvalue stays at the right edge."""
    result = bbp_transition(0.5, [0.1, 0.9, 1.6, 1.8, 6.0], 10**6, 20, rng=2)
    edge = (1 + 0.5**0.5) ** 2
    np.testing.assert_allclose(result.locations, [edge, edge, edge, 1.8 * (1 + 0.5 / 0.8), 6 * 1.1])
    assert_mean(result.eigenvalues.T, result.locations, bias=5e-4, detect=0.05)
    assert_mean(result.overlaps.T, result.overlap_limits, bias=5e-4, detect=0.02)
    assert not result.overlap_limits[:3].any()
    for found, stored in zip(result.limits([0.1, 6.0]), (result.locations, result.overlap_limits), strict=True):
        np.testing.assert_array_equal(found, stored[[0, -1]])
    with pytest.raises(ValueError, match="`spikes` must be > 0"):
        result.limits([-1.0])


@pytest.mark.parametrize("p", [10**5, 10**8])
def test_complex_at_the_threshold_is_the_square_of_goe(p):
    # Baik, Ben Arous and Peche (2005), theorem 1.1: the limit at a simple critical spike is F_GOE^2.
    n = 2 * p
    model = SpikedCovariance(p, n, spikes=[1 + (p / n) ** 0.5], beta=2)
    centre, scale = model.law().edge()
    x = (model.largest(size=1500, rng=3)[:, 0] - centre) / scale
    law = TracyWidom(1)
    assert stats.kstest(x, lambda s: law.cdf(s) ** 2).pvalue > 1e-3
    assert stats.kstest(x, TracyWidom(2).cdf).pvalue < 1e-10


def test_table_and_json(tmp_path):
    result = bbp_transition(2.0, [1.5, 5.0], 1000, 10, rng=1, beta=2)
    path = tmp_path / "bbp.json"
    result.to_json(path)
    again = BBPTransition.from_json(path)
    assert again.rows() == result.rows()
    np.testing.assert_array_equal(again.eigenvalues, result.eigenvalues)
    assert [file.name for file in tmp_path.iterdir()] == ["bbp.json"]
    lines = result.table().splitlines()
    assert len(lines) == 4
    assert "p = 1000, n = 500, beta = 2, 10 draws" in lines[0]
    assert float(lines[2].split()[0]) == 1.5


def test_means_and_errors_are_those_of_the_draws():
    result = bbp_transition(0.5, [1.2, 3.0], 1000, 5, rng=1)
    lines = result.table().splitlines()[-2:]
    for row, eigenvalues, overlaps, line in zip(
        result.rows(), result.eigenvalues.tolist(), result.overlaps.tolist(), lines, strict=True
    ):
        expected = {
            "eigenvalue": statistics.mean(eigenvalues), "eigenvalue_sd": statistics.stdev(eigenvalues),
            "eigenvalue_error": statistics.stdev(eigenvalues) / 5**0.5, "overlap": statistics.mean(overlaps),
            "overlap_error": statistics.stdev(overlaps) / 5**0.5,
        }  # fmt: skip
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-12)
        told = [float(word) for word in line.replace("+-", " ").split()]
        for value, (name, exact) in zip(told, row.items(), strict=True):  # errors to two digits
            assert value == pytest.approx(exact, rel=0.05 if name.endswith("error") else 5e-3, abs=1e-6)


def test_seeds_and_threads():
    one = bbp_transition(0.5, [1.2, 3.0], 10**4, 12, rng=4, threads=1)
    two = bbp_transition(0.5, [1.2, 3.0], 10**4, 12, rng=4, threads=3)
    np.testing.assert_array_equal(one.eigenvalues, two.eigenvalues)
    np.testing.assert_array_equal(one.overlaps, two.overlaps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, [2.0], 10, 5), "`ratio` must be > 0"),
        ((0.5, [], 10, 5), "`spikes` must hold at least one"),
        ((0.5, [-2.0], 10, 5), "`spikes` must be > 0; got -2.0"),
        ((0.5, [2.0], 0, 5), "`num_features` must be >= 1"),
        ((0.5, [2.0], 10, 1), "`num_draws` must be >= 2; got 1"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        bbp_transition(*arguments)
    with pytest.raises(ValueError, match="`beta` must be one of 1, 2, 4; got 3"):
        bbp_transition(0.5, [2.0], 10, 5, beta=3)
    with pytest.raises(MemoryError, match="1000000000000 draws needs .* take fewer `num_draws` instead"):
        bbp_transition(0.5, [2.0], 10, 10**12)


def test_the_smallest_ratio_is_that_of_the_largest_whole_number():
    result = bbp_transition(4 / 2**53, [2.0], 4, 2, rng=0)
    np.testing.assert_allclose(result.eigenvalues, 2.0, rtol=1e-6)
    for ratio in (3.9 / 2**53, 4 / 2**54):
        with pytest.raises(ValueError, match=r"`ratio` must be >= num_features / 2\^53 = 4.44e-16"):
            bbp_transition(ratio, [2.0], 4, 2, rng=0)
