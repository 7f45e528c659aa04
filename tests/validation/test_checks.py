import numpy as np
import pytest
from scipy import stats

from validation import Check, Outcome, exact, limit, means, rate
from validation.checks import ALPHA


def test_verdicts_in_order_of_what_they_prove():
    right = Check("right", 1.0, 0.01, 1.01, detect=0.2)
    wrong = Check("wrong", 1.0, 0.01, 1.5, detect=0.2)
    vacuous = Check("vacuous", 1.0, 0.1, 1.01, detect=0.2)
    assert [c.verdict for c in (right, wrong, vacuous)] == ["pass", "fail", "inconclusive"]
    assert Outcome([right, vacuous], "").verdict == "inconclusive"
    assert Outcome([vacuous, wrong, right], "").verdict == "fail"
    assert Outcome([], "").verdict == "inconclusive"


def test_bias_counts_as_allowed_but_not_for_free():
    assert Check("within its bias", 1.0, 0.001, 1.05, bias=0.06, detect=0.2).verdict == "pass"
    assert Check("bias too large to prove anything", 1.0, 0.001, 1.05, bias=0.06, detect=0.1).verdict == "inconclusive"


def test_nan_fails():
    assert Check("no number", np.nan, 0.01, 1.0, detect=0.2).verdict == "fail"
    assert Check("no error", 1.0, np.nan, 1.0, detect=0.2).verdict == "fail"
    assert "nan" in Check("no number", [1.0, np.nan], 0.01, 1.0, detect=0.2).summary


def test_one_bad_number_among_many_fails_and_is_shown():
    check = Check("many", [1.0, 2.0, 3.0], 0.01, [1.0, 2.5, 3.0], detect=0.5)
    assert check.verdict == "fail"
    assert "2 against 2.5" in check.summary


def test_exact_numbers():
    assert exact("count", [3, 4], [3, 4]).verdict == "pass"
    assert exact("count", [3, 5], [3, 4]).verdict == "fail"


def test_means_know_their_error():
    rng = np.random.default_rng(0)
    samples = [rng.normal(1.0, 0.5, 4000), rng.normal(2.0, 0.5, 4000)]
    check = means("means", samples, [1.0, 2.0], detect=0.2)
    np.testing.assert_allclose(check.standard_error, 0.5 / 4000**0.5, rtol=0.1)
    assert check.verdict == "pass"
    assert means("means", samples, [1.0, 2.1], detect=0.2).verdict == "fail"


def test_few_draws_are_judged_by_students_law():
    """Of 5 draws 0.8% are further off than 4.9 of their own standard errors, not one in a million."""
    five = means("of five", [np.arange(5.0)], [2.0], detect=np.inf)
    assert (five.allowed / five.standard_error).item() == pytest.approx(-stats.t.ppf(ALPHA / 2, 4), rel=1e-12)
    samples = np.random.default_rng(3).standard_normal((40_000, 5))
    check = means("many of five", samples, np.zeros(40_000), detect=np.inf)
    assert check.verdict == "pass"
    assert np.sum(np.abs(check.error) > -stats.norm.ppf(ALPHA / 2) * check.standard_error) > 200
    known = Check("known", 1.0, 0.1, 1.0)
    assert float(known.allowed) == pytest.approx(-0.1 * stats.norm.ppf(ALPHA / 2), rel=1e-12)
    table = means("a table", [np.eye(5)[:, :3], np.eye(9)[:, :3]], np.zeros((2, 3)), detect=1)
    np.testing.assert_array_equal(table.draws, [[5] * 3, [9] * 3])
    assert table.to_dict()["draws"] == [[5] * 3, [9] * 3]
    sizes = np.array([10.0, 20, 40, 80])
    for fit in (
        rate("r", sizes, 1 / sizes, np.full(4, 0.01), 1.0, detect=1, draws=7),
        limit("l", sizes, 1 / sizes, np.full(4, 0.01), 0.0, powers=(1.0,), detect=1, draws=7),
    ):
        allowed = float((fit.allowed - fit.bias) / fit.standard_error)
        assert allowed == pytest.approx(-stats.t.ppf(ALPHA / 2, 6), rel=1e-9)


def test_checks_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="means of check 'one' need at least 2 draws each; got 1"):
        means("one", [[1.0]], [1.0], detect=1)
    with pytest.raises(ValueError, match="`draws` of check 'one' must be >= 2; got 1"):
        Check("one", 1.0, 0.1, 1.0, draws=1)
    with pytest.raises(ValueError, match=r"`sizes` of check 'two' must have a row .* got shape \(3,\) for \(2,\)"):
        Check("two", [1.0, 2.0], 0.1, 1.0, sizes=[1, 2, 3])


def test_rate_finds_the_exponent_and_its_error():
    rng = np.random.default_rng(1)
    sizes, error = np.array([10, 20, 40, 80]), 0.002
    fits = [
        rate("r", sizes, -3 / sizes + rng.normal(0, error, 4), np.full(4, error), 1.0, detect=0.5) for _ in range(300)
    ]
    found = np.array([f.estimate for f in fits])
    # The spread of fits is the error they state.
    np.testing.assert_allclose(found.std(), np.mean([f.standard_error for f in fits]), rtol=0.2)
    assert abs(found.mean() - 1) < 0.01
    assert rate("r", sizes, -3 / sizes, np.full(4, error), 0.5, detect=0.5).verdict == "fail"


def test_rate_of_noise_is_inconclusive_or_worse():
    noise = np.random.default_rng(2).normal(0, 0.1, 4)
    assert rate("r", [10, 20, 40, 80], noise, np.full(4, 0.1), 1.0, detect=0.5).verdict != "pass"


def test_rate_and_limit_need_enough_sizes():
    with pytest.raises(ValueError, match="at least 3 sizes; got 2"):
        rate("r", [1, 2], [1, 2], [1, 1], 1.0, detect=1)
    with pytest.raises(ValueError, match="more sizes than that; got 2"):
        limit("l", [1, 2], [1, 2], [1, 1], 1.0, powers=(1.0, 2.0), detect=1)


def test_limit_extrapolates():
    sizes = np.array([10.0, 20, 40, 80])
    values = 2 + 3 / sizes - 5 / sizes**2
    assert abs(float(limit("l", sizes, values, np.full(4, 1e-3), 2.0, powers=(1.0, 2.0), detect=0.2).error)) < 1e-9
    assert limit("l", sizes, values, np.full(4, 1e-3), 2.1, powers=(1.0, 2.0), detect=0.2).verdict == "fail"


def test_limit_allows_what_left_out_terms_contribute_and_no_more():
    sizes = np.array([10.0, 20, 40, 80])
    error = np.full(4, 1e-5)
    # A term of higher order than those fitted, far above the noise: the limit found is off, and the check knows it.
    values = 2 + 3 / sizes - 5 / sizes**2
    check = limit("l", sizes, values, error, 2.0, powers=(1.0,), detect=0.3)
    assert abs(float(check.error)) > 100 * float(check.standard_error)
    assert check.verdict == "pass"
    assert float(check.bias) < 20 * abs(float(check.error))
    # Without such a term nothing is added.
    assert float(limit("l", sizes, 2 + 3 / sizes, error, 2.0, powers=(1.0,), detect=0.3).bias) == 0
