"""Kernels of tridiagonal models as plain Python, against dense matrices; compiled they are in `test_tridiagonal`."""

import itertools

import numpy as np
import pytest
from scipy.special import ai_zeros

from rmtland.ensembles import tridiagonal
from rmtland.ensembles.tridiagonal import QD, TRI, airy_zero, block_length
from tests.plain_kernels import counting, plain_draws, plain_kernels, waves

FORMS = pytest.mark.parametrize("form", [QD, TRI])


@pytest.fixture
def plain(monkeypatch):
    return plain_kernels(tridiagonal, monkeypatch, **plain_draws())


def block(form, m=8, seed=0):
    """Entries a, b with one row more than the block, and the block."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.5, 3, m + 1), rng.uniform(0.2, 2, m + 1)
    if form == TRI:
        a -= 2
    return a, b, dense(form, a, b, m)


def dense(form, a, b, m):
    if form == TRI:
        off = np.sqrt(b[: m - 1])
        return np.diag(a[:m]) + np.diag(off, 1) + np.diag(off, -1)
    factor = np.zeros((m + 1, m))
    factor[range(m), range(m)] = np.sqrt(a[:m])
    factor[range(1, m + 1), range(m)] = np.sqrt(b[:m])
    return factor.T @ factor


def test_airy_zeros_and_first_blocks():
    np.testing.assert_allclose([airy_zero(k) for k in range(1, 9)], -ai_zeros(8)[0], rtol=0.02)
    # y L + 2 k + 2 rows, y = a_k + 1 + max(10, (48 / beta)^(2/3)), and all of them where these are fewer.
    for beta, wide in ((1.0, 48 ** (2 / 3)), (4.0, 10.0)):
        expected = 7.5 * (-ai_zeros(3)[0][-1] + 1 + wide) + 8
        assert block_length(7.5, 3, beta, 10**6) == pytest.approx(expected, rel=0.01)
        assert isinstance(block_length(7.5, 3, beta, 10**6), int)
    assert block_length(7.5, 3, 4.0, 50) == 50
    assert block_length(np.inf, 1, 1.0, 12) == 12


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_rows_are_chis_normals_and_the_spike(plain, beta):
    n, p = 9.0, 14.0
    a, b = np.full(6, np.nan), np.full(6, np.nan)
    plain.fill(QD, n, p, beta, 5.0, 1.0, 0, 2, a, b, counting())
    plain.fill(QD, n, p, beta, 5.0, 1.0, 2, 6, a, b, counting())
    j = np.arange(6)
    np.testing.assert_allclose(a, (n - j) * np.where(j == 0, 5.0, 1.0), rtol=1e-14)  # degrees of freedom
    np.testing.assert_allclose(b, p - 1 - j, rtol=1e-14)
    for sign in (1.0, -1.0):
        stream = counting()
        plain.fill(TRI, n, 0.0, beta, 5.0, sign, 0, 2, a, b, stream)
        plain.fill(TRI, n, 0.0, beta, 5.0, sign, 2, 6, a, b, stream)
        np.testing.assert_allclose(a, sign * (np.sqrt(2 / beta) * (j + 1) + 5.0 * (j == 0)), rtol=1e-14)
        np.testing.assert_allclose(b, n - 1 - j, rtol=1e-14)


@FORMS
def test_counts_of_eigenvalues_below(plain, form):
    a, b, matrix = block(form)
    values = np.linalg.eigvalsh(matrix)
    for m in (1, 2, 5, 8):
        part = np.linalg.eigvalsh(dense(form, a, b, m))
        for x in [*(values[:-1] + values[1:]) / 2, values[0] - 1, values[-1] + 1]:
            assert plain.count_below(form, a, b, m, x) == np.sum(part < x)
    # A pivot of 0 on the way is no end.
    a, b = (np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0])) if form == QD else (np.zeros(3), np.ones(3))
    x = 2.0 if form == QD else 0.0
    assert plain.count_below(form, a, b, 3, x + 1e-9) == np.sum(np.linalg.eigvalsh(dense(form, a, b, 3)) < x + 1e-9)
    assert plain.count_below(form, a, b, 2, x) == np.sum(np.linalg.eigvalsh(dense(form, a, b, 2)) < x)


@FORMS
def test_sums_over_eigenvalues_from_outside(plain, form):
    a, b, matrix = block(form)
    values = np.linalg.eigvalsh(matrix)
    for x, above in ((values[-1] + 0.3, True), (values[0] - 0.3, False), (values[-1] + 50, True)):
        outside, first, second = plain._laguerre_sums(form, a, b, 8, x, above)
        assert outside
        assert first == pytest.approx(np.sum(1 / (x - values)), rel=1e-11)
        assert second == pytest.approx(np.sum(1 / (x - values) ** 2), rel=1e-11)
        assert plain._laguerre_sums(form, a, b, 8, x, not above) == (False, 0.0, 0.0)
    assert plain._laguerre_sums(form, a, b, 8, values[3], True) == (False, 0.0, 0.0)
    part = np.linalg.eigvalsh(dense(form, a, b, 3))
    assert plain._laguerre_sums(form, a, b, 3, part[-1] + 1, True)[1] == pytest.approx(
        np.sum(1 / (part[-1] + 1 - part))
    )


@FORMS
@pytest.mark.parametrize("above", [True, False])
def test_the_extreme_eigenvalue_is_found_from_anywhere_in_few_steps(plain, monkeypatch, form, above):
    a, b, matrix = block(form, seed=1)
    values = np.linalg.eigvalsh(matrix)
    expected = values[-1] if above else values[0]
    sums, counted = plain._laguerre_sums, []
    monkeypatch.setattr(tridiagonal, "_laguerre_sums", lambda *a: counted.append(a[4]) or sums(*a))
    for start in (expected, expected + 1, expected - 1, expected + 40, expected - 40):
        counted.clear()
        found = plain.extreme(form, a, b, 8, start, 0.5, above)
        assert found == pytest.approx(expected, rel=4e-15, abs=1e-15 * values[-1])
        assert len(counted) < 20  # cubic, and each step out is eight times the last
        if form == QD and not above:
            assert min(counted) >= 0


@FORMS
def test_inner_eigenvalues_by_counts_whatever_the_bracket(plain, form):
    a, b, matrix = block(form, seed=2)
    values = np.linalg.eigvalsh(matrix)
    for j in range(8):
        x = values[j]
        brackets = (values[0] - 1, values[-1] + 1), (x - 1e-3, x + 2e-3), (x + 0.5, x + 0.6), (x - 0.6, x - 0.5), (0, 0)
        for low, high in brackets:
            found = plain.bisect(form, a, b, 8, j, float(low), float(high))
            assert found == pytest.approx(values[j], rel=1e-14, abs=1e-14 * np.abs(values).max())
    assert np.isnan(plain.bisect(form, a, b, 8, 8, 0.0, 1.0))  # there is no ninth


@FORMS
@pytest.mark.parametrize("above", [True, False])
def test_eigenvalues_come_from_the_outermost_inwards(plain, form, above):
    a, b, matrix = block(form, seed=3)
    values = np.linalg.eigvalsh(matrix)
    expected = values[::-1] if above else values
    found = np.full(4, np.nan)
    plain.solve(form, a, b, 8, expected[0], 0.05, above, 4, found)
    np.testing.assert_allclose(found, expected[:4], rtol=1e-13, atol=1e-14 * values[-1])


def test_squared_ends_of_eigenvectors(plain):
    a, b, matrix = block(TRI, seed=4)
    values, vectors = np.linalg.eigh(matrix)
    for j in (0, 7):
        found = plain.ends(TRI, a, b, 8, values[j])
        np.testing.assert_allclose(found, vectors[[0, -1], j] ** 2, rtol=1e-6)
    a, b, matrix = block(QD, seed=4)
    values, vectors = np.linalg.eigh(matrix)
    for j in (0, 7):
        first, last = plain.ends(QD, a, b, 8, values[j])
        # Of B B^T the first entry of B u / sqrt(x), of M = B^T B the last of u.
        assert first == pytest.approx(a[0] * vectors[0, j] ** 2 / values[j], rel=1e-6)
        assert last == pytest.approx(vectors[-1, j] ** 2, rel=1e-6)
    assert plain.ends(QD, a, b, 8, 0.0)[0] == 0.0
    for form, a, b, x in ((TRI, np.array([2.0]), np.zeros(1), 2.0), (QD, np.array([2.0]), np.zeros(1), 2.0)):
        assert plain.ends(form, a, b, 1, x) == (1.0, 1.0)


@FORMS
def test_what_is_cut_off_is_told_by_the_last_entry(plain, form):
    """The padded eigenvector's squared residual: M_m(m+1)^2 = e q by the last entry's square, q at its mean n - m."""
    a, b, matrix = block(form, seed=5)
    values, vectors = np.linalg.eigh(matrix)
    a[8] = 30.0 - 8
    whole = dense(form, a, b, 9)
    padded = np.append(vectors[:, -1], 0.0)
    residual = np.linalg.norm(whole @ padded - values[-1] * padded) ** 2
    assert plain._cut(form, 30.0, a, b, 8, values[-1]) == pytest.approx(residual, rel=1e-6)


def test_longer_arrays_hold_what_was_there(plain):
    longer = plain._grown(np.array([3.0, 1.0, 2.0]), 5, 2)
    assert longer.shape == (5,)
    assert longer[:2].tolist() == [3.0, 1.0]


@pytest.fixture
def wavy(monkeypatch):
    return plain_kernels(tridiagonal, monkeypatch, **waves())


@pytest.mark.parametrize(("form", "above"), [(QD, True), (QD, False), (TRI, True)])  # minus the largest at sign -1
def test_extremes_of_replicates_by_growing_blocks(wavy, form, above, monkeypatch):
    n, p, total = (50.0, 45.0, 44) if form == QD else (44.0, 0.0, 44)
    spike, sign = (4.0, 1.0) if form == QD else (20.0, -1.0)
    words = np.array([7], dtype=np.uint64)
    exact, seen, entries = [], [], []
    for index in (3, 4):
        a, b = np.empty(total), np.empty(total)
        state = np.array([1000 * index + 7], dtype=np.uint64)
        wavy.fill(form, n, p, 1.0, spike, sign, 0, total, a, b, state)
        entries.append((a, b))
        matrix = dense(form, a, b, total)
        values, vectors = np.linalg.eigh(matrix)
        order = slice(None, None, -1) if above else slice(None)
        exact.append(values[order])
        if form == QD:
            seen.append(a[0] * vectors[0, order] ** 2 / values[order])
        else:
            seen.append(vectors[0, order] ** 2)
        again, others = np.empty(total), np.empty(total)
        wavy.draw(form, n, p, 1.0, spike, total, words, index, again, others)
        np.testing.assert_allclose(again, sign * a if form == TRI else a)
        np.testing.assert_allclose(others, b)
    exact, seen = np.array(exact), np.array(seen)

    def is_cut_well(i, m, k, scale):
        """Whether what is cut off moves the k-th vector's product by 1e-8 scales at most."""
        a, b = entries[i]
        end = np.linalg.eigh(dense(form, a, b, m))[1][-1, -k if above else k - 1]
        return end**2 * b[m - 1] * (n - m if form == QD else 1) <= (1e-8 * scale) ** 2

    edge = exact[:, 0].mean()
    filled, fill = [], tridiagonal.fill
    monkeypatch.setattr(tridiagonal, "fill", lambda *args: filled.append(args[6:8]) or fill(*args))
    for k, kernel in ((1, wavy.outermost), (1, wavy.extremes), (3, wavy.extremes)):
        for rows, scale in ((4, 0.5), (4, 3.0), (total, 0.5)):
            del filled[:]
            values, overlaps = np.zeros((2, k)), np.zeros((2, k))
            given = form, n, p, 1.0, spike, sign, total, rows, edge, scale, above, k, words, 3
            longest = kernel(*given, values, overlaps)
            assert longest == max(last for _, last in filled)
            assert [first for first, _ in filled].count(0) == 2
            for (_, before), (first, last) in itertools.pairwise(filled):
                assert (first, last) in ((0, rows), (before, min(total, before + before // 2 + 1)))
            replicate = -1
            for j, (first, m) in enumerate(filled):
                replicate += first == 0
                goes_on = j + 1 < len(filled) and filled[j + 1][0] > 0
                assert goes_on == (m < total and not is_cut_well(replicate, m, k, scale))
            np.testing.assert_allclose(values, exact[:, :k], atol=1e-8 * scale if rows < total else 1e-10)
            np.testing.assert_allclose(overlaps, seen[:, :k], atol=1e-6)
            again = np.zeros((2, k))
            del filled[:]
            assert kernel(*given, again, np.zeros((0, 0))) == longest
            np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("m", [1, 2, 6])
def test_square_bidiagonals_have_the_same_products(plain, m):
    a, b, _ = block(QD, m)
    a, b = a[:m], b[:m]
    for zero in (False, True):
        if zero and m > 2:
            a[2] = b[2] = 0.0
            a[3] = b[1] = 0.0
        q, e = a.copy(), b.copy()
        plain.square_qd(q, e)
        assert e[-1] == 0
        upper = np.diag(np.sqrt(q)) + np.diag(np.sqrt(e[:-1]), 1)
        product, expected = upper.T @ upper, dense(QD, a, b, m)
        np.testing.assert_allclose(np.linalg.eigvalsh(product), np.linalg.eigvalsh(expected), atol=1e-10)
        if not zero:
            np.testing.assert_allclose(product, expected, atol=1e-12)
