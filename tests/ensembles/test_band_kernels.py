"""Kernels of band models as plain Python, step by step, against dense matrices; compiled they are in `test_banded`."""

import itertools

import numpy as np
import pytest

from rmtland.ensembles import banded
from rmtland.ensembles.tridiagonal import QD, TRI
from tests.ensembles.test_banded import from_band
from tests.plain_kernels import counting, plain_draws, plain_kernels, waves


@pytest.fixture
def plain(monkeypatch):
    return plain_kernels(banded, monkeypatch, **plain_draws())


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize(("n", "p"), [(9, 6), (6, 9), (7, 7)])
def test_rows_of_the_factor_are_chis_normals_and_spikes(plain, beta, n, p):
    spikes = np.array([4.0, 9.0])
    num_rows = min(n, p) + 2
    rows = np.full((num_rows, 3), np.nan, complex)
    stream = counting()
    plain.fill_band(QD, float(n), float(p), beta, spikes, 0, 3, rows, stream)
    plain.fill_band(QD, float(n), float(p), beta, spikes, 3, num_rows, rows, stream)
    draws = counting()
    for i in range(num_rows):
        scale = np.sqrt(spikes[i]) if i < 2 else 1.0
        between = 0.0
        if i >= 1:
            x = next(draws)
            between = x if beta == 1 else (x + 1j * next(draws)) / np.sqrt(2)
        # E chi^2 = beta k, over beta: the root of the degrees of freedom.
        expected = [np.sqrt(max(n - i, 0)), between, np.sqrt(max(p - i, 0)) if i >= 2 else 0]
        np.testing.assert_allclose(rows[i], scale * np.array(expected), rtol=1e-14)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_rows_of_the_matrix_are_normals_spikes_and_chis(plain, beta):
    spikes, n = np.array([3.0, -2.0]), 7
    rows = np.zeros((n, 3), complex)
    plain.fill_band(TRI, float(n), 0.0, beta, spikes, 0, n, rows, counting())
    draws = counting()
    for i in range(n):
        diagonal = np.sqrt(2 / beta) * next(draws) + (spikes[i] if i < 2 else 0)
        between = 0.0
        if i >= 1:
            x = next(draws)
            between = x if beta == 1 else (x + 1j * next(draws)) / np.sqrt(2)
        np.testing.assert_allclose(rows[i], [diagonal, between, np.sqrt(n - i) if i >= 2 else 0], rtol=1e-14)


def random_rows(num_rows, r, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, r + 1)) + 1j * rng.normal(size=(num_rows, r + 1))
    rows[:, 0] = rows[:, 0].real
    for i in range(r):
        rows[i, i + 1 :] = 0
    return rows


def dense_of(rows, num_columns):
    dense = np.zeros((len(rows), num_columns), complex)
    for i, row in enumerate(rows):
        for d, entry in enumerate(row):
            if 0 <= i - d < num_columns:
                dense[i, i - d] = entry
    return dense


@pytest.mark.parametrize(("m", "num_rows"), [(6, 8), (6, 6), (6, 7), (1, 3), (2, 4)])
def test_blocks_are_assembled_from_the_rows_they_need(plain, m, num_rows):
    rows = random_rows(num_rows + 2, 2, 0)  # later rows are there, and not to be looked at
    band = np.full((m, 3), np.nan, complex)
    plain.assemble(QD, rows, num_rows, m, band)
    factor = dense_of(rows[:num_rows], m)
    np.testing.assert_allclose(from_band(band), factor.conj().T @ factor, atol=1e-13)
    plain.assemble(TRI, rows, num_rows, m, band)
    lower = dense_of(rows[:m], m)
    np.testing.assert_allclose(from_band(band), lower + np.tril(lower, -1).conj().T, atol=1e-13)
    # What would stand outside of the block is 0.
    assert all(band[j, d] == 0 for j in range(m) for d in range(3) if j + d >= m)


@pytest.fixture
def block(plain):
    band = np.zeros((7, 3), complex)
    plain.assemble(QD, random_rows(9, 2, 1), 9, 7, band)
    return band, from_band(band)


def test_pivots_are_those_of_the_dense_factorisation(plain, block):
    band, dense = block
    values = np.linalg.eigvalsh(dense)
    work = np.zeros_like(band)
    for x in [*(values[:-1] + values[1:]) / 2, values[0] - 1, values[-1] + 1]:
        assert plain.factor(band, 7, x, 1e-290, work) == np.sum(values < x)
        lower = np.eye(7, dtype=complex)
        for j in range(7):
            for d in range(1, min(2, 6 - j) + 1):
                lower[j + d, j] = work[j, d]
        np.testing.assert_allclose(lower * work[:, 0] @ lower.conj().T, dense - x * np.eye(7), atol=1e-10)
    # Of a leading block, and a pivot of 0, which counts as one below it.
    assert plain.factor(band, 4, values[3], 1e-290, work) == np.sum(np.linalg.eigvalsh(dense[:4, :4]) < values[3])
    assert plain.factor(np.zeros((1, 3), complex), 1, 0.0, 0.5, work) == 1
    assert work[0, 0] == -0.5


def test_bounds_are_the_largest_row_sums(plain, block):
    band, dense = block
    for m in (1, 2, 3, 7):
        part = np.zeros((m, 3), complex)
        for j in range(m):
            for d in range(min(3, m - j)):
                part[j, d] = band[j, d]
        assert plain.reach(part, m) == pytest.approx(np.abs(dense[:m, :m]).sum(axis=1).max(), rel=1e-14)
    # Row by row: what reaches out of the block is not counted, wherever the largest sum is.
    for j in range(7):
        one = np.zeros((7, 3), complex)
        one[j] = 1.0
        inside = [j + d for d in range(3) if j + d < 7]
        assert plain.reach(one, 7) == len(inside)


def test_eigenvalues_by_number_and_their_vectors(plain, block):
    band, dense = block
    values, vectors = np.linalg.eigh(dense)
    work, vector = np.zeros_like(band), np.zeros(7, complex)
    for j in range(7):
        found = plain.band_eigenvalue(band, 7, j, 0.0, values[-1] + 1, work)
        assert found == pytest.approx(values[j], rel=1e-12, abs=1e-12 * values[-1])
        plain.band_vector(band, 7, found, work, vector)
        assert abs(np.vdot(vectors[:, j], vector)) == pytest.approx(1, abs=1e-10)
        assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-12)
        np.testing.assert_allclose(dense @ vector, found * vector, atol=1e-9 * values[-1])


def test_squared_entries_along_the_spikes(plain):
    rows = random_rows(6, 2, 2)
    vector = np.random.default_rng(3).normal(size=6) + 1j * np.random.default_rng(4).normal(size=6)
    overlap = np.zeros(2)
    plain._seen(TRI, rows, vector, 5.0, overlap)
    np.testing.assert_allclose(overlap, abs(vector[:2]) ** 2, rtol=1e-14)
    plain._seen(QD, rows, vector, 5.0, overlap)  # left singular vectors, from the right ones
    np.testing.assert_allclose(overlap, abs(dense_of(rows, 6)[:2] @ vector) ** 2 / 5, rtol=1e-13)
    plain._seen(QD, rows, vector[:1], 5.0, overlap)
    np.testing.assert_allclose(overlap, abs(dense_of(rows, 1)[:2] @ vector[:1]) ** 2 / 5, rtol=1e-13)
    plain._seen(TRI, rows, vector[:1], 5.0, overlap)
    np.testing.assert_allclose(overlap, [abs(vector[0]) ** 2, 0], rtol=1e-14)


def test_longer_rows_hold_what_was_there(plain):
    rows = random_rows(4, 2, 5)
    longer = plain._grown(rows, 7, 3)
    np.testing.assert_array_equal(longer[:3], rows[:3])
    assert longer.shape == (7, 3)
    assert not longer[3:].any()


@pytest.mark.parametrize("form", [QD, TRI])
def test_residuals_bound_what_the_rest_of_the_matrix_does_to_a_block_s_eigenvector(plain, form):
    """Of a vector at the block's end, where normal entries are 0 and chi-square ones are at their means."""
    n, m, r = 40, 12, 2
    rows = np.zeros((n + r, r + 1), complex)
    plain.fill_band(form, float(n), float(n + 20), 1.0, np.ones(r), 0, n + r, rows, iter(np.zeros(10**4)))
    band = np.zeros((n, r + 1), complex)
    plain.assemble(form, rows, n + r if form == QD else n, n, band)
    dense = from_band(band)
    vector = np.random.default_rng(6).normal(size=m) + 1j * np.random.default_rng(7).normal(size=m)
    vector[:-r] = 0  # only the last r entries are seen by the rest
    outside = np.linalg.norm(dense[m:, :m] @ vector) ** 2
    bound = plain._residual(form, float(n), 1.0, band, m, vector)
    tail = np.linalg.norm(vector) ** 2
    assert bound == pytest.approx(tail * (n if form == TRI else band[m - r - 1, 0].real ** 2), rel=1e-14)
    assert outside <= bound
    vector[: m - r], vector[m - r :] = 1.0, 0.0
    assert plain._residual(form, float(n), 1.0, band, m, vector) == 0
    # Of a block of no more than r rows all are at its end.
    bound = plain._residual(form, float(n), 1.0, band, r, np.array([3.0, 4.0j]))
    assert bound == pytest.approx(25 * (n if form == TRI else band[0, 0].real ** 2), rel=1e-14)


@pytest.fixture
def wavy(monkeypatch):
    return plain_kernels(banded, monkeypatch, **waves())


MODELS = {
    "wide": (QD, 34.0, 24.0, 24),
    "tall": (QD, 24.0, 34.0, 24),
    "little more": (QD, 24.0, 25.0, 24),
    "Wigner": (TRI, 24.0, 0.0, 24),
}


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_outermost_eigenvalues_of_replicates_by_growing_blocks(wavy, name, above, monkeypatch):
    form, n, p, total = MODELS[name]
    spikes = np.array([9.0, 5.0]) if form == QD else np.array([60.0, 45.0]) * (1 if above else -1)
    words = np.array([7], dtype=np.uint64)
    num_rows = total if form == TRI else min(total + 2, int(p))
    counts, real = [], banded.factor
    monkeypatch.setattr(banded, "factor", lambda *args: counts.append(args[1]) or real(*args))
    blocks, assembled = [], banded.assemble
    for block, scale, with_overlaps in ((6, 1.0, True), (5, 0.1, False), (5, 20.0, False), (total, 1.0, False)):
        values, overlaps = np.zeros((2, 2)), np.zeros((2 if with_overlaps else 0, 2, 2))
        monkeypatch.setattr(banded, "assemble", lambda *args: blocks.append(args[3]) or assembled(*args))
        del blocks[:], counts[:]
        given = form, n, p, 1.0, spikes, total, block, scale, above, 2, words, 3
        longest = wavy.band_extremes(*given, values, overlaps)
        assert longest == max(blocks)
        assert blocks.count(block) == 2
        for before, after in itertools.pairwise(blocks):
            assert after in (block, min(total, before + before // 2 + 1))
        # Halvings of a bracket to rounding, and one factor for a vector.
        assert len(counts) <= len(blocks) * (2 * 58 + (2 if with_overlaps else 1))
        monkeypatch.setattr(banded, "assemble", assembled)
        split = len(blocks) - blocks[::-1].index(block) - 1
        for i, index in enumerate((3, 4)):
            rows, band = np.zeros((num_rows, 3), complex), np.zeros((total, 3), complex)
            wavy.draw_band(form, n, p, 1.0, spikes, words, index, rows, band)
            again, state = np.zeros_like(rows), np.array([1000 * index + 7], dtype=np.uint64)
            wavy.fill_band(form, n, p, 1.0, spikes, 0, num_rows, again, state)
            np.testing.assert_array_equal(rows, again)
            dense = from_band(band)
            if form == QD:
                factor = dense_of(rows, total)
                np.testing.assert_allclose(dense, factor.conj().T @ factor, atol=1e-10 * np.abs(dense).max())
            tried = (blocks[:split], blocks[split:])[i]
            for m in tried:
                part = np.zeros((m, 3), complex)
                wavy.assemble(form, rows, min(num_rows, m + 2) if form == QD else m, m, part)
                end = np.linalg.eigh(from_band(part))[1][-2:, -2 if above else 1]
                cut = np.linalg.norm(end) ** 2 * (part[m - 3, 0].real ** 2 if form == QD else n)
                assert (m != tried[-1]) == (m < total and cut > (1e-8 * scale) ** 2)
            exact, vectors = np.linalg.eigh(dense)
            if above:
                exact, vectors = exact[::-1], vectors[:, ::-1]
            np.testing.assert_allclose(
                values[i], exact[:2], atol=1e-7 * scale if block < total else 1e-11 * abs(exact).max()
            )
            if with_overlaps:
                seen = (
                    abs(vectors[:2]).T ** 2 if form == TRI else abs(factor[:2] @ vectors).T ** 2 / exact[:, np.newaxis]
                )
                np.testing.assert_allclose(overlaps[i], seen[:2], atol=1e-5)
