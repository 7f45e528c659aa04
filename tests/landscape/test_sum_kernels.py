"""Kernels of the sums over examples and of the model as plain Python, against matrices written out."""

import mpmath as mp
import numpy as np
import pytest

from rmtland.landscape import kernels
from rmtland.landscape.theory import sums
from tests.plain_kernels import counted, plain_kernels


@pytest.fixture
def plain(monkeypatch):
    with np.errstate(all="ignore"):  # as compiled
        yield plain_kernels(sums, monkeypatch)


def digits_of(row, label, s):
    """B, R (p - y), the form, log det of one example in 45 digits: A = diag(p) - p p^T / sum p."""
    c = len(row)
    p = mp.matrix([mp.mpf(float(x)) for x in row])
    top = int(np.argmax(row))
    p[top] = 1 - sum(p[k] for k in range(c) if k != top)  # the digits that rounding has cut off
    a = mp.diag(p) - p * p.T
    r = (mp.eye(c) + mp.mpmathify(s) * a) ** -1
    residual = p.copy()
    residual[int(label)] -= 1
    pull = r * residual
    return (
        r * a,
        pull,
        (residual.T * pull)[0],
        sum(mp.log(1 + mp.mpmathify(s) * x) for x in mp.eigsy(a, eigvals_only=True)),
    )


def examples(c, kind):
    rng = np.random.default_rng(c)
    if kind == "frozen":
        others = 10.0 ** -rng.uniform(9, 30, (4, c - 1))
        p = np.insert(others, 1, 1 - others.sum(axis=1), axis=1)
    else:
        p = rng.dirichlet(np.ones(c), 4)
    return p, np.array([0, 1, c - 1, 1])


CASES = [(2, "any"), (3, "any"), (5, "any"), (3, "frozen"), (4, "frozen")]
POINTS = [0.3 + 0.2j, -0.4, 0.0, 3j - 4, 2.5, -1.3 + 1e-3j]


def close(found, expected, rtol):
    """Each entry to so many digits, complex or not."""
    expected = [complex(x) for x in expected]
    np.testing.assert_allclose(np.asarray(found, complex), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(("c", "kind"), CASES)
@pytest.mark.parametrize("s", POINTS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_rows_and_their_products_add_up_to_powers(plain, c, kind, s, order):
    p, labels = examples(c, kind)
    n, dtype = len(p), np.result_type(type(s), float)
    left, right = (np.empty((n, k * c), dtype) for k in ((4, 2) if order > 2 else (order, 1)))
    powers, errors = np.zeros((order, c, c), dtype), np.zeros(c, dtype)
    plain.example_rows(p, labels, s, left, right, powers, errors)
    assert not np.any(np.diagonal(powers, axis1=1, axis2=2))
    plain.add_products(left, right, powers)
    with mp.workdps(45):
        exact = [digits_of(row, y, s) for row, y in zip(p, labels, strict=True)]
        close(errors, [sum(x[1][k] for x in exact) for k in range(c)], 1e-11)
        expected = [sum((x[0] ** (j + 1) for x in exact[1:]), exact[0][0] ** (j + 1)) for j in range(order)]
        for j in range(order):
            for k in range(c):
                for other in range(k):
                    size = max(abs(x[0][k, other]) for x in exact)
                    found = powers[j, k, other] + powers[j, other, k]
                    assert abs(found - expected[j][k, other]) <= 1e-10 * max(abs(expected[j][k, other]), size**2)


@pytest.mark.parametrize(("c", "kind"), CASES)
@pytest.mark.parametrize("s", POINTS)
def test_scalars_and_entries_at_the_label(plain, c, kind, s):
    p, labels = examples(c, kind)
    found = plain.scalar_sums(p, labels, s, True)
    at_label = plain.label_sums(p, labels, s)
    with mp.workdps(45):
        exact = [digits_of(row, y, s) for row, y in zip(p, labels, strict=True)]
        trace = lambda m: sum(m[k, k] for k in range(c))  # noqa: E731
        close(found[:3], [sum(trace(x[0] ** j) for x in exact) for j in (1, 2, 3)], 1e-10)
        if np.iscomplexobj(s):
            assert abs(found[3] - complex(sum(x[3] for x in exact))) <= 1e-13 * len(exact) + 1e-10 * abs(found[3])
        close(found[4:], [sum(x[2] for x in exact), sum(sum(v**2 for v in x[1]) for x in exact)], 1e-10)
        entry = lambda j: sum((x[0] ** j)[y, y] for x, y in zip(exact, labels.tolist(), strict=True))  # noqa: E731
        pulls = [x[1][y] for x, y in zip(exact, labels.tolist(), strict=True)]
        close(at_label, [entry(1), entry(2), entry(3), sum(pulls), sum(x**2 for x in pulls)], 1e-10)
    without = plain.scalar_sums(p, labels, s, False)
    assert without[3] == 0
    assert without[:3] + without[4:] == found[:3] + found[4:]


@pytest.mark.parametrize("c", [2, 3, 6])
@pytest.mark.parametrize("sigma", [0.0, 1.0, 6.0, 40.0])
def test_eigenvalues_of_curvatures(plain, c, sigma, monkeypatch):
    rng = np.random.default_rng(1)
    p = np.exp(sigma * rng.normal(size=(5, c)))
    p = np.concatenate([p / p.sum(axis=1, keepdims=True), np.eye(c)[:1]])
    with mp.workdps(30):  # those of LAPACK err by 1e-15, and differ from one processor to another
        curvature = [mp.diag(row.tolist()) - mp.matrix(row) * mp.matrix(row).T for row in p]
        values = np.array([sorted(map(float, mp.eigsy(a, eigvals_only=True))) for a in curvature])
    np.testing.assert_allclose(plain.curvature_eigenvalues(p), values[:, 1:], rtol=1e-6, atol=1e-15)
    assert plain.largest_eigenvalue(p) == pytest.approx(values.max(), rel=3e-15)
    assert plain.largest_eigenvalue(p) >= values.max() * (1 - 1e-15)
    for x in (0.3, 0.03, 1e-3, 0.7 * values.max(), 1.001 * values.max()):
        assert plain.count_negative(p, -1 / x) == np.count_nonzero(values > x)
    # Examples that do not raise the largest are told by one count; the others take sixty.
    calls = counted(monkeypatch, sums, "count_negative")
    largest = values.max(axis=1)
    raises = sum(x > largest[:i].max(initial=0) for i, x in enumerate(largest))
    plain.largest_eigenvalue(p)
    if sigma:
        assert len(calls) == 60 * raises + len(p) - 1
    del calls[:]
    plain.largest_eigenvalue(np.repeat(p[:1], 7, axis=0))
    assert len(calls) == 66


def test_eigenvalues_of_frozen_curvatures_keep_their_digits(plain):
    e = 1e-30
    p = np.array([[e, 1.0, 2 * e, 5 * e]])
    # To first order diag of the small ones; the largest, with 1, is (A^2)_11 / A_11 = sum of theirs and more.
    with mp.workdps(80):
        q = [mp.mpf(float(x)) for x in p[0]]
        q[1] = 1 - sum(q[:1] + q[2:])
        exact = sorted(mp.eigsy(mp.diag(q) - mp.matrix(q) * mp.matrix(q).T, eigvals_only=True))[1:]
    np.testing.assert_allclose(plain.curvature_eigenvalues(p)[0], [float(x) for x in exact], rtol=1e-6)
    assert plain.largest_eigenvalue(p) == pytest.approx(float(exact[-1]), rel=1e-14)


def test_equal_probabilities_are_eigenvalues_themselves(plain):
    # Of A = diag(p) - p p^T with p = (1/4, 1/4, 1/2): 1/4 and, by the trace, 5/8 - 1/4 = 3/8; zeros stay zeros.
    np.testing.assert_allclose(plain.curvature_eigenvalues(np.array([[0.25, 0.5, 0.25]])), [[0.25, 0.375]], rtol=1e-6)
    np.testing.assert_allclose(plain.curvature_eigenvalues(np.array([[0.0, 0.5, 0.5]])), [[0.0, 0.5]], rtol=1e-6)
    tiny = 5e-324
    assert plain.curvature_eigenvalues(np.array([[1.0, tiny, 2 * tiny]]))[0, 0] in (tiny, 2 * tiny)


@pytest.fixture
def model(monkeypatch):
    return plain_kernels(kernels, monkeypatch)


def test_softmax_of_rows(model):
    logits = np.array(
        [[1.0, 3.0, 2.0], [1000.0, 1000.0, -1000.0], [-5.0, -800.0, -5.5], [900.0, 1.0, 2.0], [1.0, 900.0, 2.0]]
    )
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(model.softmax(logits), weights / weights.sum(axis=1, keepdims=True), rtol=1e-15)


def test_curvatures_times_tangents(model):
    rng = np.random.default_rng(2)
    p = np.concatenate([rng.dirichlet(np.ones(4), 3), [[1e-20, 1.0, 2e-20, 0.0]]])
    tangents = rng.normal(size=(4, 4, 2))
    found = model.apply_logit_hessian(p, tangents)
    curvature = np.array([np.diag(row) - np.outer(row, row) for row in p[:3]])
    np.testing.assert_allclose(found[:3], curvature @ tangents[:3], rtol=1e-12)
    # At a frozen example A u = p (u - u_top), and at the top what is left over.
    moved = tangents[3] - tangents[3, 1]
    expected = p[3][:, np.newaxis] * moved
    expected[1] = -expected.sum(axis=0)
    np.testing.assert_allclose(found[3], expected, rtol=1e-14)


def test_weighted_rows_are_a_root_of_the_gauss_newton_matrix(model):
    rng = np.random.default_rng(3)
    n, c, d = 5, 4, 7
    p = rng.dirichlet(np.ones(c), n)
    p[4] = [1.0, 0.0, 0.0, 0.0]
    centres, residuals = rng.normal(size=(2, c, d)), rng.normal(size=(n, c, d))
    groups = np.array([0, 1, 1, 0, 1])
    rows = model.weighted_rows(p, centres, groups, residuals, 50)
    assert rows.shape == (n * (c - 1), d)
    for mu in range(n):
        x = centres[groups[mu]] + residuals[mu]
        own = rows[mu * (c - 1) : (mu + 1) * (c - 1)]
        a = np.diag(p[mu]) - np.outer(p[mu], p[mu])
        np.testing.assert_allclose(own.T @ own, x.T @ a @ x / 50, rtol=1e-10, atol=1e-14)
    # Row k stands for class k against the mean of the classes after it.
    x = centres[0] + residuals[0]
    later = p[0, 2:] @ x[2:] / p[0, 2:].sum()
    share = p[0, 1] * p[0, 2:].sum() / p[0, 1:].sum() / 50
    np.testing.assert_allclose(rows[1], np.sqrt(share) * (x[1] - later), rtol=1e-12)
    np.testing.assert_array_equal(rows[-3:], 0)
