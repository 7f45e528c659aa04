"""Moments weighed by curvature against loops over pairs, and against laws of known moments."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import rmtland as rl
from rmtland.logits import curvature_moments as module
from tests import oracles
from tests.statistical import assert_mean

N, C, D = 9, 3, 12


def source_of(scale=1.0):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(N, C, D)) + rng.normal(size=(C, D))
    return rl.DenseLogitGradients(scale * rng.normal(size=(N, C)), rng.integers(C, size=N), gradients)


def turned(spread):
    """Covariances across logits with 1 as an eigenvector, in 4000 turned directions."""
    rng = np.random.default_rng(1)
    values = 1 + spread * np.array([-1.0, 1.0])  # C - 1 = 2 eigenvalues
    found = []
    for _ in range(4000):
        normal = rng.standard_normal((C, C))
        normal[:, 0] = 1.0
        basis = np.linalg.qr(normal)[0]
        found.append((basis * [1.0, *values]) @ basis.T)
    return np.array(found)


def by_loops(source):
    """All from sums over pairs of examples, and the equations of the docstring."""
    curved = []
    for z in source.logits:
        p = oracles.softmax(z)
        curved.append(np.diag(p) - np.outer(p, p))
    mean = pairs = alike = same = 0.0
    gram, flat = np.zeros((C, C)), np.eye(C) - 1 / C
    for i, (a, j) in enumerate(zip(curved, source.gradients, strict=True)):
        for k, (b, other) in enumerate(zip(curved, source.gradients, strict=True)):
            inner = j @ other.T
            square = np.trace(a @ inner @ b @ inner.T)
            if i == k:
                same += square
                continue
            mean += np.trace(a @ inner @ b)
            pairs += np.trace(a @ b)
            alike += square
            gram += np.trace(a) * np.trace(b) * flat @ inner @ flat
    m = mean / pairs
    e = sum(np.trace(a @ j @ j.T) for a, j in zip(curved, source.gradients, strict=True)) / sum(map(np.trace, curved))
    e -= m
    values = np.linalg.eigvalsh(gram)
    values = values[np.argsort(np.abs(values))[1:]]  # without that of 1
    of_logits = min(values.std() / values.mean(), 1.0)
    # P, T, a and b as means over turned B.
    across = turned(of_logits)
    sandwiched = np.einsum("nij,xjk->xnik", np.array(curved), across)
    products = np.einsum("xnik,xmki->xnm", sandwiched, sandwiched).mean(axis=0)
    traces = np.einsum("xnii->xn", sandwiched)
    both = np.einsum("xn,xm->nm", traces, traces) / len(across)
    off = ~np.eye(N, dtype=bool)
    share = ((alike - m**2 * products[off].sum()) / both[off].sum() - 2 * m * e / D) / e**2
    a, b = np.trace(products), np.trace(both)
    ratio = (same - (m**2 + 2 * m * e) * a - 2 * m * e * (a + b) / D) / (e**2 * (a + (a + b) * share))
    return math.sqrt(m), math.sqrt(e), 1 / share, math.sqrt(max(ratio - 1, 0.0)), of_logits


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_against_loops(scale):
    source = source_of(scale)
    found = rl.curvature_moments(source)
    expected = by_loops(source)
    assert expected[-1] > 0.1
    # 4000 directions are 2% of the spread's part of the sums.
    np.testing.assert_allclose(dataclasses.astuple(found)[:5], expected, rtol=0.03)
    exact = dataclasses.astuple(found)[0], dataclasses.astuple(found)[1], found.logit_spread
    np.testing.assert_allclose(exact, [*expected[:2], expected[-1]], rtol=1e-9)
    lengths = rl.curvature_scales(source)
    assert found.mean_length == pytest.approx(lengths.mean_length)
    assert found.residual_length == pytest.approx(lengths.residual_length)
    # In any unit.
    tiny = rl.curvature_moments(rl.DenseLogitGradients(source.logits, source.labels, 1e-120 * source.gradients))
    assert tiny.effective_dimension == pytest.approx(found.effective_dimension)
    assert tiny.residual_length == pytest.approx(1e-120 * found.residual_length, rel=1e-9, abs=0)
    # Of the Gram matrix, less the mean over logits too: the curvature does not see it.
    again = rl.curvature_moments(rl.logit_gradient_gram(source).centered())
    assert again.effective_dimension == pytest.approx(found.effective_dimension)
    assert again.length_spread == pytest.approx(found.length_spread, abs=1e-6)


def test_two_logits_have_one_direction_and_no_spread():
    rng = np.random.default_rng(4)
    n = 40
    logits, labels = rng.normal(size=(n, 2)), np.arange(n) % 2
    lengths = rng.exponential(size=(n, 1, 1))
    gradients = lengths * rng.normal(size=(n, 2, D)) / np.arange(1, D + 1) + rng.normal(size=(2, D))
    found = rl.curvature_moments(rl.DenseLogitGradients(logits, labels, gradients))
    # A = a u u^T, u = (1, -1) / sqrt 2: one vector for each example.
    p = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    a = 2 * p * (1 - p)
    vectors = (gradients[:, 0] - gradients[:, 1]) / np.sqrt(2)
    inner, weights = vectors @ vectors.T, np.outer(a, a)
    off, own = weights * ~np.eye(n, dtype=bool), np.sum(a**2)
    mean = np.sum(off * inner) / off.sum()
    rest = a @ np.diag(inner) / a.sum() - mean
    share = (np.sum(off * inner**2) / off.sum() - mean**2 - 2 * mean * rest / D) / rest**2
    fourth = np.sum(a**2 * np.diag(inner) ** 2) / own - mean**2 - 2 * mean * rest * (1 + 2 / D)
    spread = math.sqrt(fourth / (rest**2 * (1 + 2 * share)) - 1)
    assert mean > 0 < share < 1
    expected = math.sqrt(mean), math.sqrt(rest), 1 / share, spread, 0.0
    np.testing.assert_allclose(dataclasses.astuple(found)[:5], expected, rtol=1e-9)


def test_known_laws_give_their_numbers_back():
    law = rl.UnevenGradients(0.6, 1.0, effective_dimension=25.0, length_spread=0.9, logit_spread=0.6)
    model = rl.LandscapeModel(150, 4, 400, rl.UnfrozenLogits(2.0, 2.0, 2.0), law)
    found = [rl.curvature_moments(model.sample(rng=i)) for i in range(100)]
    assert_mean([f.mean_length**2 for f in found], 0.36, bias=0.01, detect=0.15)
    assert_mean([f.residual_length**2 for f in found], 1.0, bias=0.02, detect=0.3)
    assert_mean([1 / f.effective_dimension for f in found], 1 / 25, bias=0.001, detect=0.02)
    assert_mean([f.length_spread**2 for f in found], 0.81, bias=0.1, detect=0.7)
    assert_mean([f.logit_spread**2 for f in found], 0.36, bias=0.03, detect=0.3)


def test_isotropic_residuals_of_one_length():
    law = rl.AnisotropicGradients.clustered(4, 1.0, 0.7)  # means at right angles exactly
    model = rl.LandscapeModel(150, 4, 400, rl.GaussianLogits(2.0), law)
    found = [rl.curvature_moments(model.sample(rng=i)) for i in range(30)]
    assert_mean([1 / f.effective_dimension for f in found], 1 / 400, bias=1e-4, detect=0.003)
    assert_mean([f.length_spread**2 for f in found], 0.0, bias=0.02, detect=0.2)
    # The stated error is that of other examples: neither half nor 1.5 times, with 30 draws.
    stated = np.mean([f.residual_length_error**2 for f in found]) ** 0.5
    assert 0.7 < stated / np.std([f.residual_length for f in found], ddof=1) < 1.35


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_errors_are_what_leaving_out_an_example_changes(scale):
    source = source_of(scale)
    names = ["mean_length", "residual_length", "effective_dimension", "length_spread", "logit_spread"]
    found, left = rl.curvature_moments(source), []
    for i in range(N):
        some = np.arange(N) != i
        arrays = (source.logits[some], source.labels[some], source.gradients[some])
        left.append(rl.curvature_moments(rl.DenseLogitGradients(*arrays)))
    for name in names:
        values = np.array([getattr(one, name) for one in left])
        if name == "effective_dimension":
            values = found.effective_dimension**2 / values
        expected = math.sqrt((N - 1) / N * np.sum((values - values.mean()) ** 2))
        value = getattr(found, name)
        if 0 < value < math.inf:
            assert getattr(found, f"{name}_error") == pytest.approx(expected, rel=1e-6), name
        else:
            assert math.isnan(getattr(found, f"{name}_error")), name
    assert sum(0 < getattr(found, name) < math.inf for name in names) >= 4


def test_frozen_examples_and_too_few():
    gradients = np.random.default_rng(0).normal(size=(3, C, D))
    frozen = rl.DenseLogitGradients(1e6 * np.eye(3), np.arange(3), gradients)
    assert math.isnan(rl.curvature_moments(frozen).effective_dimension)
    with pytest.raises(ValueError, match="`source` must leave some curvature"):
        rl.UnevenGradients.from_source(frozen)
    # One example alone has curvature: no pair of examples has any.
    alone = rl.curvature_moments(rl.DenseLogitGradients(np.diag([1e6, 1e6, 0.0]), np.arange(3), gradients))
    assert alone.mean_length == 0
    assert alone.effective_dimension == math.inf
    with pytest.raises(ValueError, match="at least 2 examples; got 1"):
        rl.curvature_moments(rl.DenseLogitGradients(np.zeros((1, 3)), np.zeros(1, dtype=int), gradients[:1]))
    two = rl.curvature_moments(rl.DenseLogitGradients(np.zeros((2, 3)), np.arange(2), gradients[:2]))
    assert two.residual_length > 0
    assert math.isnan(two.residual_length_error)
    nothing = rl.curvature_moments(rl.DenseLogitGradients(np.zeros((3, 3)), np.arange(3), 0 * gradients))
    assert (nothing.mean_length, nothing.residual_length, nothing.length_spread) == (0, 0, 0)


def around(curvatures):
    """The sums that go with pairs of examples of these curvatures (N, C, C)."""
    traces = np.einsum("nkk->n", curvatures)
    a, b = np.sum(curvatures**2), np.sum(traces**2)
    return a, b, np.sum(curvatures.sum(axis=0) ** 2) - a, traces.sum() ** 2 - b


@pytest.mark.parametrize("unequal", [None, [1.0, 2.5, 2.5], [1.0, 4.0, 7.0]])
@pytest.mark.parametrize(("num_examples", "size"), [(6, 1.0), (2, 1e-6)])
@pytest.mark.parametrize(("m", "e", "inverse", "spread"), [
    (0.0, 1.3, 0.02, 0.6), (0.7, 1.3, 0.2, 0.0), (1.5, 0.4, 0.0, 0.9), (0.9, 0.8, 1.0, 0.3), (1.1, 0.0, 0.0, 0.0),
])  # fmt: skip
def test_numbers_solve_the_equations_of_their_law(m, e, inverse, spread, unequal, num_examples, size):
    """Those of the documentation, with means over rotations by sums over those of an icosahedron."""
    rng = np.random.default_rng(0)
    curvatures = size * np.array([oracles.curvature(z) for z in rng.normal(size=(num_examples, 4))])
    basis = np.linalg.svd(np.ones((1, 4)))[2][1:].T
    small = basis.T @ curvatures @ basis
    widths = np.ones(3) if unequal is None else 3 * np.array(unequal) / np.sum(unequal)
    if m == 0:  # no means, no spread of them
        widths = np.ones(3)
    totals = []
    for turn in Rotation.create_group("I").as_matrix():
        root = turn * np.sqrt(widths)
        totals.append(around(root.T @ small @ root))  # tr A B A' B = tr (B^1/2 A B^1/2) (B^1/2 A' B^1/2)
    a, b, alike, together = np.mean(totals, axis=0)
    d = 37
    crossed = 2 * m**2 * e**2 / d
    pairs = around(curvatures)[2]
    sums = module._Sums(
        weight=np.einsum("nkk->", curvatures),
        own=(m**2 + e**2) * np.einsum("nkk->", curvatures),
        products=m**2 * pairs + 5.0 * size**2,
        own_products=5.0 * size**2,
        squares=m**4 * alike + (e**4 * inverse + crossed) * together,
        own_squares=0.0,
        a=np.sum(curvatures**2),
        b=np.sum(np.einsum("nkk->n", curvatures) ** 2),
        curvature=curvatures.sum(axis=0),
        logits=basis @ np.diag(widths) @ basis.T + 3.0 * np.eye(4) + 0.5,
        own_logits=3.0 * np.eye(4),
    )
    own = (m**4 + 2 * m**2 * e**2) * a + e**4 * (1 + spread**2) * (a + (a + b) * inverse) + crossed * (a + b)
    sums = sums._replace(own_squares=own, squares=sums.squares + own)
    found = module._numbers(sums, d)
    of_logits = np.sqrt(np.mean(widths**2) - 1)
    np.testing.assert_allclose(found, (m, e, inverse, spread, of_logits), rtol=1e-6, atol=1e-6)
    assert module._numbers(sums._replace(squares=1e3 * own), d)[2] == (1.0 if e > 0 else 0.0)  # one direction at least


@pytest.mark.parametrize("seed", range(5))
def test_equal_logit_gradients_have_no_residuals(seed):
    rng = np.random.default_rng(seed)
    gradients = np.tile(3.0 * np.linalg.qr(rng.normal(size=(30, 4)))[0].T, (7, 1, 1))  # as long and orthogonal
    found = rl.curvature_moments(rl.DenseLogitGradients(rng.normal(size=(7, 4)), np.arange(7) % 4, gradients))
    assert found.mean_length == pytest.approx(3.0)
    assert (found.residual_length, found.effective_dimension, found.length_spread) == (0.0, math.inf, 0.0)


def test_logits_without_curvature_or_in_one_direction_have_no_spread():
    assert module._spread_of_logits(np.zeros((4, 4))) == 0
    assert module._spread_of_logits(np.full((4, 4), 3.0)) == 0
    assert module._spread_of_logits(np.diag([2.0, 1.0])) == 0
    # Directions 3 to 1 of the plane without the mean: (9 + 1) / 4^2 = 5/8 of two are 5/4, and 1/4 more than equal ones.
    basis = np.array([[1.0, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
    assert module._spread_of_logits(basis.T @ np.diag([3.0, 1.0]) @ basis) == pytest.approx(0.5)
