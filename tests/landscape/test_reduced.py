import dataclasses
import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import block_diag

import rmtland as rl
from rmtland import _arguments
from rmtland.landscape import reduced
from rmtland.landscape.bartlett import bartlett_factor
from rmtland.landscape.reduced import hyperplane_ratio
from tests import oracles
from tests.landscape.dense_theory import curvatures, dense_t, examples
from tests.statistical import assert_mean

C = 4


def given_logits(n, sigma_z, seed=0, accuracy=0.7):
    logits, labels = rl.GaussianLogits(sigma_z, accuracy).draw_logits(n, C, np.random.default_rng(seed))
    return rl.GivenLogits(logits, labels)


def model_of(sigma_z, num_parameters, n=25, **lengths):
    return rl.LandscapeModel(
        n, C, num_parameters, logits=given_logits(n, sigma_z), gradients=rl.ClusteredGradients(**lengths)
    )


def quantities(eigenvalues, powers, norm):
    """Top and last outlier, gradient power above the bulk and in the middle, trace, norm, and the gradient's length."""
    padded, share = np.append(np.zeros(2 * C), eigenvalues), np.append(np.zeros(2 * C), powers)
    trace, frobenius = eigenvalues.sum(), np.linalg.norm(eigenvalues)
    return [padded[-1], padded[-C + 1], share[-C + 1 :].sum(), share[-2 * C :].sum(), trace, frobenius, norm]


def reduced_draws(model, count, cross_terms=True, tolerance=1e-10):
    draws = [model.spectrum(seed, cross_terms, tolerance=tolerance) for seed in range(count)]
    return np.array([quantities(s.eigenvalues, s.powers, s.gradient_norm) for s in draws])


@functools.cache
def dense_draws(sigma_z, cross_terms, lengths, count):
    model = model_of(sigma_z, 60, **dict(lengths))
    rows = []
    for seed in range(count):
        draw = model.sample(seed + 10**6)
        eigenvalues, vectors = np.linalg.eigh(draw.hessian(cross_terms))
        slope = rl.gradient(draw)
        powers = (vectors.T @ slope) ** 2 / (slope @ slope)
        rows.append(quantities(eigenvalues, powers, np.linalg.norm(slope)))
    return np.array(rows)


DETECT = np.array([0.16, 0.2, 0.1, 0.1, 0.1, 0.12, 0.09])
"""Relative to the value, absolute for the two shares."""


def detectable(draws):
    scale = np.abs(draws.mean(axis=0))
    scale[2:4] = 1.0
    return DETECT * scale


CASES = [
    pytest.param(1.0, True, {}, 300, marks=pytest.mark.slow),
    (15.0, True, {}, 300),
    pytest.param(40.0, True, {}, 600, marks=pytest.mark.slow),
    (15.0, False, {}, 300),
    (1.0, False, {"class_length": 0.8}, 450),
    pytest.param(3.0, True, {"class_length": 0.8}, 300, marks=pytest.mark.slow),
    (3.0, True, {"relative_lengths": (0.0, 0.5, 1.0, 2.0)}, 500),
]


@pytest.mark.parametrize(("sigma_z", "cross_terms", "lengths", "count"), CASES)
def test_in_law_what_dense_draws_give(sigma_z, cross_terms, lengths, count):
    model = model_of(sigma_z, 60, **lengths)
    ours = reduced_draws(model, count, cross_terms)
    theirs = dense_draws(sigma_z, cross_terms, tuple(lengths.items()), count)
    assert_mean(ours - theirs, 0, detect=detectable(theirs))
    assert_mean(ours**2 - theirs**2, 0, detect=2.6 * detectable(theirs) * theirs.mean(axis=0))  # the spread as well


def mutated(monkeypatch, **changes):
    """Sources with some entries replaced by functions of them."""
    plain = reduced._sources

    def sources(*arguments):
        made = plain(*arguments)
        return dataclasses.replace(made, **{name: change(getattr(made, name)) for name, change in changes.items()})

    monkeypatch.setattr(reduced, "_sources", sources)


MUTANTS = {
    "the gradient of frozen examples dropped": {"dropped": lambda x: 0.0},
    "cross terms dropped": {"mixing": lambda x: 0 * x},
    "the sign of the residuals' gradient": {"slopes": lambda x: -x},
    "a tenth on the residuals": {"weights": lambda x: 1.1 * x, "slopes": lambda x: 1.1 * x},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_rejected(monkeypatch, name):
    # A tenth of the squared gradient sits on frozen, mislabelled examples here.
    model = model_of(15.0, 60)
    theirs = dense_draws(15.0, True, (), 300)
    mutated(monkeypatch, **MUTANTS[name])
    with pytest.raises(AssertionError, match="against"):
        assert_mean(reduced_draws(model, 300) - theirs, 0, detect=detectable(theirs))


def test_parameters_and_examples_are_not_exchanged():
    # The Bartlett factor of the transpose has the diagonal chi_{rows}, which is another law off the square.
    wide, tall = bartlett_factor(5, 40, np.random.default_rng(0)), bartlett_factor(40, 5, np.random.default_rng(0))
    assert wide.shape == (5, 5)
    assert tall.shape == (40, 5)
    grams = [(lambda x: x @ x.T)(bartlett_factor(5, 40, np.random.default_rng(seed))) for seed in range(400)]
    assert_mean(grams, 40 * np.eye(5), detect=6.0)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(grams, 5 * np.eye(5), detect=6.0)
    assert_mean([np.sum(g**2) for g in grams], 5 * 40 * (40 + 5 + 1), detect=1200)


@pytest.mark.parametrize("num_parameters", [1, 7, 10**9, 10**12])
@pytest.mark.parametrize("lengths", [{}, {"class_length": 0.6}])
def test_exact_means_given_the_logits(num_parameters, lengths):
    # E tr G = D tr T, E |G|_F^2 = D (tr T)^2 + D (D + 1) tr T^2 with T written out, and E |gradient|^2 = D |a|^2.
    n = 12
    model = model_of(2.0, num_parameters, n=n, **lengths)
    logits, labels = model.logits.logits, model.logits.labels
    same = (labels[:, None] == labels[None, :]).astype(float)
    covariance = np.kron(
        model.sigma_c**2 * np.ones((n, n)) + model.sigma_d**2 * same + model.sigma_E**2 * np.eye(n), np.eye(C)
    )
    curvature = np.zeros((n * C, n * C))
    for mu, z in enumerate(logits):
        curvature[mu * C : (mu + 1) * C, mu * C : (mu + 1) * C] = oracles.curvature(z) / n
    rho = np.concatenate([oracles.softmax(z) - np.eye(C)[y] for z, y in zip(logits, labels, strict=True)]) / n
    t = covariance @ curvature
    d = float(num_parameters)
    trace, square = d * np.trace(t), d * np.trace(t) ** 2 + d * (d + 1) * np.sum(t * t.T)
    draws = [model.spectrum(seed) for seed in range(400 if d == 1 else 100)]
    samples = np.array([[s.trace, s.frobenius**2, s.gradient_norm**2] for s in draws])
    expected = np.array([trace, square, d * rho @ covariance @ rho])
    # At D = 1 the trace is a single weighted chi square.
    detect = (0.02 if d > 100 else 1.2) * expected
    assert_mean(samples, expected, detect=detect)
    for mutant in (expected * [1.02, 1, 1], expected * [1, 1.02, 1], expected * [1, 1, 1.02]):
        if d > 100:
            with pytest.raises(AssertionError, match="against"):
                assert_mean(samples, mutant, detect=detect)


@given(
    st.integers(2, 8),
    st.integers(2, 5),
    st.sampled_from([1, 2, 5, 30, 10**6, 10**12]),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.5, 15.0, 1e4]),
    st.booleans(),
    st.sampled_from(
        [(1.0, 0.7, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.5, 2.0), (0.0, 0.0, 1.0)]
    ),
)
def test_holds_together(n, c, d, seed, sigma_z, cross_terms, lengths):
    law = rl.ClusteredGradients(*lengths)
    model = rl.LandscapeModel(n, c, d, logits=rl.GaussianLogits(sigma_z, 0.6), gradients=law)
    spectrum = model.spectrum(seed, cross_terms)
    assert spectrum.eigenvalues.size <= min(d, n * (c - 1) + (0 if cross_terms else c * c))
    assert (np.diff(spectrum.eigenvalues) >= 0).all()
    assert (spectrum.eigenvalues >= 0).all()
    assert spectrum.outliers().shape == (c - 1,)
    if spectrum.gradient_norm > 0:
        assert (spectrum.powers >= 0).all()
        assert spectrum.powers.sum() + spectrum.null_power == pytest.approx(1, abs=1e-6)
    else:
        assert np.isnan(spectrum.powers).all()
    assert spectrum.frobenius == pytest.approx(np.linalg.norm(spectrum.eigenvalues))
    if spectrum.frobenius > 0:
        assert spectrum.goldilocks_ratio(d) == pytest.approx(spectrum.goldilocks_ratio())


def test_without_residuals_or_means():
    pure = model_of(2.0, 10**6, residual_length=0.0).spectrum(0)
    assert pure.eigenvalues.size == C - 1
    assert pure.gradient_power(C - 1) == pytest.approx(1)
    assert pure.null_power < 1e-12
    noise = model_of(1.0, 400, mean_length=0.0).spectrum(0)
    assert noise.outliers()[0] / noise.eigenvalues[-C] < 1.3
    nothing = model_of(2.0, 5, mean_length=0.0, residual_length=0.0).spectrum(0)
    assert nothing.eigenvalues.size == 0
    assert math.isnan(nothing.null_power)
    assert nothing.outliers().tolist() == [0, 0, 0]
    assert math.isnan(nothing.goldilocks_ratio(2))


@pytest.mark.parametrize(("slope", "beyond"), [([3.0, 4.0], 1.0), ([0.1, 0.0], 1.0), ([0.0, 0.0], math.nan)])
def test_no_rows_have_no_eigenvalues(slope, beyond):
    """All of a gradient that there is lies beyond them."""
    spectrum = reduced.spectrum_of_rows(np.zeros((0, 2)), np.array(slope), 10, C)
    assert spectrum.eigenvalues.shape == spectrum.powers.shape == (0,)
    assert spectrum.null_power == pytest.approx(beyond, nan_ok=True)
    assert spectrum.gradient_norm == pytest.approx(math.hypot(*slope))


def test_underflowed_probabilities():
    # exp(-800) is zero: no curvature is left, and the mislabelled example's gradient lies where no eigenvalue is.
    logits = np.array([[800.0, 0, 0, 0], [0, 800.0, 0, 0], [0.1, 0.2, 0, 0], [0, 0, 0.3, 0]])
    model = rl.LandscapeModel(4, C, 10**6, logits=rl.GivenLogits(logits, [0, 2, 1, 3]))
    for tolerance in (0.0, 1e-10):
        spectrum = model.spectrum(0, tolerance=tolerance)
        assert spectrum.eigenvalues.size == 6
        assert spectrum.null_power > 0.2
        assert spectrum.powers.sum() + spectrum.null_power == pytest.approx(1)


def test_frozen_rows_leave_the_eigenproblem_but_not_the_gradient():
    model = rl.LandscapeModel.fort_ganguli(60, C, 10**6, sigma_z=15.0, accuracy=0.7)
    kept, dropped = model.spectrum(0, tolerance=0.0), model.spectrum(0, tolerance=1e-6)
    assert dropped.eigenvalues.size < 0.7 * kept.eigenvalues.size
    # The normals behind the rows differ, the logits and the mean gradients do not.
    assert dropped.trace == pytest.approx(kept.trace, rel=0.01)
    assert dropped.null_power > kept.null_power


def test_hyperplanes():
    # Against dense projections on random hyperplanes.
    rng = np.random.default_rng(0)
    eigenvalues = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 1.0, 4.0])
    traces, squares = [], []
    for _ in range(4000):
        basis = np.linalg.qr(rng.normal(size=(7, 3)))[0]
        projected = basis.T @ (eigenvalues[:, None] * basis)
        traces.append(np.trace(projected))
        squares.append(np.sum(projected**2))
    trace, frobenius = eigenvalues.sum(), np.linalg.norm(eigenvalues)
    expected = hyperplane_ratio(trace, frobenius, 7, 3)
    assert_mean(traces, 3 / 7 * trace, detect=0.3)
    assert_mean(squares, (3 / 7 * trace / expected) ** 2, detect=1.2)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(squares, (3 / 7 * frobenius) ** 2, detect=1.2)  # as if a projection scaled the norm alone
    assert hyperplane_ratio(trace, frobenius, 7, 7) == pytest.approx(trace / frobenius)
    assert hyperplane_ratio(trace, frobenius, 7, 1) < 1
    assert hyperplane_ratio(3.0, 3.0, 1, 1) == 1


def test_the_same_model_with_fewer_parameters_is_its_projection():
    # Theory section 5, property 4: a random d-dimensional hyperplane is the model with D replaced by d; lengths fixed
    # per component.
    whole = model_of(1.0, 400)
    projected = [whole.spectrum(seed) for seed in range(60)]
    small = dataclasses.replace(
        whole, num_parameters=10, gradients=rl.ClusteredGradients(math.sqrt(10 / 400), 0.7 * math.sqrt(10 / 400))
    )
    direct = [small.spectrum(seed) for seed in range(600)]
    expected = np.mean([s.trace for s in direct]) / math.sqrt(np.mean([s.frobenius**2 for s in direct]))
    assert_mean([s.goldilocks_ratio(10) for s in projected], expected, bias=0.04, detect=0.15)


@pytest.mark.parametrize("sigma_z", [1.0, 40.0])
@pytest.mark.parametrize("num_parameters", [130, 10**6])
@pytest.mark.parametrize("k", [1, 3, 9, 1000])
def test_the_top_alone_is_of_the_same_draw(sigma_z, num_parameters, k):
    model = rl.LandscapeModel.fort_ganguli(60, C, num_parameters, sigma_z=sigma_z)
    whole, top = model.spectrum(0), model.spectrum(0, k=k)
    np.testing.assert_allclose(top.eigenvalues, whole.eigenvalues[-k:], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(top.powers, whole.powers[-k:], atol=1e-7)
    assert top.powers.sum() + top.null_power == pytest.approx(1)
    assert (top.trace, top.frobenius) == pytest.approx((whole.trace, whole.frobenius))
    assert top.goldilocks_ratio() == pytest.approx(whole.goldilocks_ratio())
    assert top.goldilocks_ratio(10) == pytest.approx(whole.goldilocks_ratio(10))


def test_shared_rows():
    models = [rl.LandscapeModel.fort_ganguli(30, C, 70, sigma_z=sigma_z) for sigma_z in (40.0, 1.0, 1.05)]
    rows = rl.SharedRows(0)
    alone = [model.spectrum(1, rows=rl.SharedRows(0)).eigenvalues for model in models]
    for model, expected in zip(models, alone, strict=True):  # in growing number: what was drawn stays
        np.testing.assert_array_equal(model.spectrum(1, rows=rows).eigenvalues, expected)
    np.testing.assert_array_equal(models[0].spectrum(1, rows=rows).eigenvalues, alone[0])
    few = rl.SharedRows(0)
    assert np.shares_memory(few.factor(5, 7), few.factor(5, 7))  # nothing is drawn twice
    pairs = [[m.spectrum(s, rows=shared).trace for m in models[1:]] for s in range(20) for shared in [rl.SharedRows(s)]]
    ratios = np.array(pairs)[:, 1] / np.array(pairs)[:, 0]
    assert ratios.std() < 0.2 * np.std(np.array(pairs)[:, 0]) / np.mean(pairs)
    with pytest.raises(ValueError, match="`rows` must be shared at one D; got 71 after 70"):
        rl.LandscapeModel.fort_ganguli(30, C, 71).spectrum(1, rows=rows)


def test_seeds():
    model = model_of(15.0, 10**9)
    one, same, other = model.spectrum(3), model.spectrum(3), model.spectrum(4)
    np.testing.assert_array_equal(one.eigenvalues, same.eigenvalues)
    np.testing.assert_array_equal(one.powers, same.powers)
    assert not np.array_equal(one.eigenvalues, other.eigenvalues)


class OneSided:
    def draw_gradients(self, labels, num_classes, num_parameters, rng):
        return np.zeros((num_classes, num_parameters)), np.zeros((len(labels), num_classes, num_parameters))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: m.spectrum("seed"), TypeError, "`rng` must be something"),
        (lambda m: m.spectrum(0, tolerance=-1.0), ValueError, "`tolerance` must be >= 0 and < 1; got -1.0"),
        (lambda m: m.spectrum(0, tolerance=1), ValueError, "`tolerance` must be >= 0 and < 1; got 1"),
        (lambda m: m.spectrum(0, k=0), ValueError, "`k` must be >= 1; got 0"),
        (lambda m: m.spectrum(0).outliers(-1), ValueError, "`k` must be >= 0; got -1"),
        (lambda m: m.spectrum(0).goldilocks_ratio(0), ValueError, "`dimension` must be >= 1 and <= 50; got 0"),
        (lambda m: m.spectrum(0).goldilocks_ratio(51), ValueError, "`dimension` must be >= 1 and <= 50; got 51"),
        (
            lambda m: dataclasses.replace(m, gradients=OneSided()).spectrum(0),
            TypeError,
            "`gradients` must be ClusteredGradients, or .* for a reduced draw, not .*; use sample",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(model_of(1.0, 50))


def test_a_draw_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(_arguments, "available_memory", lambda: 10_000)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    with pytest.raises(MemoryError, match="a draw with 75 x 50 rows needs .* raise `tolerance`, draw fewer examples"):
        model_of(1.0, 50).spectrum(0)


@pytest.mark.parametrize("sigma_H", [0.0, 0.1])
def test_one_generator_gives_draw_after_draw(sigma_H):
    """Of given logits, too, where nothing but the rows is drawn; none of them has numbers of another."""
    logits, labels = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 3
    model = rl.LandscapeModel(6, 3, 12, logits=rl.GivenLogits(logits, labels), sigma_H=sigma_H)
    rng = np.random.default_rng(1)
    traces = np.array([model.spectrum(rng).trace for _ in range(1200)])
    assert np.unique(traces).size == 1200
    deviations = traces - traces.mean()
    assert_mean(deviations[1:] * deviations[:-1], 0.0, detect=0.3 * traces.var())
    rows = rl.SharedRows(rng)
    assert model.spectrum(rng, rows=rows).trace != traces[-1]
    one, two = (rl.LandscapeModel.fort_ganguli(10, 3, 30, s).spectrum(4).eigenvalues[-1] for s in (1.0, 1.001))
    assert abs(one / two - 1) < 0.01  # one seed, one draw


def test_what_was_not_kept_is_not_made_up():
    model = rl.LandscapeModel.fort_ganguli(30, 10, 400, 2.0)
    whole, few = model.spectrum(rng=0), model.spectrum(rng=0, k=4)
    np.testing.assert_allclose(few.outliers(4), whole.outliers(4), rtol=1e-10)
    assert few.gradient_power(4) == pytest.approx(whole.gradient_power(4))
    for spectrum in (whole, few):  # knows the sums of all eigenvalues
        assert float(rl.goldilocks_ratio(spectrum)) == pytest.approx(whole.goldilocks_ratio())
    with pytest.raises(ValueError, match="`k` must be <= 4, as many as were asked for; got 9"):
        few.outliers()
    with pytest.raises(ValueError, match="`num_directions` must be <= 4, as many as were asked for; got 9"):
        few.gradient_power(9)
    # A matrix with fewer eigenvalues than asked for has nothing left out.
    small = rl.LandscapeModel.fort_ganguli(2, 5, 3, 1.0)
    for sigma_H in (0.0, 0.1):
        spectrum = dataclasses.replace(small, sigma_H=sigma_H).spectrum(rng=0, k=4)
        assert spectrum.outliers().shape == (4,)
        assert spectrum.sums is None


def test_groups_of_rows_are_put_side_by_side_without_products():
    """Of any number of rows: a factor of few rows is no square."""
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=shape) for shape in ((2, 4), (5, 3), (1, 1), (3, 3))]
    together = reduced._apart(blocks)
    expected = block_diag(*[block.T @ block for block in blocks])
    np.testing.assert_allclose(together.T @ together, expected, atol=1e-12)


def test_the_top_of_a_matrix_of_zeros_is_zero():
    eigenvalues, squares, sums = reduced._measure(np.zeros((50, 50)), np.zeros(50), 2)
    assert (*eigenvalues, *squares) == (0.0, 0.0, 0.0, 0.0)
    assert sums == (0.0, 0.0)


def test_many_of_the_top_are_those_of_the_whole_matrix():
    """By iteration where ten times as many are left out; sums come only with a part of the eigenvalues."""
    rng = np.random.default_rng(0)
    root, vector = rng.standard_normal((460, 600)), rng.standard_normal(460)
    matrix = root @ root.T
    expected, vectors = np.linalg.eigh(matrix)
    squares = (vectors.T @ vector) ** 2
    for k in (1, 9, 45):
        found, along, sums = reduced._measure(matrix, vector, k)
        np.testing.assert_allclose(found, expected[-k:], rtol=1e-10)
        np.testing.assert_allclose(along, squares[-k:], rtol=1e-6, atol=1e-6)
        assert sums == pytest.approx((np.trace(matrix), np.linalg.norm(matrix)))
    small, start = matrix[:5, :5], vector[:5]
    values, vectors = np.linalg.eigh(small)
    for k in (1, 4, 5, 6, None):
        found, along, sums = reduced._measure(small, start, k)
        kept = 5 if k is None else min(k, 5)
        np.testing.assert_allclose(found, values[5 - kept :], rtol=1e-12)
        np.testing.assert_allclose(along, (vectors.T @ start)[5 - kept :] ** 2, rtol=1e-9)
        assert (sums is None) == (kept == 5)


@pytest.mark.parametrize(("number", "width"), [(4, 9), (9, 4), (5, 5), (1, 3)])
@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e15])
def test_a_spectrum_is_that_of_its_rows(number, width, unit):
    """G = Y^T Y and a vector written out, of more rows than columns and of fewer; two rows are alike."""
    rng = np.random.default_rng(number)
    rows = unit * rng.standard_normal((number, width))
    rows[-1] = rows[0]
    slope = rng.standard_normal(width)
    spectrum = reduced.spectrum_of_rows(rows, slope, 20, 3)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    rank = min(max(number - 1, 1), width)
    np.testing.assert_allclose(spectrum.eigenvalues[-rank:], values[-rank:], rtol=1e-9)
    assert (spectrum.eigenvalues[:-rank] <= 1e-12 * values[-1]).all()
    powers = (vectors.T @ slope) ** 2 / (slope @ slope)
    np.testing.assert_allclose(spectrum.powers[-rank:], powers[-rank:], rtol=1e-7, atol=1e-12)
    assert spectrum.gradient_norm == pytest.approx(np.linalg.norm(slope))
    assert spectrum.null_power == pytest.approx(1 - powers[-rank:].sum(), abs=1e-9)
    assert spectrum.powers.sum() + spectrum.null_power == pytest.approx(1.0)
    still = reduced.spectrum_of_rows(rows, 0 * slope, 20, 3)
    assert np.isnan(still.powers).all()
    assert math.isnan(still.null_power)


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize(
    "law",
    [
        rl.ClusteredGradients(1.0, 0.7),
        rl.ClusteredGradients(1.0, 0.7, 0.5),
        rl.ClusteredGradients(0.8, 0.0, 0.5, (0.5, 1.0, 2.0, 0.3)),
        rl.ClusteredGradients(0.0, 0.7),
        rl.ClusteredGradients(0.0, 0.0, 0.6),
        rl.ClusteredGradients(1.5, 0.4, 0.3, (0.0, 1.0, 0.0, 2.0)),
    ],
)
@pytest.mark.parametrize("num_parameters", [1, 70])
def test_sources_are_the_covariance_of_all_rows(law, cross_terms, num_parameters):
    """Eigenvalues of D T and the gradient's products with it, of the (N C) x (N C) matrices written out."""
    logits, labels = examples(8, 4, 1.5, 3)
    labels[labels == 2] = 0  # a class is absent
    lengths = law.mean_lengths(4)
    dense, along = dense_t(logits, labels, lengths, law.residual_length, law.class_length, cross_terms)
    found = reduced._sources(logits, labels, law, num_parameters, cross_terms, 0.0)
    own = np.vstack([found.own, found.mixing])
    variances = np.append(np.zeros(len(found.own)), found.weights**2)
    covariance = num_parameters * (own @ own.T + np.diag(variances))
    values = np.linalg.eigvalsh(covariance)
    rank = np.count_nonzero(dense > 1e-12 * dense[-1])
    np.testing.assert_allclose(values[-rank:], dense[-rank:], rtol=1e-9)
    assert np.abs(values[:-rank]).max(initial=0.0) < 1e-12 * dense[-1]
    square = found.mean_slopes @ found.mean_slopes + found.slopes @ found.slopes + found.dropped**2
    assert num_parameters * square == pytest.approx(along @ along, rel=1e-12)
    slopes = np.append(np.zeros(len(found.own)), found.weights * found.slopes)
    products = num_parameters * (own @ found.mean_slopes + slopes)
    assert products @ products == pytest.approx(dense @ along**2, rel=1e-10)
    assert products @ covariance @ products == pytest.approx(dense**2 @ along**2, rel=1e-10)
    assert found.dropped == 0.0
    # No more rows and columns than there are: three classes are present.
    assert (found.weights.size > 0) == (law.residual_length > 0)
    seen = np.linalg.matrix_rank(np.diag(lengths) @ (np.eye(4) - 0.25))
    assert found.mean_slopes.size == seen + (9 if law.class_length > 0 else 0)


def test_rows_below_a_share_of_the_largest_are_dropped_and_the_gradient_is_not():
    logits, labels = examples(8, 4, 1.5, 3)
    values = np.sort(np.linalg.eigvalsh(curvatures(logits))[:, 1:].ravel())[::-1]
    law = rl.ClusteredGradients(1.0, 0.7)
    whole = reduced._sources(logits, labels, law, 50, True, 0.0)
    cut = (values[9] * values[10]) ** 0.5 / values[0]
    few = reduced._sources(logits, labels, law, 50, True, cut)
    assert (whole.weights.size, few.weights.size) == (24, 10)
    np.testing.assert_allclose(np.sort(few.weights**2)[::-1], 0.49 / 50 / 8 * values[:10], rtol=1e-9)
    assert few.slopes @ few.slopes + few.dropped**2 == pytest.approx(whole.slopes @ whole.slopes, rel=1e-12)
    np.testing.assert_allclose(few.mean_slopes, whole.mean_slopes)
