import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland.landscape.kernels import softmax
from rmtland.landscape.theory import examples as of_examples
from rmtland.landscape.theory import sums as kernels
from rmtland.landscape.theory.examples import GivenExamples, zero_sum_matrices, zero_sum_vectors
from rmtland.landscape.theory.exchangeable import ExchangeableExamples
from rmtland.landscape.theory.levels import Residuals, levels_of
from rmtland.landscape.theory.transitions import residual_edge
from rmtland.laws.subordination import Point, Subordination
from tests.landscape.dense_theory import curvatures, dense_t, examples

POINTS = [0.3 + 0.2j, -0.4, 0.0, 3j - 4, 2.5, -1.0 + 1e-3j]
SIGMAS = st.sampled_from([0.0, 0.1, 1.0, 15.0, 60.0])


def by_matrices(logits, labels, s):
    """B, R (p - y), the form and log det of each example by inverses and eigenvalues."""
    identity = np.eye(logits.shape[1])
    p = softmax(logits)
    a = curvatures(logits)
    r = np.linalg.inv(identity + s * a)
    residual = p - identity[labels]
    pulls = np.einsum("nkl,nl->nk", r, residual)
    log_dets = np.log(np.linalg.eigvals(identity + s * a) + 0j).sum(axis=1)
    return r @ a, pulls, np.sum(residual * pulls, axis=1), log_dets


@given(st.integers(2, 9), st.integers(2, 6), SIGMAS, st.integers(0, 99), st.sampled_from(POINTS), st.booleans())
def test_sums_against_inverses(n, c, sigma, seed, s, by_class):
    logits, labels = examples(n, c, sigma, seed)
    b, pulls, forms, log_dets = by_matrices(logits, labels, s)
    given_to = GivenExamples(softmax(logits), labels, float(n), by_class)
    groups = [labels == y for y in range(c)] if by_class else [np.full(n, True)]
    powers, errors = given_to.matrices(s, 3)
    expected = [np.array([np.linalg.matrix_power(b[g], j + 1).sum(axis=0) for g in groups]) / n for j in range(3)]
    np.testing.assert_allclose(powers, expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(errors, [pulls[g].sum(axis=0) / n for g in groups], rtol=1e-9, atol=1e-13)
    seen = given_to.seen(s, 2)
    for j, (derivative, factor) in enumerate(zip(seen.curvature, (1, -1, 2), strict=True)):
        np.testing.assert_allclose(derivative, factor * zero_sum_matrices(expected[j]), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(seen.errors, zero_sum_vectors(errors), rtol=1e-9, atol=1e-13)
    found = given_to.scalars(s, True)
    traces = np.trace([b, b @ b, b @ b @ b], axis1=2, axis2=3).sum(axis=1) / n
    np.testing.assert_allclose(found.traces, traces, rtol=1e-8, atol=1e-12)
    assert found.quadratic == pytest.approx(forms.mean(), rel=1e-9, abs=1e-13)
    assert found.square == pytest.approx(np.sum(pulls**2) / n, rel=1e-9, abs=1e-13)
    if np.iscomplexobj(s):
        assert found.log_det == pytest.approx(log_dets.mean(), rel=1e-9, abs=1e-13)


@given(st.integers(2, 7), st.integers(0, 99))
def test_the_basis_of_zero_sum_vectors_is_orthonormal(c, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, c))
    a, b = a - a.mean(), b - b.mean()
    assert zero_sum_vectors(a) @ zero_sum_vectors(b) == pytest.approx(a @ b, abs=1e-12)
    outer = np.outer(a, b) + np.outer(b, a)
    assert zero_sum_vectors(a) @ zero_sum_matrices(outer) @ zero_sum_vectors(b) == pytest.approx(a @ outer @ b)
    lengths = rng.uniform(size=c) * (rng.uniform(size=c) > 0.3)
    factor = GivenExamples(np.full((1, c), 1 / c), np.zeros(1, int), 1.0).factor(lengths)
    if np.ptp(lengths) > 0:
        np.testing.assert_allclose(np.sum((zero_sum_vectors(a) @ factor) ** 2), a @ (lengths**2 * a), rtol=1e-9)


def test_the_frozen_form_keeps_its_digits():
    # p = (1 - 3e, e, 2e) with label 0: at s = 0 the form is |p - y|^2 = 14 e^2, A_01 = -(1 - 3e) e.
    e = 1e-30
    frozen = GivenExamples(np.array([[1.0, e, 2 * e]]), np.array([0]), 1.0)
    assert frozen.at_zero.quadratic == pytest.approx(14 * e * e, rel=1e-14, abs=0)
    np.testing.assert_allclose(frozen.matrices(0.0, 1)[0][0, 0, 0], [3 * e, -e, -2 * e], rtol=1e-14)
    assert frozen.scalars(-1.0 + 1e-9).traces[0] == pytest.approx(6 * e, rel=1e-6, abs=0)


@pytest.mark.parametrize("s", [0.0, 0.3 + 0.2j, 2.5, 3000 + 1000j])
def test_sums_in_a_unit_of_the_probabilities(s):
    """Nearly frozen logits, by inverses in a unit of 1: A in another, 1/s with it, squares of R (p - y) with A."""
    logits, labels = examples(7, 4, 0.3, 0)
    logits[np.arange(7), labels] += 8
    labels = (labels + (np.arange(7) < 4)) % 4
    p = softmax(logits)
    unit = 4 * float(np.sort(p, axis=1)[:, :-1].sum(axis=1).max())
    b, pulls, forms, log_dets = by_matrices(logits, labels, s / unit)
    matrices = [b / unit, b @ b / unit**2, b @ b @ b / unit**3]
    in_units = GivenExamples(p / unit, labels, 7.0, False, unit)
    found, seen = in_units.scalars(s, True), in_units.seen(s, 2)
    np.testing.assert_allclose(found.traces, [np.trace(x, axis1=1, axis2=2).mean() for x in matrices], rtol=1e-9)
    np.testing.assert_allclose(found.log_det, log_dets.mean(), rtol=1e-9)
    np.testing.assert_allclose(found.quadratic, forms.mean() / unit, rtol=1e-9)
    np.testing.assert_allclose(found.square, np.sum(pulls**2) / 7 / unit, rtol=1e-9)
    for derivative, x, factor in zip(seen.curvature, matrices, (1, -1, 2), strict=True):
        expected = factor * zero_sum_matrices(x.mean(axis=0))
        np.testing.assert_allclose(derivative[0], expected, rtol=1e-8, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(seen.errors[0], zero_sum_vectors(pulls.mean(axis=0)) / unit**0.5, rtol=1e-8)
    entries, mean, square = ExchangeableExamples(p / unit, labels, 7.0, True, unit)._at_label(s)
    every = np.arange(7)
    np.testing.assert_allclose(entries, [x[every, labels, labels].mean() for x in matrices], rtol=1e-9)
    np.testing.assert_allclose(mean, pulls[every, labels].mean() / unit**0.5, rtol=1e-9)
    np.testing.assert_allclose(square, np.mean(pulls[every, labels] ** 2) / unit, rtol=1e-9)


def test_frozen_probabilities_are_kept_in_a_unit():
    """Four times the most that an example has off its top class, which is cut at 1e100 of that unit."""
    logits = np.array([[100.0, 1.0, 0.0], [-3.0, 157.0, 0.0]])
    for more, cut in ((0.0, np.inf), (200.0, 1e100)):
        logits[[0, 1], [0, 1]] += more
        p, unit = of_examples.probabilities_in_units(logits)
        assert unit == pytest.approx(4 * (np.exp(-99 - more) + np.exp(-100 - more)), rel=1e-13, abs=0)
        expected = [[1.0, np.exp(-99 - more), np.exp(-100 - more)], [np.exp(-160 - more), 1.0, np.exp(-157 - more)]]
        np.testing.assert_allclose(p, np.minimum(np.array(expected) / unit, cut), rtol=1e-12)
    plain, one = of_examples.probabilities_in_units(logits, rescale=False)
    assert one == 1.0
    np.testing.assert_allclose(plain, softmax(logits), rtol=1e-14)
    # 1e-30 off the top needs no unit, less does.
    for margin, frozen in ((69.0, False), (69.1, True)):
        assert (of_examples.probabilities_in_units(np.array([[margin, 0.0]]))[1] < 1) == frozen
    with pytest.raises(ValueError, match="`logits` must leave some curvature"):
        of_examples.probabilities_in_units(np.array([[700.0, 0.0]]))


def test_counts_stand_for_all_examples():
    logits, labels = examples(9, 4, 1.0, 2)
    values = np.linalg.eigvalsh(curvatures(logits))
    given_to = GivenExamples(softmax(logits), labels, 27.0)
    for u in (0.05, 0.2, 0.3):
        assert given_to.count_above(-1 / u) == 3 * np.sum(values > u)
    assert given_to.count_above(0.0) == given_to.count_above(0.5) == 0


def test_bare_examples_have_no_term():
    logits, labels = examples(9, 4, 1.0, 2)
    bare = Residuals(GivenExamples(softmax(logits), labels, 9.0), 0.0)
    part = bare.at(Point(0.4, 2))
    assert part.psi == (0.0, 0.0, 0.0)
    assert part.quadratic == bare.rank == bare.count_above(Point(-50.0, 0)) == 0
    assert [x.size for x in bare.rough_atoms()] == [0, 0]
    (seen,) = part.passed().curvature[0]
    np.testing.assert_allclose(seen, zero_sum_matrices(curvatures(logits).mean(axis=0)), rtol=1e-12, atol=1e-15)


def test_blocks_and_the_series(monkeypatch):
    logits, labels = examples(40, 3, 2.0, 0)
    whole = GivenExamples(softmax(logits), labels, 40.0).matrices(0.2 + 0.1j, 3)[0]
    monkeypatch.setattr(of_examples, "BLOCK", 21)
    monkeypatch.setattr(of_examples, "FEW_CLASSES", 0)
    parts = GivenExamples(softmax(logits), labels, 40.0)
    np.testing.assert_allclose(parts.matrices(0.2 + 0.1j, 3)[0], whole, rtol=1e-13, atol=1e-16)
    monkeypatch.setattr(of_examples, "SERIES_BYTES", 0)
    assert parts._series is None
    np.testing.assert_array_equal(
        parts.seen(0.2 + 0.1j, 0).curvature[0], zero_sum_matrices(parts.matrices(0.2 + 0.1j, 1)[0][0])
    )


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("s", [0.0, -1.2, 0.3 + 0.4j])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("few", "block"), [(0, 1), (0, 16), (16, 9), (16, 1 << 16)])
def test_sums_by_loops_and_by_blas_in_blocks_of_any_size(monkeypatch, few, block, order, s, by_class):
    logits, labels = examples(23, 4, 2.0, 0)
    labels[labels == 2] = 1  # a class is absent
    monkeypatch.setattr(of_examples, "FEW_CLASSES", few)
    monkeypatch.setattr(of_examples, "BLOCK", block)
    given_to = GivenExamples(softmax(logits), labels, 23.0, by_class)
    parts = given_to._blocks()
    assert sorted(i for _, part in parts for i in range(part.start, part.stop)) == list(range(23))
    assert max(part.stop - part.start for _, part in parts) <= max(block // 4, 4)
    if by_class:
        assert all((given_to.labels[part] == y).all() for y, part in parts)
    b, pulls, _, _ = by_matrices(logits, labels, s)
    groups = [labels == y for y in range(4)] if by_class else [np.full(23, True)]
    powers, errors = given_to.matrices(s, order)
    assert np.iscomplexobj(powers) == np.iscomplexobj(s)
    expected = [[np.linalg.matrix_power(b[g], j + 1).sum(axis=0) / 23 for g in groups] for j in range(order)]
    np.testing.assert_allclose(powers, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(errors, [pulls[g].sum(axis=0) / 23 for g in groups], rtol=1e-10, atol=1e-14)
    # The same from a power series, where there is one.
    seen, exact = given_to.seen(s, order - 1), given_to._reduced(s, order)
    for derivative, k, factor in zip(seen.curvature, exact[0], (1, -1, 2), strict=False):
        np.testing.assert_allclose(derivative, factor * k, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(seen.errors, exact[1], rtol=1e-9, atol=1e-13)
    assert seen.copies.tolist() == [1.0] * len(groups)


def test_eigenvalues_are_binned_finely_over_fourteen_decades(monkeypatch):
    """Each for its neighbours, within 1/21 of a decade near the largest and within half of one far below."""
    logits, _ = examples(60, 5, 30.0, 1)
    p = softmax(logits)
    values = np.sort(kernels.curvature_eigenvalues(p).ravel())[::-1]
    atoms, weights = GivenExamples(p, np.zeros(60, int), 120.0).curvatures
    counts = (weights / 2).astype(int)
    assert counts.sum() == values.size
    assert counts.size < values.size
    widths = []
    for atom, group in zip(atoms, np.split(values, np.cumsum(counts)[:-1]), strict=True):
        assert atom == pytest.approx(group.mean(), rel=1e-12)
        near = group[0] >= 1e-14 * values[0]
        assert group[0] / max(group[-1], 1e-69 * values[0]) < 10 ** (1 / 21 if near else 1 / 2) * (1 + 1e-9)
        widths.append((np.log10(group[0] / group[-1]), near))
    # No finer than told: neighbours of one bin are together.
    assert max(w for w, near in widths if near) > 0.6 / 21
    # Of many examples every so manieth.
    monkeypatch.setattr(of_examples, "SAMPLE", 60 * 25 / 3)
    some, weights = GivenExamples(p, np.zeros(60, int), 120.0).curvatures
    assert weights.sum() == pytest.approx(120 * 4)
    third = kernels.curvature_eigenvalues(np.ascontiguousarray(p[::3]))
    assert some @ weights == pytest.approx(6 * third.sum(), rel=1e-12)


def test_ranks_and_costs_of_examples():
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    given_to = GivenExamples(p, np.zeros(3, int), 6.0)
    assert given_to.rank == 6 * (0 + 1 + 2) / 3
    assert (given_to.cost, given_to.num_classes) == (27.0, 3)
    assert ExchangeableExamples(p, np.zeros(3, int), 6.0).cost == 9.0


@pytest.mark.parametrize("lengths", [(1.0, 2.0, 0.5, 3.0), (0.0, 2.0, 0.5, 0.0), (2.0, 2.0, 2.0, 2.0)])
@pytest.mark.parametrize("absent", [False, True])
def test_factors_are_roots_of_lengths_where_there_is_curvature(lengths, absent):
    """F F^T is diag(lengths^2) on zero-sum vectors; directions without curvature are left out."""
    logits, labels = examples(9, 4, 1.0, 0)
    if absent:
        logits[:, 1] = -800.0
    lengths = np.array(lengths)
    given_to = GivenExamples(softmax(logits), labels, 9.0)
    factor = given_to.factor(lengths)
    (found,) = given_to.seen(0.0, 0).scaled(factor).curvature.value
    mean = curvatures(logits).mean(axis=0)
    expected = np.linalg.eigvalsh(lengths[:, None] * mean * lengths)
    rank = np.count_nonzero(expected > 1e-12 * expected[-1])
    assert found.shape == (rank, rank)
    np.testing.assert_allclose(np.linalg.eigvalsh(found), expected[-rank:], rtol=1e-9)
    assert (np.ndim(factor) == 0) == (np.ptp(lengths) == 0 and not absent)


@given(st.integers(1, 9), st.integers(2, 6), SIGMAS, st.integers(0, 99))
def test_eigenvalues_of_the_curvatures(n, c, sigma, seed):
    logits, _ = examples(n, c, sigma, seed)
    p = softmax(logits)
    values = np.linalg.eigvalsh(curvatures(logits))[:, 1:]
    assert kernels.largest_eigenvalue(p) == pytest.approx(values.max(), rel=1e-9, abs=1e-15)
    np.testing.assert_allclose(kernels.curvature_eigenvalues(p), values, rtol=1e-5, atol=1e-11)
    for share in (0.2, 0.5, 0.9):
        u = share * values.max()
        # Below that the eigenvalues of the dense matrix are rounding.
        if u > 1e-12 and np.abs(values - u).min() > 1e-9 * u:
            assert kernels.count_negative(p, -1 / u) == np.sum(values > u)
    atoms, weights = GivenExamples(p, np.zeros(n, int), 3.0 * n).curvatures
    assert weights.sum() == pytest.approx(3.0 * n * (c - 1))
    assert atoms @ weights == pytest.approx(3 * values.sum(), rel=1e-5, abs=1e-10)


def test_an_example_without_curvature_has_no_eigenvalue():
    frozen, other = [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]
    assert kernels.largest_eigenvalue(np.array([frozen, frozen])) == 0.0
    for p in ([frozen, other], [other, frozen]):
        assert kernels.largest_eigenvalue(np.array(p)) == pytest.approx(0.5, rel=1e-14)


def test_without_numba_the_kernels_say_the_same():
    logits, labels = examples(5, 4, 1.0, 0)
    p = softmax(logits)
    for s in (0.3, 0.3 + 0.2j):
        dtype = np.asarray(s).dtype
        results = []
        for kernel in (kernels.example_rows, kernels.example_rows.py_func):
            left, right, errors = np.zeros((5, 16), dtype), np.zeros((5, 8), dtype), np.zeros(4, dtype)
            powers = np.zeros((3, 4, 4), dtype)
            kernel(p, labels, s, left, right, powers, errors)
            results.append([left, right, powers, errors])
        for one, other in zip(*results, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13)
        scalar_sums = kernels.scalar_sums
        np.testing.assert_allclose(scalar_sums(p, labels, s, True), scalar_sums.py_func(p, labels, s, True), rtol=1e-12)
    assert kernels.count_negative(p, -6.0) == kernels.count_negative.py_func(p, -6.0)
    np.testing.assert_allclose(kernels.curvature_eigenvalues(p), kernels.curvature_eigenvalues.py_func(p), rtol=1e-13)


LENGTHS = [
    ((1.0, 1.0, 1.0, 1.0), 0.7, 0.0),
    ((1.0, 1.0, 1.0, 1.0), 0.7, 0.5),
    ((0.7, 2.0, 0.0, 3.0), 0.7, 0.5),
    ((0.7, 2.0, 1.0, 3.0), 0.3, 0.0),
    ((1.0, 1.0, 1.0, 1.0), 0.0, 0.0),
    ((1.0, 1.0, 1.0, 1.0), 0.0, 0.4),
    ((0.0, 0.0, 0.0, 0.0), 0.7, 0.0),
    ((0.0, 0.0, 0.0, 0.0), 0.7, 0.5),
]


def equation_of(logits, labels, means, residual, of_class, cross_terms=True):
    """The equation of lengths with D = 100."""
    relative = None if np.ptp(means) == 0 else tuple(means)
    law = rl.ClusteredGradients(means[0] if relative is None else 1.0, residual, of_class, relative)
    given_to = GivenExamples(softmax(logits), labels, float(len(labels)), of_class > 0)
    return Subordination(levels_of(given_to, law, cross_terms), 100.0)


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("sigma", [0.0, 1.0, 15.0, 60.0])
def test_the_equivalent_against_the_dense_matrix(sigma, lengths, cross_terms):
    logits, labels = examples(25, 4, sigma, 3)
    means, residual, of_class = lengths
    t, a = dense_t(logits, labels, np.array(means), residual, of_class, cross_terms)
    equation = equation_of(logits, labels, means, residual, of_class, cross_terms)
    for relative in (-0.3 + 0.4j, -2.0 + 0.01j, 0.5, -20 + 30j, -0.9):
        m = relative / t[-1]
        got = equation.evaluate(m, 2, logs=True)
        expected = np.log(1 + m * t + 0j).sum(), (t / (1 + m * t)).sum(), -((t / (1 + m * t)) ** 2).sum()
        # On the real axis beyond the first pole the branch of the logarithm is not asked for.
        value = got.psi.value if np.iscomplexobj(m) else complex(got.psi.value.real, expected[0].imag)
        np.testing.assert_allclose([value, got.psi.first, got.psi.second], expected, rtol=1e-10, atol=1e-13)
        # What was not asked for is not there.
        assert np.isnan(equation.evaluate(m, 1).psi.second)
        assert np.isnan(equation.evaluate(m, 2).psi.value)
        assert got.quadratic == pytest.approx(np.sum(a**2 / (1 + m * t)), rel=1e-10)
    assert equation.vector_square == pytest.approx(np.sum(a**2), rel=1e-12)
    np.testing.assert_allclose(equation.power_sums, [t.sum(), np.sum(t**2)], rtol=1e-12)
    for u in t[-1] * np.array([1.01, 0.7, 0.31, 0.1, 0.011]):
        if np.abs(t - u).min() > 1e-9 * u:
            assert equation.atoms_above(float(u)) == np.sum(t > u)
    if sigma < 15:
        assert equation.rank == np.sum(t > 1e-12 * t[-1])


def test_mutants_of_the_equivalent_are_rejected():
    # Cross terms dropped, and the gradient's sign (y for p): both far beyond the tolerance above.
    logits, labels = examples(25, 4, 3.0, 3)
    t, a = dense_t(logits, labels, np.ones(4), 0.7, 0.0)
    dropped = equation_of(logits, labels, (1.0,) * 4, 0.7, 0.0, cross_terms=False)
    m = (-0.3 + 0.4j) / t[-1]
    assert abs(dropped.evaluate(m).psi.first / np.sum(t / (1 + m * t)) - 1) > 1e-3
    other = equation_of(logits, (labels + 1) % 4, (1.0,) * 4, 0.7, 0.0)
    assert abs(other.evaluate(m).quadratic / np.sum(a**2 / (1 + m * t)) - 1) > 1e-2


@pytest.mark.parametrize("sigma", [0.0, 1.0, 15.0, 60.0])
@pytest.mark.parametrize("d", [5.0, 200.0, 1e6])
def test_the_edge_of_the_residuals(sigma, d):
    logits, _ = examples(30, 4, sigma, 1)
    t = 0.49 / 30 * np.linalg.eigvalsh(curvatures(logits))[:, 1:].ravel()
    given_to = GivenExamples(softmax(logits), np.zeros(30, int), 30.0)
    u, edge = residual_edge(given_to, 0.7, d)
    assert u > t.max()
    assert np.sum((t / (u - t)) ** 2) == pytest.approx(d, rel=1e-6)
    assert edge == pytest.approx(u + np.sum(t * u / (u - t)) / d, rel=1e-9)
    assert residual_edge(given_to, 0.0, d) == (0.0, 0.0)


def test_eigenvalues_between_subnormal_probabilities():
    """Neighbouring numbers there are further apart than the precision asked for: the bisection must end."""
    p = np.array([[1.0, 1.25171531e-319, 1.2518e-319, 0.0]])
    zero, low, high = kernels.curvature_eigenvalues(p)[0]
    assert zero == 0.0
    assert 1.25e-319 < low < 1.2519e-319
    assert high == pytest.approx(3 * 1.2518e-319, rel=1e-4, abs=0)
