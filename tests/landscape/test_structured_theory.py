"""The deterministic equivalent of means and anisotropic residuals against draws and against the other theory."""

import dataclasses

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory.continuation import Continuation, NoWay
from rmtland.landscape.theory.separable import Separable, State, _log_det_below, _logs
from rmtland.landscape.theory.structured import StructuredTheory
from rmtland.landscape.weighted_rows import Block, WeightedRows
from tests.landscape.test_anisotropic import COVARIANCE, GIVEN, LABELS, LAW, LOGITS, C, D, N, kernels, model_of
from tests.statistical import assert_mean

LAWS = {
    "anisotropic": rl.AnisotropicGradients.clustered(C, 1.0, 0.7, 0.4, COVARIANCE),
    "everything": LAW,
    "kernel": rl.KernelGradients(kernels(), effective_dimension=60),
}


@pytest.mark.parametrize("name", LAWS)
def test_predictions_are_means_of_draws(name):
    model = model_of(LAWS[name])
    theory = model.theory()
    spectra = [model.spectrum(rng=i) for i in range(600 if name == "kernel" else 250)]
    outliers = np.array([spectrum.outliers(5) for spectrum in spectra])
    predicted = theory.outliers(5)
    # First order in 1/N and one over the effective dimension, here 1/40 and 1/30.
    separated = slice(3, 5) if name != "kernel" else slice(4, 5)
    share = 0.02 if name != "kernel" else 0.08
    assert_mean(outliers[:, separated], predicted[separated], bias=share * predicted[separated],
                detect=(2 * share + (0.08 if name != "kernel" else 0.2)) * predicted[separated])  # fmt: skip
    power = [spectrum.gradient_power(C - 1) for spectrum in spectra]
    assert_mean(power, theory.gradient_power(C - 1), bias=0.015, detect=0.08)
    assert_mean([s.trace for s in spectra], theory.trace, detect=0.1 * theory.trace)
    assert_mean([s.frobenius**2 for s in spectra], theory.frobenius**2, detect=0.2 * theory.frobenius**2)
    assert theory.goldilocks_ratio() == pytest.approx(np.mean([s.goldilocks_ratio() for s in spectra]), rel=0.03)


def test_fluctuations():
    model = model_of(LAW)
    theory = model.theory()
    spectra = [model.spectrum(rng=i) for i in range(400)]
    drawn = np.std([s.outliers() for s in spectra], axis=0)
    np.testing.assert_allclose(theory.outliers_std(), drawn, rtol=0.12)  # 4% of it the error of 400 draws
    ratio = np.std([s.goldilocks_ratio() for s in spectra])
    assert theory.goldilocks_ratio_std() == pytest.approx(ratio, rel=0.15)


@pytest.mark.parametrize("name", ["everything", "kernel"])
def test_fluctuations_of_the_gradient_power(name):
    """In a gap (everything) and inside the bulk (kernel), where the number of directions is given, not the level."""
    model = model_of(LAWS[name])
    theory = model.theory()
    assert (theory._boundary(C - 1).distance > 0) == (name == "everything")
    powers = [model.spectrum(rng=i).gradient_power(C - 1) for i in range(500)]
    # 3% of it the error of 500 draws.
    predicted = theory.gradient_power_std(C - 1)
    assert predicted == pytest.approx(np.std(powers), rel=0.1)
    share = theory.gradient_power(C - 1)
    independent = 2 * share * (1 - share) / D**0.5
    assert not 0.85 < independent / predicted < 1.15
    assert theory.gradient_power_std(0) == theory.gradient_power_std(D) == 0.0


def test_no_trace_of_the_resolvent_names_a_point():
    """Means of a fixed Gram matrix: dm/dz = 0 at a point of the upper half plane, so that z is no function of m."""
    law = rl.AnisotropicGradients(np.outer([1, -1, 0], [1, -1, 0]), 0.02, COVARIANCE)
    equation = Separable(law.weighted_rows(LOGITS, LABELS), float(D))
    solver = Continuation(equation)
    top = float(solver.quantile(0.5, float(equation.spikes(1)[0])).z.real)
    guess = top / (1 - 1j * (D - 1) ** -0.5)
    turn = guess + 0.4 * guess.imag * np.exp(2j * np.pi * np.arange(64) / 64)

    def winding(values):
        return np.sum(np.angle(np.roll(values, -1) / values)) / (2 * np.pi)

    states = [solver.at(complex(z)) for z in turn]
    step = 1e-4 * guess.imag
    slopes = [solver.follow(s, s.z + step).trace - solver.follow(s, s.z - step).trace for s in states]
    assert winding(np.array(slopes)) == pytest.approx(1.0)


def test_residuals_alone_have_one_more_scalar_equation():
    """What the docstring of `separable` says of residuals without means: z = -1/m + Psi'(m) / D."""
    law = rl.AnisotropicGradients(np.zeros((C, C)), 0.5, COVARIANCE)
    equation = Separable(law.weighted_rows(LOGITS, LABELS), float(D))
    for z in (0.01 + 0.004j, 0.002 + 0.0005j):
        state = Continuation(equation).at(z)
        p = np.sum(state.m * equation.t / (1 + state.m * equation.t))
        m, alpha = state.trace / D, -state.a / z
        s, w = equation.spectrum
        assert p == pytest.approx(np.sum(w * alpha * s / (1 + alpha * s)), rel=1e-9)
        assert m * p == pytest.approx(alpha * state.m * (1 - p / D), rel=1e-9)
        assert -1 / m + p / m / D == pytest.approx(z, rel=1e-9)


def test_the_isotropic_case_is_the_other_theory():
    """Levels for random means, at a D where their Gram matrix no longer fluctuates."""
    ours = rl.LandscapeModel(N, C, 10**6, GIVEN, rl.AnisotropicGradients.clustered(C, 1.0, 0.6, 0.4)).theory()
    other = rl.LandscapeModel(N, C, 10**6, GIVEN, rl.ClusteredGradients(1.0, 0.6, 0.4)).theory()
    np.testing.assert_allclose(ours.outliers(), other.outliers(), rtol=1e-4)
    assert ours.trace == pytest.approx(other.trace)
    assert ours.frobenius == pytest.approx(other.frobenius, rel=1e-4)
    assert ours.bulk_edge == pytest.approx(other.bulk_edge, rel=1e-4)
    assert ours.gradient_power(2) == pytest.approx(other.gradient_power(2), abs=1e-4)
    small = 300
    ours = rl.LandscapeModel(N, C, small, GIVEN, rl.AnisotropicGradients.clustered(C, 0.0, 0.6)).theory()
    other = rl.LandscapeModel(N, C, small, GIVEN, rl.ClusteredGradients(0.0, 0.6)).theory()
    x = np.linspace(0.2, 0.9, 5) * other.bulk_edge
    np.testing.assert_allclose(ours.pdf(x), other.pdf(x), rtol=1e-6)
    np.testing.assert_allclose(ours.gradient_pdf(x), other.gradient_pdf(x), rtol=1e-6)
    assert ours.bulk_edge == pytest.approx(other.bulk_edge, rel=1e-8)
    assert ours.gradient_power_std(5) == pytest.approx(other.gradient_power_std(5), rel=3e-3)
    np.testing.assert_allclose(ours.outliers_std(), other.outliers_std(), rtol=3e-3)
    assert ours.count_above(x[2]) == pytest.approx(other.count_above(x[2]), rel=1e-6)


def test_density_and_counts_belong_together():
    theory = model_of(LAWS["anisotropic"]).theory()
    top, edge = theory.outliers()[-1], theory.bulk_edge
    x = np.concatenate([np.linspace(0.4 * edge, 1.1 * edge, 60), np.linspace(1.11 * edge, 1.3 * top, 120)])
    mass = D * np.trapezoid(theory.pdf(x), x)
    assert mass == pytest.approx(theory.count_above(x[0]), rel=0.04)
    share = np.trapezoid(theory.gradient_pdf(x[::2]), x[::2])
    assert 0.7 < share < 1.0
    assert theory.pdf(2 * top) == 0.0
    assert theory.quantiles([theory.count_above(0.5 * edge)])[0] == pytest.approx(0.5 * edge, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_quantiles_have_as_many_eigenvalues_above(seed):
    """Where most eigenvalues are 0, at every height above the axis more seem to be above a place than are."""
    law = rl.UnevenGradients(1.0, 2.0, effective_dimension=10.0)
    theory = rl.LandscapeModel(40, 5, 10**5, rl.GaussianLogits(1.0), law).theory(rng=seed)
    counts = np.arange(12) + 0.5
    places = theory.quantiles(counts[::-1])[::-1]
    assert (np.diff(places) < 0).all()
    for place, count in zip(places, counts, strict=True):
        assert theory.count_above(float(place)) == pytest.approx(count, abs=1e-5)


@pytest.mark.parametrize(
    ("share", "unit", "num_parameters"),
    [(0.02, 1.0, 10**6), (0.97, 1e-4, 120), (0.97, 1.0, 10**6), (1.04, 1.0, 10**6), (1.5, 1e4, 120)],
)
def test_a_quantile_is_found_from_anywhere(share, unit, num_parameters):
    """From within bands, from gaps with more or fewer eigenvalues above, and beyond all; in few steps."""
    law = rl.AnisotropicGradients.clustered(C, unit, 0.7 * unit, 0.4 * unit, COVARIANCE)
    theory = model_of(law, num_parameters).theory()
    for goal, place in zip((0.5, 1.5), theory.outliers()[::-1].tolist(), strict=True):
        solver = Continuation(theory.equation)
        assert solver.quantile(goal, share * place).z.real == pytest.approx(place, rel=1e-6)
        counts = [count for _, count in solver._counts]
        assert counts[-1] == pytest.approx(goal, abs=2e-6)
        assert len(counts) < 30
        # From what was found for this one another is found.
        other = theory.outliers()[::-1][1 if goal == 0.5 else 0]
        assert solver.quantile(2 - goal, place).z.real == pytest.approx(other, rel=1e-6)


def test_no_more_eigenvalues_than_directions():
    law = rl.AnisotropicGradients(np.zeros((C, C)), 1.0, rl.ResidualCovariance([3.0, 1.0], [1, 4]))
    model = rl.LandscapeModel(N, C, D, GIVEN, law)
    places = model.theory().quantiles([0.5, 4.5, 5.5])
    assert (places > 0).tolist() == [True, True, False]
    assert np.count_nonzero(model.spectrum(rng=0).eigenvalues > 1e-12) == 5


def test_no_more_eigenvalues_than_rows_that_are_not_zero():
    """Two examples with residuals, two directions each, and of three means what rows that add up to zero see."""
    scales = np.append(np.ones(2), np.zeros(N - 2))
    model = model_of(rl.AnisotropicGradients(np.eye(C) + 0.3, 0.7, COVARIANCE, residual_scales=scales))
    theory, spectrum = model.theory(), model.spectrum(rng=0)
    assert (theory.quantiles([0.5, 5.5, 6.0, 6.5, 70.0]) > 0).tolist() == [True, True, False, False, False]
    assert np.count_nonzero(spectrum.eigenvalues > 1e-12) == 6
    assert theory.gradient_power(5) < theory.gradient_power(6) == theory.gradient_power(70) == 1.0


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_resolvents_traces_are_in_their_half_planes_but_for_rounding(size):
    """The upper one of m and the trace, the lower one of a."""
    solver = model_of(LAWS["anisotropic"]).theory()._solver

    def state(*angles):
        m, trace, a = (size * np.exp(1j * angle) for angle in angles)
        return State(1j, m, a, trace, (0j, 0j, 0j), (0j, 0j))

    for right in ((1.0, 2.0, -1.0), (3.0, 0.1, -3.0), (0.0, 0.0, 0.0), (-1e-10, -1e-10, 1e-10)):
        assert solver.proved(state(*right)) is not None
        for j, wrong in enumerate((-1e-8, -1e-8, 1e-8)):
            assert solver.proved(state(*right[:j], wrong, *right[j + 1 :])) is None


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("share", [0.0, 1.0, 20.0])
def test_far_above_the_resolvent_is_that_of_zero(share, unit):
    law = rl.AnisotropicGradients.clustered(C, unit, 0.7 * unit, 0.4 * unit, COVARIANCE)
    equation = Separable(law.weighted_rows(LOGITS, LABELS), float(D))
    tries = []

    class Counted(Continuation):
        def refine(self, z, m, a, *options):
            tries.append(z)
            return super().refine(z, m, a, 5)

    state = Counted(equation).start(share * equation.reach)
    assert tries == [state.z]
    assert state.z.real == share * equation.reach
    assert abs(state.m * state.z + 1) < 0.25
    assert abs(state.trace * state.z + D) < 0.25 * D
    errors = equation.at(state.z, state.m, state.a)[0]
    assert np.all(np.abs(errors) < 1e-9 * np.abs([state.a, state.m]))


@pytest.mark.parametrize("height", [1e-3, 0.02, 1.0])
def test_a_solution_is_above_the_place_asked_for(height):
    """From one known at just this height above another place, from a higher one, and from none."""
    solver, fresh = (model_of(LAWS["everything"]).theory()._solver for _ in range(2))
    for x in (0.03, 0.03 - height, 0.03, 0.03 + 1.5 * height):
        state = solver.above(x, height)
        assert state.z.real == x
        assert height <= state.z.imag
        assert state.m == pytest.approx(fresh.at(state.z).m, rel=1e-6)
    z = complex(0.0456789, 0.00123456)  # no sum of where the way begins and how long it is
    assert solver.follow(solver.above(0.03, 1.0), z).z == z


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_ways_are_gone_in_few_steps(unit):
    tries = []

    class Counted(Continuation):
        def refine(self, z, m, a, *options):
            tries.append(z)
            return super().refine(z, m, a, *options)

    law = rl.AnisotropicGradients.clustered(C, unit, 0.7 * unit, 0.4 * unit, COVARIANCE)
    solver = Counted(Separable(law.weighted_rows(LOGITS, LABELS), float(D)))
    for start, end in ((0.03 + 1j, 0.03 + 0.001j), (0.03 + 1j, 0.045 + 1e-6j), (1 + 1j, 0.01 + 0.01j)):
        state, fresh = (Continuation(solver.equation).at(unit**2 * z) for z in (start, end))
        tries.clear()
        assert solver.follow(state, unit**2 * end).m == pytest.approx(fresh.m, rel=1e-6)
        assert len(tries) < 20


@pytest.mark.parametrize("name", ["kernel", "everything"])
def test_powers_do_not_depend_on_what_was_asked_before(name):
    """In bands and gaps, and in any order."""
    model = model_of(LAWS[name])
    theory = model.theory()
    found = {count: theory.gradient_power(count) for count in (3, 2, 1, 4)}
    for count, power in found.items():
        assert power == pytest.approx(model.theory().gradient_power(count), rel=1e-5)
    assert 0 < found[1] < found[2] < found[3] < found[4] < 1


@pytest.mark.parametrize("x", [0.002, 0.01, 0.03, 0.1, 0.3])
def test_one_step_to_the_axis_is_the_long_way(x):
    """From a height that the step is large from, and from an eigenvalue's band or gap to another's."""
    solver = model_of(LAWS["everything"]).theory()._solver
    expected = solver.follow(solver.above(x, 1e-9), complex(x, 1e-11))
    for state in (solver.above(x, 0.1 * x), solver.solve(1.2 * x), solver.solve(0.9 * x)):
        found = solver.beside(state, x)
        if found is not None:
            assert found.m == pytest.approx(expected.m, rel=1e-4)
            assert found.a == pytest.approx(expected.a, rel=1e-4)
    assert solver.solve(x).m == pytest.approx(expected.m, rel=1e-4)


@pytest.mark.parametrize("unit", [1e-5, 1.0, 1e5])
def test_a_solution_lands_on_the_axis_below_unless_it_moves_far(unit):
    """In the bulk, at 0.01, and beyond the spectrum, at 2; whatever the unit of length."""
    law = rl.AnisotropicGradients.clustered(C, unit, 0.7 * unit, 0.4 * unit, COVARIANCE)
    solver = Continuation(Separable(law.weighted_rows(LOGITS, LABELS), float(D)))
    for x, inside in ((0.01 * unit**2, True), (2 * unit**2, False)):
        close = solver.above(x, 1e-9 * x)
        for height in (1e-3, 9e-3):
            landed = solver.landed(solver.above(x, height * x))
            assert landed.z == x
            assert landed.m == pytest.approx(close.m, rel=1e-7, abs=0)
            assert landed.a == pytest.approx(close.a, rel=1e-7, abs=0)
            assert (landed.m.imag > 0.1 * abs(landed.m)) == inside
            assert inside or landed.m.imag == landed.a.imag == landed.trace.imag == 0
            errors = solver.equation.at(landed.z, landed.m, landed.a)[0]
            assert np.all(np.abs(errors) < 1e-9 * np.abs([landed.a, landed.m]))
        for height in (0.05, 0.5):  # m at the axis differs by 4% and more
            high = solver.above(x, height * x)
            assert solver.landed(high) is high


def test_a_solution_solves_the_matrix_equations():
    """The equations of `separable` with D x D and n x n matrices written out."""
    rows = LAW.weighted_rows(LOGITS, LABELS)
    equation = Separable(rows, float(D))
    z = complex(0.03, 0.01)
    solver = Continuation(equation)
    state = solver.at(z)
    shares, counts = COVARIANCE.shares(D)
    sigma = np.append(np.repeat(shares, counts.astype(int)), np.zeros(D - 100))
    # Means at right angles to nothing in particular: many random directions, averaged.
    found = []
    rng = np.random.default_rng(0)
    for _ in range(60):
        means = rows.means @ np.linalg.qr(rng.standard_normal((D, rows.factor.shape[1])))[0].T
        weights = 1 / (1 + state.m * equation.t)
        resolvent = np.linalg.inv(np.diag(state.a * sigma - z) + means.T @ (weights[:, None] * means))
        rest = np.linalg.inv(np.diag(1 / weights) + means @ (means / (state.a * sigma - z)).T)
        found.append([sigma @ np.diag(resolvent), equation.t @ np.diag(rest), np.trace(resolvent)])
    spread = np.std(found, axis=0) / 60**0.5 + 0.02 * np.abs(np.mean(found, axis=0))
    assert np.all(np.abs(np.mean(found, axis=0) - [state.m, state.a, state.trace]) < 4 * spread)
    # All derivatives of Phi against differences.
    step = 1e-6
    (of_m, of_a), here = equation.at(z, state.m, state.a)
    assert max(abs(of_m), abs(of_a)) < 1e-9
    ahead = equation.at(z, state.m + step, state.a)[0]
    np.testing.assert_allclose(ahead[0] / step, here.hessian[0], rtol=1e-4)
    np.testing.assert_allclose(ahead[1] / step, here.hessian[1], rtol=1e-4)
    ahead = equation.at(z, state.m, state.a + step)[0]
    np.testing.assert_allclose(ahead[1] / step, here.hessian[2], rtol=1e-3)
    ahead = equation.at(z + step, state.m, state.a)[0]
    np.testing.assert_allclose(np.array(ahead) / step, here.mixed, rtol=1e-3)
    above, below = (solver.follow(state, z + h) for h in (1e-4j, -1e-4j))
    slope = (equation.potential(above) - equation.potential(below)) / 2e-4j
    assert slope == pytest.approx(-state.trace, rel=1e-4)


def test_nothing_random_is_exact():
    gram = np.eye(C) + 0.3
    laws = rl.KernelGradients(kernels()), *(rl.AnisotropicGradients(square * gram, 0.0) for square in (1.0, 1e14))
    for law in laws:
        model = model_of(law)
        theory, spectrum = model.theory(), model.spectrum(rng=0)
        np.testing.assert_allclose(theory.outliers(), spectrum.outliers(), rtol=1e-9)
        for count in (1, 2):
            assert theory.gradient_power(count) == pytest.approx(spectrum.gradient_power(count))
        assert theory.goldilocks_ratio() == pytest.approx(spectrum.goldilocks_ratio())
        np.testing.assert_array_equal(theory.outliers_std(), np.zeros(C - 1))
        assert theory.goldilocks_ratio_std() == theory.gradient_power_std(1) == 0
        smaller, largest = theory.outliers()[-2:].tolist()
        assert [theory.count_above(x) for x in (largest, 0.5 * (smaller + largest), smaller)] == [0, 1, 1]
        with pytest.raises(ValueError, match="must have residuals for a density"):
            theory.pdf(0.1)


def test_what_is_fixed_has_places_for_as_many_as_there_are():
    """Of means alone as many eigenvalues are positive as means; zeros beyond."""
    theory = model_of(rl.AnisotropicGradients(np.eye(C) + 0.3, 0.0)).theory()
    places = theory.quantiles([0.5, 1.0, 1.5, 2.0, C + 0.5, C + 1.5, D])
    largest, smaller = theory.outliers()[::-1]
    np.testing.assert_array_equal(places, [largest, largest, smaller, smaller, 0, 0, 0])


def test_a_gradient_of_zero():
    """Every class once and no class preferred: the means' parts of the gradient cancel; residuals may be made to."""
    logits, labels = np.zeros((C, C)), np.arange(C)
    given = rl.GivenLogits(logits, labels)
    fixed = rl.LandscapeModel(C, C, D, given, rl.AnisotropicGradients(np.eye(C), 0.0)).theory()
    assert (fixed.equation.vector_square, fixed._points[0].max() > 0) == (0.0, True)
    assert np.isnan(fixed._points[1]).all()
    slopes = rl.CrossEntropy().gradient(logits, labels)
    law = rl.AnisotropicGradients(np.zeros((C, C)), 1.0, COVARIANCE, cancelling=slopes)
    theory = rl.LandscapeModel(C, C, D, given, law).theory()
    assert theory.equation.vector_square == 0.0
    x = theory.quantiles([0.5])[0] * np.array([1.0, 1e9])
    np.testing.assert_array_equal(theory.gradient_pdf(x), [np.nan, 0.0])
    assert theory.pdf(x[0]) > 0


def test_what_no_row_has_of_the_gradient_is_in_the_null_space():
    """All of it in so many directions that four rows span next to nothing; less in few."""
    rows = WeightedRows((), np.zeros((0, 0)), np.ones(4), np.zeros(0), np.full(4, 0.5), 1.5, rl.ResidualCovariance())
    whole = 1.5**2 / (4 * 0.5**2 + 1.5**2)
    for num_parameters in (10**9, 16):
        theory = StructuredTheory.over(rows, num_parameters, C)
        assert theory.gradient_power(num_parameters) == pytest.approx(1 - whole * (1 - 4 / num_parameters))


def test_densities_in_other_units():
    """Gradients 100 times as long have eigenvalues 1e4 times as large."""
    one, two = (model_of(rl.AnisotropicGradients.clustered(C, s, 0.7 * s, 0.4 * s)).theory() for s in (1.0, 100.0))
    x = one.bulk_edge * np.array([0.5, 0.0, 0.3, 0.2, -1.0, 0.3])
    for name in ("pdf", "gradient_pdf"):
        found = getattr(one, name)(x)
        np.testing.assert_allclose(getattr(two, name)(1e4 * x), found / 1e4, rtol=1e-6)
        np.testing.assert_array_equal(found > 0, x > 0)
        np.testing.assert_allclose(found[[0, 3]], [getattr(one, name)(x[j]) for j in (0, 3)], rtol=1e-6)
    assert one._along(x[[0, 2]]) is one._along(x[[0, 2]])  # kept for the other density


def test_bad_input():
    theory = model_of(LAWS["anisotropic"]).theory()
    with pytest.raises(ValueError, match="`above` must be > 0 and <= D = 120"):
        theory.quantiles([0.0])
    with pytest.raises(ValueError, match="must have a positive length"):
        model_of(rl.AnisotropicGradients(np.zeros((C, C)), 0.0)).theory()
    for length in (1e-39, 1e-70, 1e-90):
        with pytest.raises(ValueError, match="so long that the largest eigenvalue is >= 1e-76"):
            model_of(rl.UnevenGradients(length, length)).theory()
    with pytest.raises(ValueError, match="no residuals, or some whose eigenvalues float64 holds beside the means'"):
        model_of(rl.UnevenGradients(1.0, 1e-7)).theory()
    with pytest.raises(ValueError, match="`sigma_H` must be 0"):
        rl.LandscapeModel(N, C, D, GIVEN, LAW, sigma_H=1.0).theory()
    with pytest.raises(ValueError, match="`num_directions` must be"):
        theory.gradient_power(D + 1)


def test_a_state_on_the_axis_has_the_real_part_of_each_number():
    numbers = [complex(k, 0.1 * k) for k in range(1, 10)]
    state = State(*numbers[:4], tuple(numbers[4:7]), tuple(numbers[7:]))
    assert state.real == State(1, 2, 3, 4, (5, 6, 7), (8, 9))


@pytest.mark.parametrize(("cancelled", "with_means"), [(False, True), (True, True), (True, False)])
def test_exact_sums_are_means_of_draws(cancelled, with_means):
    """Rows of which one combination may be 0, along with what it has of the means; the gradient's square too."""
    along = np.array([0.9, 0.1, -0.2, 0.3])
    along /= np.linalg.norm(along)
    slopes = np.array([1.0, 0.5, -0.4, 0.8])
    slopes -= (along @ slopes) * along
    rows = WeightedRows(
        blocks=(
            Block(np.array([0, 1]), np.array([[1.0, 0.2], [0.3, -0.1]])),
            Block(np.array([1, 2]), np.array([[0.2, 0.1], [0.0, 0.3]])),
        ),
        factor=np.array([[1.0, 0.0], [0.2, 0.4], [-0.3, 0.5]]),
        scales=np.array([1.2, 0.5, 0.3, 0.4]),
        mean_slopes=np.array([0.7, -0.2, 0.4]),
        slopes=slopes,
        dropped=0.0 if cancelled else 0.6,
        covariance=rl.ResidualCovariance([2.0, 1.0, 0.5]),
        cancelled=along if cancelled else None,
    )
    if not with_means:
        nothing = {"factor": np.zeros((0, 0)), "mean_slopes": np.zeros(0)}
        rows = dataclasses.replace(rows, blocks=(), **nothing)
    equation = Separable(rows, 4.0)
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((20_000, 4, rows.factor.shape[1])))[0].swapaxes(1, 2)  # orthonormal rows
    normal, last = rng.standard_normal((20_000, 4, 4)), rng.standard_normal((20_000, 4))
    if cancelled:
        normal -= along[:, None] * (along @ normal)[:, None, :]
    roots = np.sqrt(np.append([2.0, 1.0, 0.5], 0.0) / 3.5)
    draws = rows.means @ turned + rows.scales[:, None] * normal * roots
    gradients = (rows.mean_slopes @ rows.factor) @ turned + (slopes @ normal + rows.dropped * last) * roots
    grams = draws @ draws.swapaxes(1, 2)
    trace, square = equation.power_sums
    assert_mean(np.trace(grams, axis1=1, axis2=2), trace, detect=0.06 * trace)
    assert_mean(np.sum(grams**2, axis=(1, 2)), square, detect=0.12 * square)
    lengths = np.sum(gradients**2, axis=1)
    variance = equation.vector_square_variance
    assert_mean(lengths, equation.vector_square, detect=0.1 * equation.vector_square)
    assert_mean((lengths - lengths.mean()) ** 2, variance, detect=0.25 * variance)


def test_logarithms_in_a_half_plane_know_its_border():
    """As those a little inside of it, whichever side of the axis rounding and signs of zeros are on."""
    values = np.array([-2.0, -0.5, 0.5, 2.0, 1 + 1j, -1 + 1e-3j, 3j])
    for side in (1, -1):
        for off in (0.0, -0.0, 1e-17, -1e-17):
            numbers = values.real + 1j * np.where(values.imag == 0, off, side * values.imag)
            inside = np.log(values.real + 1j * np.where(values.imag == 0, side * 1e-17, side * values.imag))
            np.testing.assert_allclose(_logs(numbers, side), inside, rtol=1e-14)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_determinant_below_the_axis_is_the_product_of_eigenvalues(rank):
    """X - i Y, positive Y of full rank or not: log det is continuous from where Y is large."""
    rng = np.random.default_rng(0)
    x, root = rng.standard_normal((3, 3)), rng.standard_normal((3, rank))
    x, y = x + x.T, root @ root.T + (np.eye(3) * 0.1 if rank == 3 else 0)
    found = _log_det_below(x - 1j * y)
    shares = np.linspace(0.0, 1.0, 4001)
    dets = np.linalg.det(x - 1j * (y + 1e4 * np.eye(3) * (1 - shares[:, None, None]) ** 4))
    angles = np.unwrap(np.angle(dets))
    angles += 2 * np.pi * np.round((-1.5 * np.pi - angles[0]) / (2 * np.pi))
    assert found.real == pytest.approx(np.log(abs(dets[-1])))
    assert found.imag == pytest.approx(angles[-1])


def test_rows_are_random_if_any_part_of_them_is():
    rows = WeightedRows((), np.ones((1, 1)), np.zeros(2), np.ones(1), np.zeros(2), 0.0, rl.ResidualCovariance())
    assert not rows.spread
    for part in ({"dropped": 0.5}, {"slopes": np.array([0.0, -0.1])}, {"scales": np.array([0.1, 0.0])}):
        assert dataclasses.replace(rows, **part).spread


def test_newtons_step_goes_to_the_zero_of_a_quadratic():
    """Of a gradient of known second derivatives, whose zero is one step away; none where they are singular."""
    hessian = np.array([[2.0 + 0.3j, -0.7], [-0.7, -1.5 + 0.1j]])
    target = np.array([0.4 - 0.2j, -0.9j])
    state = State(1j, 0j, 0j, 0j, (hessian[0, 0], hessian[0, 1], hessian[1, 1]), (0.3, -0.2j))
    np.testing.assert_allclose(state.step(tuple(-hessian @ target)), target, rtol=1e-14)
    np.testing.assert_allclose(hessian @ np.array(state.slopes), [-0.3, 0.2j], atol=1e-15)
    moved = state.moved(0.1j, 0.2)
    assert (moved.m, moved.a, moved.hessian) == (0.1j, 0.2, state.hessian)
    assert moved.trace == pytest.approx(-0.3 * 0.1j + 0.2j * 0.2)
    singular = dataclasses.replace(state, hessian=(1.0, 2.0, 4.0))
    assert np.isnan(singular.step((1.0, 1.0))).all()


def few_rows():
    """Four rows in six dimensions, three mean rows, all parts of the gradient."""
    return WeightedRows(
        blocks=(
            Block(np.array([0, 2]), np.array([[1.0, 0.2], [0.3, -0.1], [0.2, 0.1]])),
            Block(np.array([1, 2]), np.array([[-0.4, 0.3]])),
        ),
        factor=np.array([[1.0, 0.1, 0.0], [0.2, 0.4, 0.3], [-0.3, 0.5, 0.6]]),
        scales=np.array([1.2, 0.5, 0.3, 0.4]),
        mean_slopes=np.array([0.7, -0.2, 0.4]),
        slopes=np.array([1.0, 0.5, -0.4, 0.8]),
        dropped=0.6,
        covariance=rl.ResidualCovariance([2.0, 1.0, 0.5], [1, 2, 1]),
    )


SIGMA = np.array([2.0, 1.0, 1.0, 0.5, 0.0, 0.0]) / 4.5
SOME = [
    (-0.3 + 0.2j, 1.5 + 0.8j, 0.9 - 0.4j),
    (0.7 + 1j, -0.4 + 0.6j, 1.3 - 0.2j),
    (4 + 0.5j, -0.2 + 0.02j, 2.0 - 0.01j),
]


def parts_of(m, a, z):
    """K, W, q and k of few_rows, every matrix written out."""
    rows, loadings = few_rows(), np.array([[1, 0, 0.2], [0.3, 0, -0.1], [0.2, 0, 0.1], [0, -0.4, 0.3]])
    t, p = np.diag(rows.scales**2), loadings @ rows.factor
    inside = np.linalg.inv(np.eye(4) + m * t)
    kernel, weight = p.T @ inside @ p, np.sum(1 / (a * SIGMA - z)) / 6
    q = m * (rows.slopes @ inside @ rows.slopes + rows.dropped**2)
    k = rows.factor.T @ rows.mean_slopes - m * p.T @ np.sqrt(t) @ inside @ rows.slopes
    return kernel, weight, q, k


def difference(function, places, j, step=1e-5):
    """Of a function of (m, a, z), in the j-th."""
    ahead, behind = ([x + sign * step * (i == j) for i, x in enumerate(places)] for sign in (1, -1))
    return (np.array(function(*ahead)) - np.array(function(*behind))) / (2 * step)


@pytest.mark.parametrize(("z", "m", "a"), SOME)
@pytest.mark.parametrize("with_means", [True, False])
def test_the_equation_is_where_its_potential_is_stationary(z, m, a, with_means):
    """Phi of `separable`, its slopes and second derivatives by differences, anywhere, a solution or not."""
    rows, nothing = few_rows(), {"factor": np.zeros((0, 0)), "mean_slopes": np.zeros(0), "blocks": ()}
    equation = Separable(rows if with_means else dataclasses.replace(rows, **nothing), 6.0)

    def potential(m, a, z):
        kernel, weight, _, _ = parts_of(m, a, z)
        means = np.log(np.linalg.det(np.eye(3) + kernel * weight)) if with_means else 0.0
        return np.sum(np.log(a * SIGMA - z)) + np.sum(np.log(1 + m * rows.scales**2)) + means - a * m

    def errors(m, a, z):
        return equation.at(z, m, a)[0]

    found, state = equation.at(z, m, a)
    assert (state.z, state.m, state.a) == (z, m, a)
    np.testing.assert_allclose(found, [difference(potential, (m, a, z), j) for j in range(2)], rtol=1e-7)
    assert state.trace == pytest.approx(-difference(potential, (m, a, z), 2), rel=1e-7)
    np.testing.assert_allclose(state.hessian[:2], difference(errors, (m, a, z), 0), rtol=1e-7)
    np.testing.assert_allclose(state.hessian[1:], difference(errors, (m, a, z), 1), rtol=1e-7)
    np.testing.assert_allclose(state.mixed, difference(errors, (m, a, z), 2), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("z", "m", "a"), SOME)
def test_the_gradients_form_and_its_slopes(z, m, a):
    equation = Separable(few_rows(), 6.0)
    state = equation.at(z, m, a)[1]

    def form(m, a, z):
        kernel, weight, q, k = parts_of(m, a, z)
        return q + weight * k @ np.linalg.solve(np.eye(3) + kernel * weight, k)

    power, of_m, of_a = equation.power_slopes(state)
    assert power == equation.power(state) == pytest.approx(form(m, a, z), rel=1e-12)
    assert of_m == pytest.approx(difference(form, (m, a, z), 0), rel=1e-7)
    assert of_a == pytest.approx(difference(form, (m, a, z), 1), rel=1e-7)
    q, k, q_slope, k_slope = equation.slope(m)
    np.testing.assert_allclose(np.append(k, q), np.append(*parts_of(m, a, z)[:1:-1]), rtol=1e-12)
    by_steps = difference(lambda m, a, z: np.append(*parts_of(m, a, z)[:1:-1]), (m, a, z), 0)
    np.testing.assert_allclose(np.append(k_slope, q_slope), by_steps, rtol=1e-7)
    assert equation.mean_weight(state) == pytest.approx(parts_of(m, a, z)[1], rel=1e-12)
    # At z -> infinity, where m is -1/z, the form is the mean square of the gradient over -z.
    far = equation.power(equation.at(-1e9, 1e-9, float(equation.t.sum()))[1])
    assert far == pytest.approx(1e-9 * equation.vector_square, rel=1e-6)


def test_bounds_of_the_spectrum():
    """Of white rows the edge of Marchenko and Pastur; with means no draw is beyond, and not far within."""
    white = WeightedRows((), np.zeros((0, 0)), np.full(8, 0.3), np.zeros(0), np.zeros(8), 0.0, rl.ResidualCovariance())
    edge = 0.09 * (1 + (8 / 50) ** 0.5) ** 2
    assert Separable(white, 50.0).reach == Separable(white, 50.0).residual_reach == pytest.approx(edge)
    equation = Separable(few_rows(), 6.0)
    tops = [np.linalg.norm(few_rows().draw(6, np.random.default_rng(i))[0], 2) ** 2 for i in range(20)]
    assert max(tops) / 3 < equation.reach
    assert equation.mean_squares[-1] < equation.reach < 3 * max(tops)
    kernel = parts_of(0.0, 0.0, 1.0)[0]
    np.testing.assert_allclose(equation.mean_squares, np.linalg.eigvalsh(kernel), rtol=1e-12)
    root = (SIGMA[0] * equation.t.sum()) ** 0.5 + equation.t.max() ** 0.5
    assert equation.residual_reach == pytest.approx(root**2)
    assert equation.reach == pytest.approx((root + np.linalg.eigvalsh(kernel)[-1] ** 0.5) ** 2)
    none = dataclasses.replace(white, scales=np.zeros(8))
    assert Separable(none, 50.0).residual_reach == 0.0


def test_theories_of_rows_that_float64_holds():
    """The largest eigenvalue from 1e-76 on, and residuals from 1e-11 of it on."""
    rows = few_rows()
    unit = 1e-76 / Separable(rows, 6.0).reach
    for factor, fine in ((1.01, True), (0.99, False)):
        root = (factor * unit) ** 0.5
        small = dataclasses.replace(rows, factor=root * rows.factor, scales=root * rows.scales)
        if fine:
            assert StructuredTheory.over(small, 6, 3).num_parameters == 6
        else:
            with pytest.raises(ValueError, match="must be so long that the largest eigenvalue is >= 1e-76"):
                StructuredTheory.over(small, 6, 3)
    share = Separable(rows, 6.0).residual_reach / Separable(rows, 6.0).mean_squares[-1]
    for factor, fine in ((1.05, True), (0.9, False)):
        weak = dataclasses.replace(rows, scales=(1e-11 * factor / share) ** 0.5 * rows.scales)
        if fine:
            assert StructuredTheory.over(weak, 6, 3).equation.rows is weak
        else:
            with pytest.raises(ValueError, match=">= 1e-11 times the largest; got 1e-11 and 1"):
                StructuredTheory.over(weak, 6, 3)
    none = dataclasses.replace(rows, factor=0 * rows.factor, scales=0 * rows.scales)
    with pytest.raises(ValueError, match="positive length where the logits have curvature; got none"):
        StructuredTheory.over(none, 6, 3)


def solutions():
    return Continuation(Separable(few_rows(), 6.0))


@pytest.mark.parametrize("z", [0.5 + 0.3j, 2.0 + 1e-3j, 0.05 + 0.2j, 5 + 1j, 0.3 + 1e-6j])
def test_solutions_are_what_a_fixed_point_iteration_finds(z):
    """M and a as functions of each other, from -1/z and with damping; reached by ways and by Newton's method."""
    equation = Separable(few_rows(), 6.0)
    high = complex(z.real, max(z.imag, 0.2))
    m, a = -1 / high, complex(equation.t.sum())
    for _ in range(800):
        of_m, of_a = equation.at(high, m, a)[0]
        m, a = m + 0.3 * of_a, a + 0.3 * of_m
    solver = solutions()
    assert solver.at(high).m == pytest.approx(m, rel=1e-8)
    assert solver.at(high).a == pytest.approx(a, rel=1e-8)
    state = solver.at(z)
    assert state.z == z
    assert np.all(np.abs(equation.at(z, state.m, state.a)[0]) < 1e-10 * np.abs([state.a, state.m]))
    assert solver.proved(state) is state
    # By one long way and in the order of a path.
    far = solver.at(complex(z.real, 3.0))
    assert solver.follow(far, z).m == pytest.approx(state.m, rel=1e-9)
    way = [solver.at(z + 0.02 * k * (1 + 1j)) for k in (5, 4, 3, 2, 1)]
    assert solver.onward(way, z).m == pytest.approx(state.m, rel=1e-6)
    assert solver.onward(way[-1:], z).m == pytest.approx(state.m, rel=1e-9)


def test_counts_go_with_the_trace_on_the_axis():
    """Minus the slope of the number above is the trace's imaginary part over pi; quantiles invert it."""
    solver = solutions()
    equation = solver.equation
    x = np.linspace(0.02, 1.3 * equation.reach, 20)
    states = [solver.solve(place) for place in x.tolist()]
    counts = np.array([equation.count_above(state) for state in states])
    assert (np.diff(counts) < 1e-9).all()
    assert counts[-1] == pytest.approx(0.0, abs=1e-9)
    for place, state in zip(x.tolist(), states, strict=True):
        assert state.z == place
        above = solver.at(complex(place, 1e-7))
        assert state.m == pytest.approx(above.m, rel=1e-3)
        step = 1e-4 * place
        ahead, behind = (equation.count_above(solver.solve(place + sign * step)) for sign in (1, -1))
        assert (behind - ahead) / (2 * step) == pytest.approx(state.trace.imag / np.pi, rel=0.02, abs=0.01)
    for goal in (0.2, 0.5, 1.0, 1.7, 2.5, 3.3):
        fresh = solutions().quantile(goal, 0.5 * equation.reach)
        assert equation.count_above(fresh) == pytest.approx(goal, abs=2e-6)
        other = solver.quantile(goal, 0.1)
        assert equation.count_above(other) == pytest.approx(goal, abs=2e-6)
        assert goal == 1.0 or other.z.real == pytest.approx(fresh.z.real, rel=1e-5)  # a gap has many


def test_no_way_leads_below_the_axis():
    solver = solutions()
    with pytest.raises(NoWay, match=r"no way found to 0.5-0.3j"):
        solver.follow(solver.at(0.5 + 0.3j), 0.5 - 0.3j)


def test_newtons_method_tells_where_it_finds_nothing():
    solver = solutions()
    z = 0.5 + 0.3j
    state = solver.at(z)
    near = solver.refine(z, 1.02 * state.m, 0.97 * state.a)
    assert near.m == pytest.approx(state.m, rel=1e-9)
    # Too few steps, no number, and the solution of the lower half plane.
    assert solver.refine(z, 1.3 * state.m, 0.5 * state.a, 2) is None
    assert solver.refine(z, np.nan, state.a) is None
    assert solver.refine(z.conjugate(), state.m.conjugate(), state.a.conjugate()) is None
    rough = solver.refine(z, 1.02 * state.m, 0.97 * state.a, precision=0.1)
    assert 1e-9 < abs(rough.m / state.m - 1) < 0.01


def test_densities_counts_and_powers_of_few_rows_belong_together():
    theory = StructuredTheory.over(few_rows(), 6, 3)
    equation = theory.equation
    top = 1.4 * equation.reach
    # x = top e^(-y): more nodes near 0.
    nodes, weights = np.polynomial.legendre.leggauss(120)
    y = 4.0 * (nodes + 1)
    x = top * np.exp(-y)
    density, of_gradient = theory.pdf(x), theory.gradient_pdf(x)
    assert (density >= 0).all()
    assert (theory.pdf([0.0, -1.0, 2 * top]) == 0).all()
    assert 6 * np.sum(4 * weights * x * density) == pytest.approx(theory.count_above(x.min()), rel=0.01)
    share = np.sum(4 * weights * x * of_gradient)
    assert share == pytest.approx(1.0, abs=0.04)  # four rows span all that Sigma has
    place = theory.quantiles([1.3])[0]
    assert theory.count_above(place) == pytest.approx(1.3, abs=1e-5)
    assert theory.outliers(1)[0] == theory.quantiles([0.5])[0]
    powers = [theory.gradient_power(count) for count in range(7)]
    assert powers[0] == 0.0
    assert (np.diff(powers[:5]) > 0).all()
    assert powers[4:] == [1.0] * 3
    level = theory._boundary(1).x
    part = x > level
    assert np.sum((4 * weights * x * of_gradient)[part]) == pytest.approx(powers[1], abs=0.03)


@pytest.mark.parametrize("covariance", [rl.ResidualCovariance(), rl.ResidualCovariance.power_law(0.6, 60)])
@pytest.mark.parametrize("num_parameters", [10**4, 120, 70, 30])
def test_the_span_of_rows_has_its_share_of_what_they_do_not_carry(num_parameters, covariance):
    """Frozen examples of wrong labels: their part of the gradient lies anywhere, in the span of the others too."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((30, 3))
    logits[:10] *= 60
    labels = logits.argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 3
    if num_parameters == 30 and not covariance.isotropic:
        covariance = rl.ResidualCovariance.power_law(0.6, 25)
    law = rl.AnisotropicGradients(0.05 * np.eye(3), 0.7, covariance)
    rows = law.weighted_rows(logits, labels)
    theory = StructuredTheory.over(rows, num_parameters, 3)
    drawn, squares = [], []
    for i in range(120):
        own, gradient = rows.draw(num_parameters, np.random.default_rng(i))
        outside = gradient - np.linalg.lstsq(own.T, gradient, rcond=1e-12)[0] @ own
        drawn.append(outside @ outside)
        squares.append(gradient @ gradient)
    expected = theory._null_power * theory.equation.vector_square
    assert_mean(squares, theory.equation.vector_square, detect=0.5 * theory.equation.vector_square)
    assert_mean(drawn, expected, bias=0.03 * expected + 1e-9, detect=0.6 * expected + 1e-6)
    assert theory.gradient_power(num_parameters) == pytest.approx(1 - theory._null_power)
    if rows.scales.size >= min(num_parameters, theory.equation.spectrum[1][:-1].sum()):
        assert theory._null_power == 0.0
