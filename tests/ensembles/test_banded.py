"""The band models of several spikes: their kernels against NumPy, their law against exact moments and dense draws."""

import functools

import numpy as np
import pytest

from rmtland.ensembles import banded, tridiagonal
from rmtland.ensembles.replicates import Streams
from rmtland.ensembles.tridiagonal import QD, TRI
from rmtland.ensembles.wigner import SpikedWigner
from rmtland.ensembles.wishart import SpikedCovariance
from tests.ensembles.dense import dense_eigenpairs
from tests.ensembles.lift import lift
from tests.ensembles.same_law import assert_same_law
from tests.ensembles.wick import covariance_moment, gaussian_moment
from tests.statistical import assert_mean

SLOW = pytest.mark.slow
factor, eigenvalue = lift(banded.factor), lift(banded.band_eigenvalue)
reach, eigenvector = lift(banded.reach), lift(banded.band_vector)


def from_band(band):
    """Hermitian matrices (..., m, m) of lower bands (..., m, r + 1)."""
    m, r = band.shape[-2], band.shape[-1] - 1
    matrix = np.zeros((*band.shape[:-1], m), complex)
    for d in range(min(r, m - 1) + 1):
        j = np.arange(m - d)
        matrix[..., j, j + d] = band[..., : m - d, d].conj()
        matrix[..., j + d, j] = band[..., : m - d, d]
    return matrix


@functools.cache
def drawn(model, count, seed):
    """Rows of the triangular factor or lower half (count, rows, r + 1), and of the band (count, m, r + 1)."""
    form, n, p = model._model
    m, r = model._num_rows, model.spikes.size
    rows = np.zeros((count, min(p, m + r) if form == QD else m, r + 1), complex)
    band = np.zeros((count, m, r + 1), complex)
    words = Streams.of(seed, 1).words
    for i in range(count):
        banded.draw_band(form, float(n), float(p), float(model.beta), model._spikes, words, i, rows[i], band[i])
    return rows, band


def factors(model, rows):
    """The dense B, (count, rows, m), of M = B^H B: entry d of row i stands in column i - d."""
    dense = np.zeros((*rows.shape[:2], model._num_rows), complex)
    for d in range(rows.shape[2]):
        i = np.arange(d, min(rows.shape[1], model._num_rows + d))
        dense[:, i, i - d] = rows[:, i, d]
    return dense


def squares(model, rows):
    """M = B^H B, (count, m, m)."""
    dense = factors(model, rows)
    return dense.conj().transpose(0, 2, 1) @ dense


def traces(matrices, highest):
    """Traces of M^k for k = 1..highest, (count, highest)."""
    power, found = matrices, []
    for _ in range(highest):
        found.append(np.trace(power, axis1=1, axis2=2).real)
        power = power @ matrices
    return np.stack(found, axis=1)


COVARIANCES = [
    SpikedCovariance(6, 9, [3.0, 0.5]),
    SpikedCovariance(9, 6, [3.0, 0.5, 2.0], beta=2),
    SpikedCovariance(6, 9, [0.3, 0.5], beta=2),
    SpikedCovariance(9, 4, [2.0, 0.2]),
    SpikedCovariance(5, 3, [3.0, 0.5, 2.0, 1.5]),
    SpikedCovariance(3, 8, [3.0, 0.5, 2.0], beta=2),
    SpikedCovariance(2, 1, [3.0, 0.5]),
    SpikedCovariance(3, 3, [2.0, 1.0, 0.5]),
]
WIGNERS = [
    SpikedWigner(7, [2.0, -1.0]),
    SpikedWigner(7, [2.0, -1.0, 0.7], beta=2),
    SpikedWigner(3, [1.5, 1.5, 0.5]),
    SpikedWigner(2, [1.0, -2.0], beta=2),
]
COUNT = 30_000


def assert_covariance_moments(model, squares, of=None):
    """E tr S^k for k = 1..4, to the 4% that 4% on the variance make at k = 1; wider for one sample, which varies."""
    of = of or model
    found = traces(squares / model.num_samples, 4)
    for k in range(1, 5):
        expected = covariance_moment(k, of.num_features, of.num_samples, of.beta, of.spikes)
        assert_mean(found[:, k - 1] / expected, 1, detect=0.04 * k**1.5 * (5 if model.num_samples == 1 else 1))


@pytest.mark.parametrize("model", COVARIANCES, ids=str)
def test_moments_of_covariances(model):
    rows, band = drawn(model, COUNT, 1)
    square = squares(model, rows)
    np.testing.assert_allclose(from_band(band), square, rtol=1e-12, atol=1e-12)
    assert_covariance_moments(model, square)


@pytest.mark.parametrize("model", WIGNERS, ids=str)
def test_moments_of_wigners(model):
    # Odd moments may vanish: in units of n, the trace of the identity.
    _, band = drawn(model, COUNT, 2)
    found = traces(from_band(band) * model._unit, 4)
    for k in range(1, 5):
        expected = gaussian_moment(k, model.n, model.beta, model.spikes)
        assert_mean((found[:, k - 1] - expected) / model.n, 0, detect=0.04 * k**2 * (2.5 if model.n < 4 else 1))


def unrooted(model, rows):
    rows[:, : model.spikes.size] *= np.sqrt(model.spikes)[:, None]


def inner_too_large(model, rows):
    rows[:, :, 1:-1] *= 1.3**0.5


def corner_lost(model, rows):
    rows[:, model._num_rows :] = 0


def chi_of_other_degrees(model, rows):
    rows[:, :, 0] = np.roll(rows[:, :, 0], -1, axis=1)


def real_for_complex(model, rows):
    rows[:, :, 1:-1] = rows[:, :, 1:-1].real * 2**0.5


def larger(model, rows):
    rows *= 1.04**0.5


@pytest.mark.parametrize(
    ("model", "mutate"),
    [
        (COVARIANCES[0], unrooted),
        (COVARIANCES[1], unrooted),
        (COVARIANCES[0], inner_too_large),
        (COVARIANCES[4], corner_lost),
        (COVARIANCES[1], corner_lost),
        (COVARIANCES[0], chi_of_other_degrees),
        (SpikedCovariance(4, 3, [3.0, 2.0, 2.0, 1.0], beta=2), real_for_complex),
        (COVARIANCES[0], larger),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_moments_reject_mutants(model, mutate):
    rows = drawn(model, COUNT, 1)[0].copy()
    mutate(model, rows)
    with pytest.raises(AssertionError, match="off by"):
        assert_covariance_moments(model, squares(model, rows))


@pytest.mark.parametrize(
    "other", [SpikedCovariance(9, 6, [3.0, 0.5]), SpikedCovariance(6, 9, [3.0, 0.5], beta=2)], ids=["p and n", "beta"]
)
def test_moments_reject_other_models(other):
    with pytest.raises(AssertionError, match="off by"):
        assert_covariance_moments(other, squares(other, drawn(other, COUNT, 1)[0]), of=COVARIANCES[0])


@pytest.mark.parametrize(("form", "beta"), [(QD, 1), (QD, 2), (TRI, 1), (TRI, 2)])
@pytest.mark.parametrize("size", [2, 3, 30])
def test_kernels_against_dense(form, beta, size):
    spikes = np.array([3.0, -0.5]) if form == TRI else np.array([3.0, 0.5])
    model = SpikedWigner(size, spikes, beta) if form == TRI else SpikedCovariance(size, 2 * size, spikes, beta)
    band = drawn(model, 1, 3)[1][0]
    dense = from_band(band)
    m = len(band)
    values, vectors = np.linalg.eigh(dense)
    work, vector = np.zeros_like(band), np.zeros(m, complex)
    for x in np.linspace(values[0] - 1, values[-1] + 1, 12):
        assert factor(band, m, x, 1e-290, work) == (values < x).sum()
        lower = np.eye(m, dtype=complex) + np.tril(from_band(work), -1)
        np.testing.assert_allclose(
            lower @ np.diag(work[:, 0]) @ lower.conj().T, dense - x * np.eye(m), atol=1e-9 * np.abs(values).max()
        )
    bound = reach(band, m)
    assert bound == pytest.approx(np.abs(dense).sum(axis=1).max())
    assert bound >= np.abs(values).max()
    for j in range(m):
        found = eigenvalue(band, m, j, -bound, bound, work)
        assert found == pytest.approx(values[j], abs=1e-14 * bound)
        eigenvector(band, m, found, work, vector)
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert np.abs(vector.conj() @ vectors[:, j]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("model", [*COVARIANCES, SpikedCovariance(6, 8, [1e-8, 2.0]), *WIGNERS], ids=str)
def test_a_seed_is_one_matrix(model):
    """`eigenvalues`, `largest`, `smallest` and overlaps see the matrix that `draw_band` gives."""
    rows, band = drawn(model, 3, 4)
    m, covariance = model._num_rows, isinstance(model, SpikedCovariance)
    values = np.linalg.eigvalsh(from_band(band)) * model._unit
    atol = 1e-14 * np.abs(values).max()
    np.testing.assert_allclose(model.eigenvalues(3, rng=4)[:, model._num_zeros :], values, atol=atol)
    np.testing.assert_allclose(model.largest(m, 3, rng=4), values, atol=atol)
    np.testing.assert_allclose(model.smallest(m, 3, rng=4), values, atol=atol)
    # In the population's coordinates the matrix is B B^H, which has B's rows.
    whole = from_band(band)
    if covariance:
        dense = factors(model, rows)
        whole = dense @ dense.conj().transpose(0, 2, 1)
    vectors = np.linalg.eigh(whole)[1][:, : model.spikes.size, -m:]
    expected = np.abs(vectors.transpose(0, 2, 1)) ** 2
    np.testing.assert_allclose(model.eigenvectors_overlap(m, 3, rng=4), expected, atol=1e-9)
    np.testing.assert_allclose(model.eigenvectors_overlap(m, 3, rng=4, side="smallest"), expected, atol=1e-9)


@pytest.mark.parametrize("model", [*COVARIANCES[:2], COVARIANCES[3], SpikedWigner(6, [2.0, -1.0], beta=2)], ids=str)
def test_values_and_overlaps_have_the_moments_of_diagonal_entries(model):
    """sum_j lambda_j overlap_ji = S_ii and sum_j lambda_j^2 overlap_ji = (S^2)_ii, whose means are exact."""
    spikes = model.spikes
    values, overlaps = model._extreme(True, model._num_rows, 8000, 5, None, overlaps=True)
    values = values[:, :, None]

    def check(overlaps):
        assert_mean(((values * overlaps).sum(axis=1) - first) / np.abs(first).max(), 0, detect=0.1)
        assert_mean(((values**2 * overlaps).sum(axis=1) - second) / second.max(), 0, detect=0.25)

    if isinstance(model, SpikedCovariance):
        n, trace = model.num_samples, spikes.sum() + model.num_features - spikes.size
        first = spikes
        second = spikes**2 * (1 + 2 / model.beta / n) + spikes * (trace - spikes) / n
    else:
        first = spikes
        second = spikes**2 + 1 + (2 / model.beta - 1) / model.n
    check(overlaps)
    with pytest.raises(AssertionError, match="off by"):
        check(overlaps[:, :, ::-1])  # the spikes in another order
    with pytest.raises(AssertionError, match="off by"):
        check(np.sqrt(overlaps))  # cosines that are not squared


@functools.cache
def compared(model, count):
    return dense_eigenpairs(model, count, 6)


DENSE = [
    (SpikedCovariance(7, 16, [5.0, 3.0]), 4500),
    (SpikedCovariance(16, 7, [5.0, 3.0], beta=2), 4500),
    pytest.param(SpikedCovariance(24, 10, [5.0, 3.0]), 4500, marks=SLOW),
    pytest.param(SpikedCovariance(10, 24, [5.0, 3.0], beta=2), 4500, marks=SLOW),
    (SpikedCovariance(6, 20, [0.2, 0.4]), 4500),
    (SpikedWigner(7, [1.5, 1.5, 0.5]), 4500),
    (SpikedWigner(7, [2.0, -1.5], beta=2), 4500),
    pytest.param(SpikedWigner(10, [1.5, 1.5, 0.5], beta=2), 4500, marks=SLOW),
    pytest.param(SpikedWigner(10, [1.8, -1.2]), 7000, marks=SLOW),
]


@pytest.mark.parametrize(("model", "count"), DENSE, ids=str)
def test_edges_and_overlaps_are_those_of_dense_matrices(model, count):
    k = model.spikes.size
    values, seen = compared(model, count)
    x = model.largest(k, count, rng=7)
    assert_same_law(x, values[:, -k:], mean=0.3 * x.std(axis=0), variance=0.6)
    y = model.smallest(1, count, rng=7)
    assert_same_law(y, values[:, :1], mean=0.3 * y.std(axis=0), variance=0.6)
    k = 1 if isinstance(model, SpikedWigner) else k  # the second vector of this one varies by too much
    overlaps = model.eigenvectors_overlap(k, count, rng=7)
    assert_same_law(overlaps.reshape(count, -1), seen[:, -k:].reshape(count, -1), mean=0.06, variance=1.0)


def test_edges_reject_other_dense_matrices():
    model, count = DENSE[0]
    values, seen = compared(model, count)
    for other in (SpikedCovariance(7, 16, [5.0, 2.7]), SpikedCovariance(7, 16, [5.0, 3.0], beta=2)):
        x = other.largest(2, count, rng=7)
        with pytest.raises(AssertionError, match="off by"):
            assert_same_law(x, values[:, -2:], mean=0.3 * x.std(axis=0), variance=0.6)
        overlaps = other.eigenvectors_overlap(2, count, rng=7).reshape(count, -1)
        with pytest.raises(AssertionError, match="off by"):
            assert_same_law(overlaps, seen[:, -2:].reshape(count, -1), mean=0.06, variance=1.0)


@pytest.mark.parametrize("beta", [1, 2])
def test_one_spike_with_a_one_beside_it_is_the_same_law(beta):
    x = SpikedCovariance(100, 200, [3.0], beta).largest(size=3000, rng=13)[:, 0]
    y = SpikedCovariance(100, 200, [1.0, 3.0], beta).largest(size=3000, rng=14)[:, 0]
    assert_same_law(x, y, mean=0.3 * x.std(), variance=0.6)
    other = SpikedCovariance(100, 200, [1.0, 2.9], beta).largest(size=3000, rng=14)[:, 0]
    with pytest.raises(AssertionError, match="off by"):
        assert_same_law(x, other, mean=0.3 * x.std(), variance=0.6)


LONG = [
    SpikedCovariance(2000, 5000, [3.0, 2.5]),
    SpikedCovariance(5000, 2000, [3.0, 4.0], beta=2),
    SpikedCovariance(2000, 20_000, [0.3, 0.4, 3.0]),
    SpikedCovariance(2000, 20_000, [1 + 0.1**0.5, 1.2]),
    SpikedWigner(2000, [1.0, 1.2, -1.5], beta=2),
]


@pytest.mark.parametrize("model", LONG, ids=str)
def test_truncated_is_full(model, monkeypatch):
    """The stated bound, 1e-8 Tracy-Widom scales (in practice: rounding), from any block to start with."""
    for above in (True, False):
        _, scale, length = model._edge(above)
        rows = tridiagonal.block_length(length, 2, model.beta, 2000)
        assert rows < 2000
        full, overlaps = model._extreme(above, 2, 3, 8, 1, overlaps=True, cut=False)
        for start in (rows, 12):  # too short a block grows
            with monkeypatch.context() as patch:
                patch.setattr(tridiagonal, "block_length", lambda *_, start=start: start)
                cut, seen = model._extreme(above, 2, 3, 8, 1, overlaps=True)
            np.testing.assert_allclose(cut, full, rtol=0, atol=1e-9 * scale * model._unit + 1e-15 * np.abs(full).max())
            np.testing.assert_allclose(seen, overlaps, atol=1e-7)


def test_spikes_leave_on_both_sides():
    model = SpikedCovariance(10**5, 4 * 10**5, [4.0, 0.2, 2.5])
    law, count = model.law(), 60
    top, bottom = model.largest(2, count, rng=9), model.smallest(1, count, rng=9)
    for draws, i in ((top[:, 1], 0), (bottom[:, 0], 1), (top[:, 0], 2)):
        sd = law.locations_std[i]
        assert_mean(draws, law.locations[i], bias=0.02 * sd, detect=2 * sd)
        assert_mean((draws - draws.mean()) ** 2 / sd**2, 1, bias=0.02, detect=3)
    found = model.eigenvectors_overlap(2, count, rng=9)
    assert_mean(found[:, 1, 0], law.overlaps[0], bias=5e-5, detect=6e-3)
    assert_mean(found[:, 0, 2], law.overlaps[2], bias=5e-5, detect=6e-3)
    assert found[:, 1, 1:].max() < 1e-3
