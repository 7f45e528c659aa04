import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtland.landscape.kernels import softmax
from rmtland.landscape.theory.bulk import bulk_atoms, residual_edge
from rmtland.landscape.theory.equivalent import DeterministicEquivalent
from rmtland.landscape.theory.examples import (
    StructuredExamples,
    count_negative,
    curvature_eigenvalues,
    example_terms,
    largest_eigenvalue,
    power_traces,
)
from rmtland.landscape.theory.population import scalar_sums
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
    structured = StructuredExamples(softmax(logits), labels, by_class)
    groups = [labels == y for y in range(c)] if by_class else [np.full(n, True)]
    for sums in (structured.sums(s, 3), structured.at(s, 3)):
        for j, power in enumerate(sums.powers):
            expected = np.array([np.linalg.matrix_power(b[g], j + 1).sum(axis=0) for g in groups]) / n
            np.testing.assert_allclose(power, expected, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(sums.pull, [pulls[g].sum(axis=0) / n for g in groups], rtol=1e-9, atol=1e-13)
        assert sums.form == pytest.approx(forms.mean(), rel=1e-9, abs=1e-13)
        if np.iscomplexobj(s):
            assert sums.log_det == pytest.approx(log_dets.mean(), rel=1e-9, abs=1e-13)
    first, second, third, log_det, form, pull = (x / n for x in scalar_sums(softmax(logits), labels, s, True))
    np.testing.assert_allclose(
        [first, second, third], np.trace([b, b @ b, b @ b @ b], axis1=2, axis2=3).sum(axis=1) / n, rtol=1e-8, atol=1e-12
    )
    assert form == pytest.approx(forms.mean(), rel=1e-9, abs=1e-13)
    if np.iscomplexobj(s):
        assert log_det == pytest.approx(log_dets.mean(), rel=1e-9, abs=1e-13)
    assert pull == pytest.approx(np.sum(pulls**2) / n, rel=1e-9, abs=1e-13)


def test_the_frozen_form_keeps_its_digits():
    # p = (1 - 3e, e, 2e) with label 0: at s = 0 the form is |p - y|^2 = 14 e^2, A_01 = -(1 - 3e) e.
    e = 1e-30
    structured = StructuredExamples(np.array([[1.0, e, 2 * e]]), np.array([0]))
    sums = structured.sums(0.0)
    assert sums.form == pytest.approx(14 * e * e, rel=1e-14)
    np.testing.assert_allclose(sums.powers[0][0][0], [3 * e, -e, -2 * e], rtol=1e-14)
    assert power_traces(np.array([[1.0, e, 2 * e]]), -1.0 + 1e-9)[0] == pytest.approx(6 * e, rel=1e-6)


def test_blocks_and_the_series(monkeypatch):
    logits, labels = examples(40, 3, 2.0, 0)
    whole = StructuredExamples(softmax(logits), labels).sums(0.2 + 0.1j, 3)
    monkeypatch.setattr("rmtland.landscape.theory.examples.BLOCK", 21)
    monkeypatch.setattr("rmtland.landscape.theory.examples.FEW_CLASSES", 0)
    parts = StructuredExamples(softmax(logits), labels)
    np.testing.assert_allclose(parts.sums(0.2 + 0.1j, 3).powers, whole.powers, rtol=1e-13, atol=1e-16)
    monkeypatch.setattr("rmtland.landscape.theory.examples.SERIES_BYTES", 0)
    assert parts._series is None
    np.testing.assert_array_equal(parts.at(0.2 + 0.1j).powers[0], parts.sums(0.2 + 0.1j).powers[0])


@given(st.integers(1, 9), st.integers(2, 6), SIGMAS, st.integers(0, 99))
def test_eigenvalues_of_the_curvatures(n, c, sigma, seed):
    logits, _ = examples(n, c, sigma, seed)
    p = softmax(logits)
    values = np.linalg.eigvalsh(curvatures(logits))[:, 1:]
    assert largest_eigenvalue(p) == pytest.approx(values.max(), rel=1e-9, abs=1e-15)
    np.testing.assert_allclose(curvature_eigenvalues(p), values, rtol=1e-5, atol=1e-11)
    for share in (0.2, 0.5, 0.9):
        u = share * values.max()
        # Below that the eigenvalues of the dense matrix are rounding.
        if u > 1e-12 and np.abs(values - u).min() > 1e-9 * u:
            assert count_negative(p, -1 / u) == np.sum(values > u)
    atoms, weights = bulk_atoms(p, 0.5, 3.0 * n)
    assert weights.sum() == pytest.approx(3.0 * n * (c - 1))
    assert atoms @ weights == pytest.approx(1.5 * values.sum(), rel=1e-5, abs=1e-10)


def test_without_numba_the_kernels_say_the_same():
    logits, labels = examples(5, 4, 1.0, 0)
    p = softmax(logits)
    for s in (0.3, 0.3 + 0.2j):
        dtype = np.asarray(s).dtype
        results = []
        for kernel in (example_terms, example_terms.py_func):
            left, right, pull = np.zeros((5, 16), dtype), np.zeros((5, 8), dtype), np.zeros(4, dtype)
            powers = np.zeros((3, 4, 4), dtype)
            results.append([*kernel(p, labels, s, left, right, powers, pull, True), left, right, powers, pull])
        for one, other in zip(*results, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13)
        for kernel in (power_traces, scalar_sums):
            arguments = (p, s) if kernel is power_traces else (p, labels, s, True)
            np.testing.assert_allclose(kernel(*arguments), kernel.py_func(*arguments), rtol=1e-12)
    assert count_negative(p, -6.0) == count_negative.py_func(p, -6.0)
    np.testing.assert_allclose(curvature_eigenvalues(p), curvature_eigenvalues.py_func(p), rtol=1e-13)


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


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("sigma", [0.0, 1.0, 15.0, 60.0])
def test_the_equivalent_against_the_dense_matrix(sigma, lengths, cross_terms):
    logits, labels = examples(25, 4, sigma, 3)
    means, residual, of_class = lengths
    t, a = dense_t(logits, labels, np.array(means), residual, of_class, cross_terms)
    equation = DeterministicEquivalent(
        StructuredExamples(softmax(logits), labels, of_class > 0),
        np.array(means),
        residual,
        of_class,
        100.0,
        cross_terms,
    )
    for relative in (-0.3 + 0.4j, -2.0 + 0.01j, 0.5, -20 + 30j, -0.9):
        m = relative / t[-1]
        got = equation.evaluate(m, 3, logs=True, form=True)
        expected = np.log(1 + m * t + 0j).sum(), (t / (1 + m * t)).sum(), -((t / (1 + m * t)) ** 2).sum()
        # On the real axis beyond the first pole the branch of the logarithm is not asked for.
        value = got.value if np.iscomplexobj(m) else complex(got.value.real, expected[0].imag)
        np.testing.assert_allclose([value, got.slope, got.curvature], expected, rtol=1e-10, atol=1e-13)
        assert got.form == pytest.approx(np.sum(a**2 / (1 + m * t)), rel=1e-10)
    assert equation.gradient_square == pytest.approx(np.sum(a**2), rel=1e-12)
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
    structured = StructuredExamples(softmax(logits), labels)
    dropped = DeterministicEquivalent(structured, np.ones(4), 0.7, 0.0, 100.0, cross_terms=False)
    m = (-0.3 + 0.4j) / t[-1]
    assert abs(dropped.evaluate(m).slope / np.sum(t / (1 + m * t)) - 1) > 1e-3
    turned = StructuredExamples(softmax(logits), (labels + 1) % 4)
    other = DeterministicEquivalent(turned, np.ones(4), 0.7, 0.0, 100.0)
    assert abs(other.evaluate(m, form=True).form / np.sum(a**2 / (1 + m * t)) - 1) > 1e-2


@pytest.mark.parametrize("sigma", [0.0, 1.0, 15.0, 60.0])
@pytest.mark.parametrize("d", [5.0, 200.0, 1e6])
def test_the_edge_of_the_residuals(sigma, d):
    logits, _ = examples(30, 4, sigma, 1)
    t = 0.49 / 30 * np.linalg.eigvalsh(curvatures(logits))[:, 1:].ravel()
    u, edge = residual_edge(softmax(logits), 0.7, 30, d)
    assert u > t.max()
    assert np.sum((t / (u - t)) ** 2) == pytest.approx(d, rel=1e-6)
    assert edge == pytest.approx(u + np.sum(t * u / (u - t)) / d, rel=1e-9)
    assert residual_edge(softmax(logits), 0.0, 30, d) == (0.0, 0.0)
    # A frozen network of which nothing is left.
    assert residual_edge(np.array([[1.0, 0.0]]), 0.7, 1, d) == (0.0, 0.0)
