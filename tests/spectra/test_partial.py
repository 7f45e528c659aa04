"""Top eigenpairs, trace and norm together: unbiased, and their errors are those of the estimates."""

import numpy as np
import pytest

import rmtland as rl
from rmtland.spectra.partial import partial_spectrum
from tests.statistical import assert_mean


def matrix():
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.normal(size=(120, 120)))
    eigenvalues = np.sort(np.concatenate([rng.normal(0.3, 1, 116), [9.0, 12.0, 15.0, 30.0]]))
    return turn * eigenvalues @ turn.T, eigenvalues


def test_estimates_are_unbiased_and_know_their_errors():
    dense, eigenvalues = matrix()
    operator = rl.as_operator(dense)
    found = [partial_spectrum(operator, 4, num_probes=20, rng=seed) for seed in range(200)]
    trace, norm = eigenvalues.sum(), np.linalg.norm(eigenvalues)
    for name, right in (("trace", trace), ("frobenius", norm), ("ratio", trace / norm)):
        values = np.array([getattr(f, name) for f in found])
        errors = np.array([getattr(f, f"{name}_error") for f in found])
        # The norm and the ratio are biased by error^2 / (2 norm) to first order.
        bias = 0.0 if name == "trace" else errors.mean() ** 2 / norm
        assert_mean(values, right, bias=bias, detect=0.02 * right)
        assert 0.8 < np.sqrt(np.mean(errors**2)) / values.std(ddof=1) < 1.25, name  # half the error would not do
    for f in found[:3]:
        np.testing.assert_allclose(f.pairs.eigenvalues, eigenvalues[-4:], rtol=1e-8)
        assert f.num_products == f.pairs.num_products + 20


def test_what_is_taken_exactly_has_no_error_from_it():
    """Without the top four in the probes the error is that of the rest: five times less here."""
    operator = rl.as_operator(matrix()[0])
    errors = {
        k: np.mean([partial_spectrum(operator, k, rng=seed).frobenius_error for seed in range(10)]) for k in (1, 4)
    }
    assert errors[4] < 0.5 * errors[1]


def test_a_known_trace_is_kept():
    dense, eigenvalues = matrix()
    operator = rl.as_operator(dense)
    blind, told = partial_spectrum(operator, 4, rng=1), partial_spectrum(operator, 4, trace=eigenvalues.sum(), rng=1)
    assert told.trace == pytest.approx(eigenvalues.sum(), rel=1e-14)
    assert told.trace_error == 0
    assert told.frobenius == blind.frobenius
    assert told.ratio == pytest.approx(told.trace / told.frobenius, rel=1e-14)
    assert 0 < told.ratio_error < blind.ratio_error


@pytest.mark.parametrize("scale", [1e-170, 1.0, 1e150])
def test_scale_does_not_matter(scale):
    dense, _ = matrix()
    found, plain = (partial_spectrum(rl.as_operator(dense * s), 4, rng=1) for s in (scale, 1.0))
    for name in ("trace", "trace_error", "frobenius", "frobenius_error"):
        assert getattr(found, name) == pytest.approx(scale * getattr(plain, name), rel=1e-6), name
    assert found.ratio == pytest.approx(plain.ratio, rel=1e-6)


def test_nothing_and_bad_arguments():
    nothing = partial_spectrum(rl.as_operator(np.zeros((20, 20))), 2, rng=0)
    assert (nothing.trace, nothing.frobenius, nothing.frobenius_error) == (0, 0, 0)
    assert np.isnan(nothing.ratio)
    with pytest.raises(ValueError, match="`num_products` must be >= 6; got 2"):
        partial_spectrum(rl.as_operator(np.eye(20)), 2, num_probes=2)
    with pytest.raises(ValueError, match="`k` must be <= D = 20; got 21"):
        partial_spectrum(rl.as_operator(np.eye(20)), 21)
