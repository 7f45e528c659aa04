import numpy as np
import pytest

from rmtland.ensembles import tridiagonal
from rmtland.ensembles.tridiagonal import QD, TRI
from rmtland.ensembles.wigner import GaussianEnsemble, SpikedWigner
from rmtland.ensembles.wishart import SpikedCovariance, Wishart
from tests.ensembles.lift import lift

count_below, solve, ends = lift(tridiagonal.count_below), lift(tridiagonal.solve), lift(tridiagonal.ends)
laguerre_sums, extreme = lift(tridiagonal._laguerre_sums), lift(tridiagonal.extreme)
square_qd, cut = lift(tridiagonal.square_qd), lift(tridiagonal._cut)


def rows(form, m, seed):
    generator = np.random.default_rng(seed)
    a = generator.chisquare(np.arange(m, 0, -1) + 3) if form == QD else generator.standard_normal(m)
    b = generator.chisquare(np.arange(m, 0, -1))
    return a, b


@pytest.mark.parametrize("form", [QD, TRI])
@pytest.mark.parametrize("m", [1, 2, 9, 40])
def test_kernels_against_dense(form, m):
    for seed in range(5):
        a, b = rows(form, m, seed)
        values, vectors = np.linalg.eigh(tridiagonal.dense_block(form, a, b))
        tolerance = 1e-12 * np.abs(values).max()
        for x in np.linspace(values[0] - 1, values[-1] + 1, 16):
            assert count_below(form, a, b, m, x) == (values < x).sum()
        found = np.empty(m)
        solve(form, a, b, m, values[-1] - 2, 0.5, True, m, found)
        np.testing.assert_allclose(found, values[::-1], atol=tolerance)
        if form == QD:
            solve(form, a, b, m, values[0] + 2, 0.5, False, m, found)
            np.testing.assert_allclose(found, values, atol=tolerance)
        first, last = ends(form, a, b, m, values[-1])
        assert last == pytest.approx(vectors[-1, -1] ** 2, abs=1e-12)
        if form == TRI:
            assert first == pytest.approx(vectors[0, -1] ** 2, rel=1e-8)


@pytest.mark.parametrize("above", [True, False])
def test_laguerre_sums_against_the_eigenvalues(above):
    for form in (QD, TRI):
        a, b = rows(form, 12, 3)
        values = np.linalg.eigvalsh(tridiagonal.dense_block(form, a, b))
        x = values[-1] + 0.3 if above else values[0] - 0.3
        outside, first, second = laguerre_sums(form, a, b, 12, x, above)
        assert outside
        assert first == pytest.approx((1 / (x - values)).sum(), rel=1e-10)
        assert second == pytest.approx((1 / (x - values) ** 2).sum(), rel=1e-10)
        assert not laguerre_sums(form, a, b, 12, 0.5 * (values[0] + values[-1]), above)[0]


@pytest.mark.parametrize("start", [-1e6, -1.0, 1.0, 1e7])
def test_laguerre_from_anywhere(start):
    a, b = rows(QD, 30, 4)
    block = tridiagonal.dense_block(QD, a, b)
    np.testing.assert_array_equal(block, block.T)
    values = np.linalg.eigvalsh(block)
    assert extreme(QD, a, b, 30, start, 0.1, True) == pytest.approx(values[-1], rel=1e-13)
    assert extreme(QD, a, b, 30, start, 0.1, False) == pytest.approx(values[0], rel=1e-9)


def test_first_entry_of_the_wishart_form_is_along_the_spike():
    a, b = rows(QD, 15, 5)
    factor = np.diag(np.sqrt(a)) + np.diag(np.sqrt(b[:-1]), -1)
    factor = np.vstack([factor, np.append(np.zeros(14), np.sqrt(b[-1]))])
    values, vectors = np.linalg.eigh(factor @ factor.T)
    assert ends(QD, a, b, 15, values[-1])[0] == pytest.approx(vectors[0, -1] ** 2, rel=1e-10)


@pytest.mark.parametrize("form", [QD, TRI])
def test_what_is_cut_off_is_the_residual_in_one_row_more(form):
    m, n = 9, 30.0
    a, b = rows(form, m + 1, 8)
    if form == QD:
        a[m] = n - m  # where the next row is at its mean, the residual is exact
    whole = tridiagonal.dense_block(form, a, b)
    block = whole[:m, :m].copy()
    block[-1, -1] = a[m - 1] + (b[m - 1] if form == QD else 0)
    values, vectors = np.linalg.eigh(block)
    for j in (-1, -2):
        padded = np.append(vectors[:, j], 0)
        residual = whole @ padded - values[j] * padded
        assert cut(form, n, a, b, m, values[j]) == pytest.approx(residual @ residual, rel=1e-6)


@pytest.mark.parametrize("model", [Wishart(400, 900), GaussianEnsemble(400)], ids=str)
def test_every_value_asked_for_is_that_of_the_whole_matrix_whatever_the_block(model, monkeypatch):
    scale = model._edge(True)[1] * model._unit
    for k in (1, 2):
        full = model._extreme(True, k, 4, 7, 1, cut=False)[0]
        for start in range(40, 130, 6):
            monkeypatch.setattr(tridiagonal, "block_length", lambda *_, start=start: start)
            found = model._extreme(True, k, 4, 7, 1)[0]
            np.testing.assert_allclose(found, full, rtol=0, atol=1e-13 * scale + 1e-15 * np.abs(full).max())


def near_threshold(p, n):
    """Spikes through the critical window, of width (p/n)^(1/2) min(p, n)^(-1/3)."""
    threshold, window = 1 + (p / n) ** 0.5, (p / n) ** 0.5 * min(p, n) ** (-1 / 3)
    return [SpikedCovariance(p, n, spikes=[threshold + w * window]) for w in (-4, -1, 0, 1, 4)]


SIZE = 30_000


def cases(size):
    return [
        *(Wishart(size, n, beta) for n in (size, 3 * size, 100 * size, 10**4 * size) for beta in (1, 2)),
        Wishart(100 * size, size),
        Wishart(size, 2 * size, beta=0.2),
        *near_threshold(size, 2 * size),
        *near_threshold(size, 10**4 * size),
        SpikedCovariance(size, 10**4 * size, spikes=[0.9]),
        *(GaussianEnsemble(size, beta) for beta in (1, 2, 4)),
        *(SpikedWigner(size, spikes=[1 + w * size ** (-1 / 3)]) for w in (-4, 0, 1, 4)),
        SpikedWigner(size, spikes=[-1.0]),
    ]


def assert_truncated_is_full(model, count):
    for above in (True, False):
        _, scale, length = model._edge(above)
        blocks = [tridiagonal.block_length(length, k, model.beta, model._num_rows) for k in (1, 3)]
        if max(blocks) == model._num_rows:
            assert above is False
            assert model._model[1] == model._model[2]  # only the hard edge
            continue
        full = model._extreme(above, 3, count, 7, 1, cut=False)[0]
        rounding = 4e-16 * np.abs(full).max()
        for k in (1, 3):
            cut = model._extreme(above, k, count, 7, 1)[0]
            error = np.abs(cut - (full[:, -k:] if above else full[:, :k])).max()
            assert error <= 1e-9 * scale * model._unit + rounding


@pytest.mark.parametrize("model", cases(10_000), ids=str)
def test_truncated_is_full(model):
    """The stated bound, 1e-8 Tracy-Widom scales (in practice: rounding)."""
    assert_truncated_is_full(model, 8)


@pytest.mark.slow
@pytest.mark.parametrize("model", cases(SIZE), ids=str)
def test_truncated_is_full_for_longer_models(model):
    assert_truncated_is_full(model, 5)


def test_the_smallest_at_a_soft_edge_needs_the_first_rows():
    model = Wishart(6000, 24_000)
    assert tridiagonal.block_length(model._edge(False)[2], 1, 1, 6000) < 700
    assert model.smallest(rng=1) == pytest.approx(model.eigenvalues(rng=1)[0], rel=1e-11)


def test_nothing_is_cut_at_the_hard_edge():
    for model in (Wishart(10_000, 10_000), Wishart(10_000, 10_100)):
        assert tridiagonal.block_length(model._edge(False)[2], 1, 1, 10_000) == 10_000


def test_a_block_too_short_grows(monkeypatch):
    model = Wishart(SIZE, 2 * SIZE)
    expected = model.largest(2, size=10, rng=3)
    overlaps = SpikedCovariance(SIZE, 2 * SIZE, spikes=[3.0]).eigenvectors_overlap(size=5, rng=3)
    assert tridiagonal.block_length(model._edge(True)[2], 2, 1, SIZE) > 40
    monkeypatch.setattr(tridiagonal, "block_length", lambda *_: 12)
    np.testing.assert_allclose(model.largest(2, size=10, rng=3), expected, rtol=1e-14)
    again = SpikedCovariance(SIZE, 2 * SIZE, spikes=[3.0]).eigenvectors_overlap(size=5, rng=3)
    np.testing.assert_allclose(again, overlaps, rtol=1e-10)
    band = SpikedCovariance(3000, 6000, spikes=[3.0, 2.5])
    full = band._extreme(True, 2, 3, 3, 1, cut=False)[0]
    np.testing.assert_allclose(band.largest(2, size=3, rng=3), full, rtol=1e-13)


@pytest.mark.parametrize("p", [10**4, 10**6, 10**9, 10**12])
def test_blocks_stay_of_order_cube_root(p):
    rows_needed = tridiagonal.block_length(Wishart(p, 2 * p)._edge(True)[2], 1, 1, p)
    assert rows_needed <= 20 * p ** (1 / 3)


def test_square_qd_keeps_the_eigenvalues():
    a, b = rows(QD, 12, 6)
    values = np.linalg.eigvalsh(tridiagonal.dense_block(QD, a, b))
    square_qd(a, b)
    assert b[-1] == 0
    upper = np.diag(np.sqrt(a)) + np.diag(np.sqrt(b[:-1]), 1)
    np.testing.assert_allclose(np.linalg.eigvalsh(upper.T @ upper), values, rtol=1e-10)


def test_large_k_takes_the_whole_spectrum():
    model = Wishart(400, 500)
    np.testing.assert_allclose(model.largest(100, rng=2), model.eigenvalues(rng=2)[-100:], rtol=1e-12)
    np.testing.assert_allclose(model.smallest(100, rng=2), model.eigenvalues(rng=2)[:100], rtol=1e-10)


@pytest.mark.parametrize("beta", [1e-3, 0.03])
@pytest.mark.parametrize(("features", "samples"), [(2, 3), (3, 2), (4, 4)])
def test_entries_that_vanish(beta, features, samples):
    """chi^2 of 0.001 degrees of freedom is mostly 0 in float64; `smallest` hung, or was NaN."""
    model, k = Wishart(features, samples, beta=beta), min(features, samples)
    every = model.eigenvalues(50, rng=5)[:, -k:]
    for found in (model.smallest(k, 50, rng=5), model.largest(k, 50, rng=5)):
        np.testing.assert_allclose(found, every, rtol=1e-12, atol=1e-15 * every.max())
        assert (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose(model.smallest(1, 50, rng=5), every[:, :1], atol=1e-15 * every.max())
    with pytest.raises(ValueError, match="`beta` must be >= 0.1 for overlaps of so few rows; got"):
        SpikedCovariance(features, samples, [2.0], beta=beta).eigenvectors_overlap(rng=5)


def test_a_bisection_of_what_is_no_number_ends():
    bad = np.array([1.0, np.nan, 1.0])
    assert np.isnan(lift(tridiagonal.bisect)(tridiagonal.QD, bad, bad, 3, 1, 0.0, 1.0))


@pytest.mark.parametrize("spike", [1e-15, 1e-8, 1.0, 1e15])
def test_one_feature_is_its_own_eigenvector(spike):
    """Its overlap was from 0 to 2.23: the eigenvalue had the absolute error of one of the bulk."""
    model = SpikedCovariance(1, 3, [spike])
    for side in ("largest", "smallest"):
        np.testing.assert_allclose(model.eigenvectors_overlap(size=200, rng=0, side=side), 1, rtol=1e-14)
        assert model.eigenvectors_overlap(size=200, rng=0, side=side).max() <= 1
    np.testing.assert_allclose(model.largest(size=200, rng=0), model.smallest(size=200, rng=0), rtol=1e-14)
