"""Generalised Marchenko-Pastur against polynomial roots, quadrature, dense matrices and its one-atom case."""

import math
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar

import rmtland as rl
from rmtland.laws.atoms import counts as counts
from rmtland.laws.atoms import edges as edges
from rmtland.laws.atoms import kernels as kernels
from rmtland.laws.atoms.plain import PlainAtoms
from rmtland.laws.numerics import Slopes, extrapolate
from rmtland.laws.subordination import Atoms, Subordination
from tests.statistical import assert_mean

NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def mass(law, bands=None, tolerance=1e-10):
    """Atom plus the integral of the pdf over the bands, by adaptive Gauss-Legendre in the angle of each band."""

    def integral(p, q, low, high):
        angle = (p + q) / 2 + (q - p) / 2 * NODES
        x = np.where(
            angle < np.pi / 2,
            low + (high - low) * np.sin(angle / 2) ** 2,
            high - (high - low) * np.cos(angle / 2) ** 2,
        )
        return np.sum(WEIGHTS * law.pdf(x) * np.sin(angle)) * (high - low) * (q - p) / 4

    total = law.atom
    for low, high in law.support if bands is None else bands:
        todo = [(0.0, np.pi, integral(0, np.pi, low, high))]
        while todo:
            p, q, whole = todo.pop()
            middle = (p + q) / 2
            left, right = integral(p, middle, low, high), integral(middle, q, low, high)
            if abs(left + right - whole) <= tolerance * (q - p) or q - p < 1e-9:
                total += left + right
            else:
                todo += [(p, middle, left), (middle, q, right)]
    return total


def population(kind, size, rng):
    return {
        "exponential": lambda: rng.exponential(size=size),
        "decades": lambda: 10 ** rng.uniform(-12, 2, size=size),
        "integers": lambda: rng.integers(1, 4, size=size).astype(float),
        "narrow": lambda: 1 + 1e-6 * rng.random(size),
        "even": lambda: np.linspace(0.5, 1.5, size),
    }[kind]()


def polynomial(t, w, dimension, z):
    """Coefficients in g, highest first, of g prod(1 + t g) (z + D/g - sum w t / (1 + t g))."""
    factors = [[mpmath.mpf(x), mpmath.mpf(1)] for x in t]

    def product(parts):
        result = [mpmath.mpf(1)]
        for part in parts:
            new = [mpmath.mpf(0)] * (len(result) + len(part) - 1)
            for i, a in enumerate(result):
                for j, b in enumerate(part):
                    new[i + j] += a * b
            result = new
        return result

    total = [z * c for c in product([*factors, [mpmath.mpf(1), mpmath.mpf(0)]])]
    for i, c in enumerate(product(factors)):
        total[i + 1] += mpmath.mpf(dimension) * c
    for k in range(len(t)):
        others = product([*(f for j, f in enumerate(factors) if j != k), [mpmath.mpf(1), mpmath.mpf(0)]])
        for i, c in enumerate(others):
            total[i + 1] -= mpmath.mpf(w[k]) * mpmath.mpf(t[k]) * c
    return total


def g_by_roots(t, w, dimension, z):
    """The solution of the upper half plane, by all roots at 40 digits; None where all are real."""
    with mpmath.workdps(40):
        roots = mpmath.polyroots(polynomial(t, w, dimension, mpmath.mpmathify(z)), maxsteps=500, extraprec=400)
        above = [root for root in roots if root.imag > mpmath.mpf(10) ** -15 * abs(root)]
    assert len(above) <= 1
    return complex(above[0]) if above else None


# Kernels against NumPy.


@pytest.fixture(scope="module")
def atoms():
    rng = np.random.default_rng(3)
    t = np.sort(rng.exponential(size=37))
    t /= t[-1]
    c = rng.uniform(0.01, 0.1, size=37)
    return t, c * t, c * t * t, 1 - c.sum(), c


@pytest.mark.parametrize(("r", "v"), [(0.3, 0.2), (-0.5, 0.01), (1e-5, 1e-6), (2.0, 1e-9)])
def test_kernels_match_numpy(atoms, r, v):
    t, b, a, deficit, _ = atoms
    u = r + 1j * v
    value, slope = kernels.evaluate(r, v, t, b, a, deficit)
    assert value == pytest.approx(u + np.sum(b) + np.sum(a / (u - t)), rel=1e-11, abs=1e-15)
    assert slope == pytest.approx(1 - np.sum(a / (u - t) ** 2), rel=1e-12)
    value, slope = kernels.evaluate_real(r, t, b, a, deficit)
    assert value == pytest.approx(r + np.sum(b) + np.sum(a / (r - t)), rel=1e-10, abs=1e-15)
    assert slope == pytest.approx(1 - np.sum(a / (r - t) ** 2), rel=1e-10)
    h, rate = kernels.height_sums(r, v * v, t, a)
    assert h == pytest.approx(np.sum(a / np.abs(u - t) ** 2), rel=1e-12)
    assert rate == pytest.approx(np.sum(a / np.abs(u - t) ** 4), rel=1e-12)


def test_an_atom_counts_for_itself_as_from_its_own_edge(atoms):
    # sqrt(a) away, which is below the rounding of r where an atom is lone.
    t, b, a, deficit, _ = atoms
    for k in (0, 20, 36):
        apart = np.where(np.arange(37) == k, a[k] ** 0.5, t[k] - t)
        value, slope = kernels.evaluate_real(t[k], t, b, a, deficit)
        assert value == pytest.approx(t[k] * (1 + np.sum(b / apart)), rel=1e-10)
        assert slope == pytest.approx(1 - np.sum(a / apart**2), rel=1e-10)
        for power, found in zip((2, 3, 4), edges._sums(t[k], 0, 37, t, a), strict=True):
            assert found == pytest.approx(np.sum(a / apart**power), rel=1e-10)


@contextmanager
def interpreted():
    """Kernels by Python, as far as `py_func` calls them, and how many sums over the atoms they take."""
    taken = [0]

    def counted(kernel):
        def one_more(*arguments):
            taken[0] += 1
            return kernel(*arguments)

        return one_more

    with pytest.MonkeyPatch.context() as patch:
        for name in ("evaluate", "evaluate_real", "height_sums"):
            patch.setattr(kernels, name, counted(getattr(kernels, name)))
        patch.setattr(edges, "_sums", counted(edges._sums))
        for name in ("newton", "climb", "height", "height_off_axis", "on_curve"):
            patch.setattr(kernels, name, getattr(kernels, name).py_func)
        for name in ("evaluate", "evaluate_real", "height"):
            patch.setattr(counts, name, getattr(kernels, name))
        patch.setattr(counts, "_quantile", counts._quantile.py_func)
        yield taken


# Of all points at once: along the axis, a tenth above it, one above it and downwards, and quantiles from both sides.
# The first of them, with no neighbour, may take 150, as rounding has it.
@pytest.mark.parametrize(
    ("share", "costs"),
    [(1.0, (6.5, 8.5, 5, 45, 28)), (0.1, (7, 7, 5, 24, 24)), (None, (6.5, 7.5, 5, 19, 19))],
    ids=["few eigenvalues", "bands", "hard edge"],
)
def test_neighbours_are_solved_by_few_sums_over_the_atoms(atoms, share, costs):
    t, _, _, _, c = atoms
    c = c / c.sum() if share is None else c * share
    b, a, deficit, weights, dimension = c * t, c * t * t, 0.0 if share is None else 1 - c.sum(), 50 * c, 50.0
    rank = min(weights.sum(), dimension)
    low, high = edges.outer_crossings(t, a, share is None)
    least, most = (kernels.evaluate_real(u, t, b, a, deficit)[0] for u in (low, high))
    inner = (np.arange(100) + 0.5) / 100
    x, goals, law = least + (most - least) * inner, rank * inner, (t, b, a, deficit)
    asked = [
        (kernels.solve_real, (x, low, high, *law)),
        (kernels.solve_complex, (x + 0.1j, *law)),
        (kernels.solve_complex, (5 * x[::-1] - 2 + 1j, *law)),
        *((counts.quantiles, (goals, side, low, high, *law, weights, dimension, rank)) for side in (True, False)),
    ]
    taken = []
    for kernel, arguments in asked:
        with interpreted() as sums:
            found = kernel.py_func(*arguments)
        taken.append(sums[0] / 100)
        np.testing.assert_allclose(found, kernel(*arguments), rtol=1e-12)
    assert (np.array(taken) <= costs).all(), taken


def test_height_is_where_h_is_one(atoms):
    t, _, a, _, _ = atoms
    for r in [*np.linspace(-1.0, 2.0, 60), *t]:
        v = kernels.height(r, 0.0, t, a)
        if v == 0:
            assert kernels.height_sums(r, 1e-18, t, a)[0] <= 1 + 1e-6
        else:
            y = brentq(lambda s, r=r: np.sum(a / ((r - t) ** 2 + np.exp(s))) - 1, -40, 3, xtol=1e-14)
            assert v == pytest.approx(np.exp(y / 2), rel=1e-7)
        # From any first guess, far too high or low.
        for guess in (1e-8, 1.0, 50.0):
            assert kernels.height(r, guess, t, a) == pytest.approx(v, rel=1e-9, abs=1e-12)
            with interpreted() as sums:
                kernels.height(r, guess, t, a)
            assert sums[0] <= 12


@pytest.mark.parametrize("step", [1e-12, 1e-3, 0.1, 0.19, 0.21, 0.5, 1.0, 1.8])
def test_rises_of_the_count_are_those_of_long_numbers(step):
    with mpmath.workdps(50):
        for first in (1e-6, 0.05, 0.7, 1.2):

            def whole(x):
                return (x - mpmath.sin(x) * mpmath.cos(x)) / mpmath.sin(x) ** 2

            expected = float(whole(mpmath.mpf(first) + mpmath.mpf(step)) - whole(mpmath.mpf(first)))
            assert counts.rise(first, step) == pytest.approx(expected, rel=1e-9)


def test_counts_match_their_textbook_form(atoms):
    t, _, a, _, c = atoms
    weights, dimension = 50 * c, 50.0
    rank = min(weights.sum(), dimension)
    for r in np.linspace(0.05, 1.1, 25):
        v = kernels.height(r, 0.0, t, a)
        u = complex(r, v)
        if v == 0:
            expected = weights[t > r].sum()
        else:
            g = -1 / u
            expected = np.sum(weights * (np.log(1 + t * g) + 1 / (1 + t * g))) - dimension * np.log(g)
            expected = expected.imag / np.pi + dimension
        assert counts.count_above(u, t, weights, dimension) == pytest.approx(expected, abs=1e-11)
        assert counts.count_below(u, t, weights, dimension, rank) == pytest.approx(rank - expected, abs=1e-11)


def test_edges_are_zeros_of_the_derivative(atoms):
    t, b, a, deficit, _ = atoms
    low, high = edges.outer_crossings(t, a, False)
    u = edges.crossings(low, high, t, a, 4).ravel()
    value, curvature = edges.edges(u, t, b, a, deficit)
    for x, r, bend in zip(value, u, curvature, strict=True):
        assert 1 - np.sum(a / (r - t) ** 2) == pytest.approx(0, abs=1e-11)
        assert bend == pytest.approx(abs(2 * np.sum(a / (r - t) ** 3)), rel=1e-11)
        assert x == pytest.approx(r + np.sum(b) + np.sum(a / (r - t)), rel=1e-11)


# One atom: Marchenko-Pastur, in both forms.


@pytest.mark.parametrize("ratio", [1e-3, 0.3, 1.0, 2.5, 40.0])
def test_one_atom_is_marchenko_pastur(ratio):
    law, known = rl.GeneralizedMarchenkoPastur.sample_covariance([1.7**2], ratio), rl.MarchenkoPastur(ratio, sigma=1.7)
    low, high = known.support
    np.testing.assert_allclose(law.support, [[low, high]], rtol=1e-13, atol=1e-13)
    assert law.atom == pytest.approx(known.atom, abs=1e-15)
    x = low + (high - low) * np.array([1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-9])
    np.testing.assert_allclose(law.pdf(x), known.pdf(x), rtol=1e-5)  # the rounding of x, this near to the edges
    np.testing.assert_allclose(law.pdf(x[1:-1]), known.pdf(x[1:-1]), rtol=1e-10)
    np.testing.assert_allclose(law.cdf(x), known.cdf(x), rtol=1e-5)
    np.testing.assert_allclose(law.sf(x[1:-1]), known.sf(x[1:-1]), rtol=1e-10)
    p = np.array([1e-12, 1e-6, 0.01, 0.5])
    np.testing.assert_allclose(law.isf(p * (1 - law.atom)), known.isf(p * (1 - law.atom)), rtol=1e-13)
    assert law.mean() == pytest.approx(known.mean(), rel=1e-14)
    assert law.var() == pytest.approx(known.var(), rel=1e-14)
    assert law.moment(6) == pytest.approx(known.moment(6), rel=1e-13)
    z = np.array([-1, high + 1, high - 0.1 + 1j, low + 0.1 - 1e-3j, 0.5 * (low + high), 0.5 * high + 1.7**2 * 1j])
    np.testing.assert_allclose(law.stieltjes(z), known.stieltjes(z), rtol=1e-12)


def test_hard_edge_down_to_the_smallest_eigenvalues():
    law, known = rl.GeneralizedMarchenkoPastur([1 / 7], 7, [7]), rl.MarchenkoPastur(1.0)
    x = np.array([1e-40, 1e-30, 1e-20, 1e-12, 1e-6])
    np.testing.assert_allclose(law.pdf(x), known.pdf(x), rtol=1e-12)
    np.testing.assert_allclose(law.cdf(x), known.cdf(x), rtol=1e-12)
    p = np.array([1e-60, 1e-30, 1e-12, 1e-5, 1e-3])
    np.testing.assert_allclose(law.ppf(p), known.ppf(p), rtol=1e-10)
    assert law.pdf(0.0) == np.inf
    assert law.support[0, 0] == 0
    assert law.edge_scales[0, 0] == 0
    assert law.stieltjes(0.0) == np.inf


def test_the_wishart_form_has_no_hidden_normalisation():
    law = rl.GeneralizedMarchenkoPastur([2.0], 100, [30])
    assert law.mean() == 60.0
    assert law.atom == 0.7
    assert law.size == 100.0
    assert law.ratio == 0.3
    np.testing.assert_allclose(
        law.support, [[2 * (100**0.5 - 30**0.5) ** 2, 2 * (100**0.5 + 30**0.5) ** 2]], rtol=1e-13
    )


def test_sample_covariance_is_the_companion():
    population, ratio = [0.5, 1.0, 4.0, 0.0], 0.4
    law = rl.GeneralizedMarchenkoPastur.sample_covariance(population, ratio)
    n, p = law.num_parameters, law.size
    assert (p, n) == (4.0, 10.0)
    companion = rl.GeneralizedMarchenkoPastur(np.array(population) / n, n)
    z = np.array([0.3 + 0.2j, -1.0, 20.0, 2.0 - 0.1j])
    np.testing.assert_allclose(p * law.stieltjes(z), n * companion.stieltjes(z) + (n - p) / z, rtol=1e-12)
    np.testing.assert_allclose(law.support, companion.support, rtol=1e-13)
    x = np.array([0.4, 1.0, 5.0])
    np.testing.assert_allclose(p * law.pdf(x), n * companion.pdf(x), rtol=1e-12)
    np.testing.assert_allclose(p * law.sf(x), n * companion.sf(x), rtol=1e-12)
    assert law.mean() == pytest.approx(np.mean(population))
    assert law.var() == pytest.approx(np.var(population) + ratio * np.mean(population) ** 2)
    # Only the proportions of weights matter to the law; the number of eigenvalues follows their sum.
    other = rl.GeneralizedMarchenkoPastur.sample_covariance(population, ratio, weights=np.full(4, 0.25))
    np.testing.assert_allclose(other.pdf(x), law.pdf(x), rtol=1e-12)
    assert (other.size, other.count_below(1e9), law.count_below(1e9)) == (1.0, 1.0, 4.0)


# The right branch.


@pytest.mark.parametrize("seed", range(12))
def test_density_is_the_root_of_the_upper_half_plane(seed):
    rng = np.random.default_rng(seed)
    k = 1 + seed % 5
    t = population(("exponential", "decades", "narrow")[seed % 3], k, rng)
    w = rng.uniform(0.1, 20, size=k)
    dimension = 10 ** rng.uniform(-1, 3)
    law = rl.GeneralizedMarchenkoPastur(t, dimension, w)
    low, high = law.support[:, 0], law.support[:, 1]
    for u in (1e-3, 0.3, 0.77, 0.999):
        for x in low + (high - low) * u:
            expected = g_by_roots(t, w, dimension, x)
            assert law.pdf(x) == pytest.approx(expected.imag / (np.pi * dimension), rel=1e-8)
            assert law.stieltjes(x) == pytest.approx(expected / dimension, rel=1e-8)
            assert law.stieltjes(complex(x, -0.0)) == pytest.approx(expected.conjugate() / dimension, rel=1e-8)
    for x in [*(0.5 * (high[:-1] + low[1:])), high[-1] * 1.5, -high[-1]]:
        assert g_by_roots(t, w, dimension, x) is None
        assert law.pdf(x) == 0
        assert law.stieltjes(x).dtype == np.float64
    for z in (high[-1] * (0.5 + 1e-3j), low[0] + 0.2j * high[-1], -1 + 1e-9j):
        expected = g_by_roots(t, w, dimension, z) / dimension
        assert law.stieltjes(z) == pytest.approx(expected, rel=1e-9)
        assert law.stieltjes(np.conj(z)) == pytest.approx(np.conj(expected), rel=1e-9)


def test_other_roots_lie_about():
    # The trap is real: where the density is wanted the equation has other roots, real ones, a Newton step away.
    t, w, dimension = [1.0, 3.0, 10.0], [5.0, 5.0, 5.0], 60
    law = rl.GeneralizedMarchenkoPastur(t, dimension, w)
    with mpmath.workdps(30):
        roots = mpmath.polyroots(polynomial(t, w, dimension, mpmath.mpf(law.ppf(0.9))), maxsteps=200, extraprec=200)
    assert len(roots) == 4
    assert sum(abs(root.imag) < 1e-20 for root in roots) == 2


def test_stieltjes_signs_and_decay():
    law = rl.GeneralizedMarchenkoPastur([1.0, 5.0], 30, [10, 3])
    assert law.stieltjes(1e3) < 0 < law.stieltjes(-1e3)
    z = np.array([1e9 + 1e9j, -1e12, 1e15])
    np.testing.assert_allclose(law.stieltjes(z) * -z, 1, rtol=1e-6)
    assert law.stieltjes(0.0) == np.inf  # the atom
    # The mean inverse of a matrix of Wishart's: 1 / (N - D).
    assert rl.GeneralizedMarchenkoPastur([1.0], 4, [16]).stieltjes(0.0) == pytest.approx(1 / 12, rel=1e-12)
    assert rl.GeneralizedMarchenkoPastur.sample_covariance([1.0], 0.25).stieltjes(0.0) == pytest.approx(
        4 / 3, rel=1e-12
    )
    np.testing.assert_array_equal(law.stieltjes([np.inf, -np.inf]), [0, 0])
    rng = np.random.default_rng(0)
    z = rng.uniform(-50, 200, size=300) + 1j * 10 ** rng.uniform(-12, 2, size=300)
    m = law.stieltjes(z)
    assert (m.imag > 0).all()
    assert ((z * m).imag >= 0).all()  # a law on the positive axis
    g = law.num_parameters * m
    np.testing.assert_allclose(-30 / g + 10 / (1 + g) + 15 / (1 + 5 * g), z, rtol=1e-9)


# No mass is lost.


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, size) for kind in ("exponential", "integers", "narrow", "even") for size in (1, 20, 100, 3000)),
        *(("decades", size) for size in (1, 20, 100)),  # more in one band: see the test by logarithmic panels
    ],
)
@pytest.mark.parametrize("ratio", [0.2, 1.0, 3.0])
def test_total_mass(kind, size, ratio):
    law = rl.GeneralizedMarchenkoPastur(population(kind, size, np.random.default_rng(size)), size / ratio)
    assert mass(law) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("kind", ["exponential", "even"])
def test_total_mass_at_a_hundred_thousand_atoms(kind):
    law = rl.GeneralizedMarchenkoPastur(population(kind, 100_000, np.random.default_rng(5)), 50_000)
    assert mass(law, tolerance=1e-9) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_mass_over_decades_by_logarithmic_panels(ratio):
    law = rl.GeneralizedMarchenkoPastur(population("decades", 3000, np.random.default_rng(3)), 3000 / ratio)
    low, high = law.support[0]
    assert len(law.support) == 1
    assert (low == 0) == (ratio == 1)
    cuts = np.linspace(np.log(max(low, high * 1e-30)), np.log(high), 1000)
    first, last = np.exp(cuts[[1, -2]])
    total = law.cdf(first) if low == 0 else mass(law, [(low, first)], 1e-11)
    for p, q in pairwise(cuts[1:-1]):
        y = (p + q) / 2 + (q - p) / 2 * NODES
        total += np.sum(WEIGHTS * law.pdf(np.exp(y)) * np.exp(y)) * (q - p) / 2
    total += mass(law, [(last, high)], 1e-11)
    assert total == pytest.approx(1, abs=1e-8)


def test_the_mass_test_sees_a_lost_band():
    law = rl.GeneralizedMarchenkoPastur([1.0, 400.0], 1000, [999, 1])
    assert len(law.support) == 2
    assert mass(law) == pytest.approx(1, abs=1e-9)
    assert mass(law, law.support[:1]) == pytest.approx(0.999, abs=1e-9)


@pytest.mark.parametrize("weight", [1e-3, 1e-9, 1e-15])
def test_weak_bands(weight):
    laws = [rl.GeneralizedMarchenkoPastur([1.0, 2.0, 3.0], d, [20, weight, 20]) for d in (100, 1000)]
    assert [len(law.support) for law in laws] == [1, 3]
    low, high = laws[1].support[1]
    # x(u) = u (D + sum w t / (u - t)) has two extrema beside u = 2, x0 -+ 2 sqrt(w 2^2 x0') with x0 without that atom.
    half = 4 * (weight * (1000 - 20 * 1**2 / (2 - 1) ** 2 - 20 * 3**2 / (2 - 3) ** 2)) ** 0.5
    expected = 2 * (1000 + 20 * 1 / (2 - 1) + 20 * 3 / (2 - 3)) + half * np.array([-1, 1])
    np.testing.assert_allclose([low, high], expected, rtol=1e-15, atol=1e-3 * half)
    assert 1000 * (laws[1].sf(low) - laws[1].sf(high)) == pytest.approx(weight, rel=1e-9, abs=1e-14)
    for law in laws:
        assert mass(law) == pytest.approx(1, abs=1e-9)
        assert law.cdf(1e9) == 1


@pytest.mark.parametrize(
    ("t", "a"),
    [
        ([0.0115, 0.0134, 0.0163, 2.88], [9e-10, 6.2e-10, 1.8e-5, 1.5e-5]),
        ([0.0162, 0.076, 0.769], [0.52, 7.4e-9, 5.1e-9]),
        ([0.0534, 0.577, 1.68, 2.975, 3.48], [3.8e-4, 5.94, 1.93e-5, 3.67e-6, 1.9e-7]),
        ([0.0855, 0.323, 0.549, 1.21, 1.87], [3.8e-7, 7.5e-6, 0.188, 9.7e-3, 0.0192]),
    ],
)
def test_all_edges_where_a_newton_step_leaves_its_gap(t, a):
    """They are at the real roots of h = sum a / (u - t)^2 = 1, all of which a polynomial has."""
    t, a, d = np.array(t), np.array(a), 1000.0
    law = rl.GeneralizedMarchenkoPastur(t, d, a * d / t**2)
    with mpmath.workdps(60):
        squares, one = [np.poly1d([1, -mpmath.mpf(x)]) ** 2 for x in t], np.poly1d([1])
        others = (a[i] * math.prod(squares[:i] + squares[i + 1 :], start=one) for i in range(t.size))
        roots = mpmath.polyroots((math.prod(squares, start=one) - sum(others)).c.tolist(), 500, extraprec=300)
    u = np.sort([float(r.real) for r in roots if abs(r.imag) < 1e-20])
    edges = d * u * (1 + (a / t / (u[:, None] - t)).sum(axis=1))
    np.testing.assert_allclose(law.support.ravel(), edges, rtol=1e-6)


def test_a_valley_is_found_wherever_the_height_falls_below_one():
    rng = np.random.default_rng(0)
    cost = {0.9: 0, 1.1: 0}
    for _ in range(200):
        t = np.sort(rng.uniform(0.1, 1.0, 3))
        a = 10.0 ** rng.uniform(-3, 0, 3)

        def height(u, t=t, a=a):
            return float(np.sum(a / (u - t) ** 2))

        lowest = minimize_scalar(height, bounds=(t[0], t[1]), method="bounded", options={"xatol": 1e-10}).fun
        for least in (0.995, 1 - 1e-7, 1 + 1e-7):
            u, found = edges._valley(0, 0, 3, t, a * (least / lowest))
            assert found == (least < 1)
            assert not found or height(u) * least / lowest < 1
        for least in cost:
            with interpreted() as sums:
                edges._valley.py_func(0, 0, 3, t, a * (least / lowest))
            cost[least] += sums[0]
    assert cost[0.9] < 1.3 * 200
    assert cost[1.1] < 1.7 * 200


@pytest.mark.parametrize("excess", [-1e-9, -1e-11, 1e-13, 1e-12, 1e-11, 1e-10])
def test_atoms_side_by_side_leave_a_gap_only_below_one(excess):
    # Of two atoms alone the least h is (cbrt a + cbrt a')^3 / width^2.
    d, a = 1e-6, np.array([1.0, 2.0])
    t = np.array([1 - d, 1 + d])
    a *= (1 + excess) * (t[1] - t[0]) ** 2 / np.cbrt(a).sum() ** 3
    assert edges._valley(0, 0, 2, t, a)[1] == (excess < 0)


def test_bands_that_nearly_touch():
    # Two atoms 1 -+ d with equal a = c t^2: h has its minimum 2 a / d^2 half way, so the gap closes at a = d^2 / 2.
    d = 0.25
    t = np.array([1 - d, 1 + d])
    for excess, bands in ((-1e-9, 2), (-1e-12, 2), (1e-12, 1), (1e-9, 1)):
        weights = 50 * d**2 / 2 * (1 + excess) / t**2
        law = rl.GeneralizedMarchenkoPastur(t, 50, weights)
        assert len(law.support) == bands
        assert mass(law) == pytest.approx(1, abs=1e-8)
        if bands == 2:
            gap = law.support[:, 0][1] - law.support[0, 1]
            assert 0 <= gap < 100 * abs(excess)
            assert law.count_below(0.5 * (law.support[0, 1] + law.support[1, 0])) == pytest.approx(
                50 - weights[1], rel=1e-12
            )


@settings(max_examples=12, deadline=None)
@given(
    t=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    weight=st.floats(0.05, 20),
    dimension=st.floats(0.1, 1e5),
)
def test_support_is_where_a_complex_root_exists(t, weight, dimension):
    law = rl.GeneralizedMarchenkoPastur(t, dimension, np.full(len(t), weight))
    support = law.support
    ends = support.ravel()
    assert (np.diff(ends) >= 0).all()
    values, multiplicity = np.unique(t, return_counts=True)
    w = weight * multiplicity
    wide = support[(support[:, 1] - support[:, 0]) > 1e-6 * support[:, 1]]
    for x in wide.mean(axis=1):
        assert g_by_roots(values, w, dimension, x) is not None
    for low, high in zip(support[:-1, 1], support[1:, 0], strict=True):
        if high - low > 1e-6 * high:
            assert g_by_roots(values, w, dimension, 0.5 * (low + high)) is None
    assert g_by_roots(values, w, dimension, support[-1, 1] * (1 + 1e-6)) is None


# Counts and quantiles.


def test_counts_in_gaps_are_exact_integers():
    law = rl.GeneralizedMarchenkoPastur([1.0, 50.0, 3000.0], 1000, [300, 4, 7])
    gaps = [*(0.5 * (law.support[:-1, 1] + law.support[1:, 0])), 1e9]
    assert len(law.support) == 3
    assert [law.count_below(x) for x in (-1.0, 0.0, 1.0, *gaps)] == [0, 689, 689, 989, 993, 1000]
    # More vectors than parameters: the lowest band loses the difference.
    law = rl.GeneralizedMarchenkoPastur([1.0, 1e5], 100, [300, 4])
    assert [law.count_below(x) for x in (-1.0, 0.0, 1e4, 1e9)] == [0, 0, 96, 100]
    assert law.atom == 0


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0])
def test_cdf_is_the_integral_of_pdf(ratio):
    law = rl.GeneralizedMarchenkoPastur(np.linspace(0.2, 3, 20), 20 / ratio)
    low, high = law.support[0, 0], law.support[-1, 1]
    for x in low + (high - low) * np.array([0.05, 0.3, 0.8]):
        bands = [(a, min(b, x)) for a, b in law.support if a < x]
        assert law.cdf(x) == pytest.approx(mass(law, bands), abs=1e-9)


def test_quantiles_return():
    law = rl.GeneralizedMarchenkoPastur([1.0, 1.3, 50.0, 0.0], 100, [10, 20.5, 4, 2])
    q = np.concatenate([[law.atom + 1e-9], np.linspace(law.atom + 1e-4, 1 - 1e-6, 101)])
    np.testing.assert_allclose(law.cdf(law.ppf(q)), q, rtol=0, atol=1e-13)
    p = np.array([1e-14, 1e-9, 1e-4, 0.02])
    assert np.all(np.abs(law.sf(law.isf(p)) / p - 1) <= [1e-5, 1e-8, 1e-10, 1e-12])
    np.testing.assert_array_equal(law.ppf([0.0, law.atom]), 0)
    assert law.ppf(1.0) == law.support[-1, 1]
    # At the level of a gap: the smallest x, where the lower band ends.
    gap = law.cdf(0.5 * (law.support[0, 1] + law.support[1, 0]))
    assert law.ppf(gap) == pytest.approx(law.support[0, 1], rel=1e-6)
    assert law.ppf(gap + 1e-9) > law.support[1, 0]


def test_locations():
    law = rl.GeneralizedMarchenkoPastur([1.0, 50.0], 1000, [300, 4])
    every = law.classical_locations()
    assert every.shape == (1000,)
    assert (np.diff(every) >= 0).all()
    assert (every == 0).sum() == 696
    np.testing.assert_array_equal(law.classical_locations(5), every[-5:])
    np.testing.assert_allclose(law.count_below(every[696:]), np.arange(696, 1000) + 0.5, rtol=1e-12)
    assert law.classical_locations(0).shape == (0,)
    assert rl.GeneralizedMarchenkoPastur.sample_covariance(np.ones(12), 0.5).classical_locations().shape == (12,)


def test_a_size_that_rounding_made_too_small_keeps_its_last_location():
    eps = np.finfo(float).eps
    for below, size in ((2.0, 3), (4.0, 3), (4.5, 2), (6.0, 2)):
        law = rl.GeneralizedMarchenkoPastur([1.0], 4 * (1 - below * eps) * 0.75, [1.0])
        assert law.classical_locations().shape == (size,), below


def test_many_parameters():
    # D = 1e12: every atom its own semicircle of relative width 4 sqrt(w / D).
    t = np.array([1.0, 2.0, 7.0])
    law = rl.GeneralizedMarchenkoPastur(t, 10**12)
    top = law.classical_locations(3)
    np.testing.assert_allclose(top / 1e12, t, rtol=1e-11)
    np.testing.assert_allclose(np.diff(law.support)[:, 0] / (4 * t * 1e6), 1, rtol=1e-4)
    np.testing.assert_array_equal(1e12 - law.count_below([1.5e12, 4e12, 1e13]), [2, 1, 0])
    with pytest.raises(
        MemoryError, match=r"all 1000000000000 locations needs .* ask for the k largest by `classical_locations"
    ):
        law.classical_locations()


def test_locations_are_the_means_of_eigenvalues():
    rng = np.random.default_rng(8)
    t, dimension = np.array([1.0] * 40 + [3.0, 3.1, 3.3]), 400
    law = rl.GeneralizedMarchenkoPastur(t, dimension)
    draws = []
    for _ in range(200):
        x = np.sqrt(t)[:, None] * rng.standard_normal((t.size, dimension))
        draws.append(np.linalg.eigvalsh(x @ x.T)[-3:])
    # The outliers repel at first order; quantiles of the full law know it, single-spike formulas do not.
    assert_mean(
        draws,
        law.classical_locations(3),
        bias=0.004 * law.classical_locations(3),
        detect=0.05 * law.classical_locations(3),
    )
    naive = [3.0 * dimension * (1 + 43 / dimension)] * 3
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(draws, naive, bias=0.004 * law.classical_locations(3), detect=0.05 * law.classical_locations(3))


# Against dense matrices.


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_dense_sample_covariance(ratio):
    rng = np.random.default_rng(17)
    p = 120
    population, n = np.repeat([1.0, 3.0, 8.0], [60, 30, 30]), int(120 / ratio)
    law = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 3.0, 8.0], ratio, weights=[60, 30, 30])
    rows = []
    for _ in range(150):
        x = np.sqrt(population)[:, None] * rng.standard_normal((p, n))
        values = np.linalg.eigvalsh(x @ x.T / n)
        rows.append([np.mean(1 / (values + 1)), np.mean(values**2), np.mean(values <= 1e-9)])
    rows = np.array(rows)
    expected = [law.stieltjes(-1.0), law.moment(2), law.atom]
    # Real entries: a bias of order 1/n; for the second moment exactly E sigma^2 / n.
    expected[1] += np.mean(population**2) / n
    bias, detect = np.array([0.12 / n, 1e-9, 1e-12]), np.array([0.008, 0.06 * expected[1], 1e-6])
    assert_mean(rows, expected, bias=bias, detect=detect)
    mutant = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 3.0, 8.0], 1.05 * ratio, [60, 30, 30]).stieltjes(
        -1.0
    )
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(rows[:, 0], mutant, bias=bias[0], detect=detect[0])


def test_moments_are_exact_polynomials():
    # kappa_k = D^(k-1) sum w t^k; moments from them by non-crossing partitions, in rationals.
    law = rl.GeneralizedMarchenkoPastur([1.0, 2.0, 5.0], 10, [3, 2, 1])
    k1, k2, k3, k4 = (Fraction(10) ** (k - 1) * (3 + 2 * 2**k + 5**k) for k in range(1, 5))
    expected = [1, k1, k2 + k1**2, k3 + 3 * k1 * k2 + k1**3, k4 + 4 * k1 * k3 + 2 * k2**2 + 6 * k1**2 * k2 + k1**4]
    np.testing.assert_allclose([law.moment(k) for k in range(5)], [float(x) for x in expected], rtol=1e-14)
    assert law.var() == pytest.approx(float(k2), rel=1e-14)


# Outliers.


def test_outliers_of_one_atom_follow_the_bbp_transition():
    ratio = 0.25
    law = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0], ratio)
    low, high = law.thresholds
    assert (low, high) == (pytest.approx(0.5), pytest.approx(1.5))  # 1 -+ sqrt(ratio), not (1 -+ sqrt(ratio))^2
    assert law.is_outlier([0.4999, 0.5001, 1.1, 1.4999, 1.5001, 2.2]).tolist() == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]
    assert law.outlier(5.0) == pytest.approx(5 * (1 + 0.25 / 4), rel=1e-14)
    assert law.outlier(0.1) == pytest.approx(0.1 * (1 - 0.25 / 0.9), rel=1e-13)
    assert np.isnan(law.outlier(1.2))
    np.testing.assert_array_equal(law.is_outlier([0.5, 1.5]), False)  # at the very threshold
    np.testing.assert_array_equal(np.isnan(law.outlier([0.5, 1.5])), True)
    assert law.place(1.5) == law.support[0, 1]
    assert law.place(1.2) == law.support[0, 1]
    assert law.place(0.7) == law.support[0, 0]
    assert np.isnan(law.place(3.0))
    assert rl.GeneralizedMarchenkoPastur.sample_covariance([1.0], 2.0).thresholds[0] == 0


def test_outliers_between_bands_and_without_copies():
    t, w, dimension = np.array([1.0, 20.0]), np.array([30.0, 30.0]), 1000
    law = rl.GeneralizedMarchenkoPastur(t, dimension, w)
    assert len(law.support) == 2
    for theta in (0.2, 5.0, 40.0):
        expected = theta * (dimension + np.sum(w * t / (theta - t)))
        assert law.outlier(theta) == pytest.approx(expected, rel=1e-14)
        assert law.pdf(expected) == 0
    assert law.outlier(20.0) == pytest.approx(20 * (1000 + 30 / 19), rel=1e-14)  # copies of theta do not push it
    np.testing.assert_array_equal(np.isnan(law.outlier([20.1, 1.05])), True)
    assert law.place(20.1) == law.support[1, 1]
    # Within the population of a band: a point of the band.
    law = rl.GeneralizedMarchenkoPastur([1.0, 2.0], 50, [30, 30])
    assert law.support[0, 0] < law.place(1.5) < law.support[0, 1]
    assert law.outlier([[5.0]]).shape == (1, 1)


def test_a_spike_among_the_population_stays_where_the_curve_has_it():
    t, ratio, theta = np.array([20.0, 24.0, 40.0]), 0.6, 23.0
    law = rl.GeneralizedMarchenkoPastur.sample_covariance(t, ratio)

    def location(v):
        u = complex(theta, v)
        return u * (1 + np.sum(ratio / 3 * t / (u - t)))

    v = brentq(lambda v: location(v).imag, 1.0, 100.0, xtol=1e-14)
    assert law.place(theta) == pytest.approx(location(v).real, rel=1e-12)


def test_a_spike_at_the_near_side_of_a_band_is_of_that_band():
    law = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, *np.linspace(3, 13, 21)], 0.1)
    assert len(law.support) == 2
    place = law.place(2.8)  # beyond the population of the band from 3 on, nearer to the other band than to its own end
    assert place == law.support[1, 0]


def test_outlier_of_a_dense_draw():
    rng = np.random.default_rng(4)
    t = np.append(np.repeat([1.0, 2.0], [100, 50]), 12.0)
    law = rl.GeneralizedMarchenkoPastur(t[:-1], 600)
    draws = []
    for _ in range(60):
        x = np.sqrt(t)[:, None] * rng.standard_normal((t.size, 600))
        draws.append(np.linalg.eigvalsh(x @ x.T)[-1])
    expected = law.outlier(12.0)
    assert_mean(draws, expected, bias=0.002 * expected, detect=0.1 * expected)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(draws, 12.0 * 600, bias=0.002 * expected, detect=0.1 * expected, alpha=1e-3)


# Edges.


@pytest.mark.parametrize(("n", "p"), [(300, 100), (100, 300)])
def test_edge_scale_of_one_atom_is_johnstones(n, p):
    law = rl.GeneralizedMarchenkoPastur([1.0], n, [p])
    right = (n**0.5 + p**0.5) * (n**-0.5 + p**-0.5) ** (1 / 3)
    left = abs(n**0.5 - p**0.5) * abs(n**-0.5 - p**-0.5) ** (1 / 3)
    np.testing.assert_allclose(law.edge_scales, [[left, right]], rtol=1e-11)
    assert abs(law.edge_scales[0, 1] / right**1.5 - 1) > 0.1  # not its power 3/2
    covariance = rl.GeneralizedMarchenkoPastur.sample_covariance(np.ones(p), p / n)
    np.testing.assert_allclose(covariance.edge_scales, law.edge_scales / n, rtol=1e-11)


def test_edge_scales_are_the_coefficients_of_the_square_root():
    law = rl.GeneralizedMarchenkoPastur([1.0, 4.0, 4.4, 40.0], 70, [30, 10, 10, 2])
    assert len(law.support) > 1
    width = np.diff(law.support)
    for side, sign in ((0, 1), (1, -1)):
        distance = 1e-8 * width[:, 0]
        density = law.size * law.pdf(law.support[:, side] + sign * distance)
        scale = (np.pi * density / np.sqrt(distance)) ** (-2 / 3)
        np.testing.assert_allclose(law.edge_scales[:, side], scale, rtol=1e-4)


def test_largest_eigenvalue_follows_tracy_widom_at_a_general_edge():
    rng = np.random.default_rng(11)
    t, dimension = np.repeat([1.0, 1.5], [60, 60]), 300
    law = rl.GeneralizedMarchenkoPastur(t, dimension)
    edge, scale = law.support[-1, 1], law.edge_scales[-1, 1]
    draws = []
    for _ in range(400):
        x = np.sqrt(t)[:, None] * rng.standard_normal((t.size, dimension))
        draws.append(np.linalg.eigvalsh(x @ x.T)[-1])
    deviations = (np.array(draws) - edge) / scale
    squares = (deviations - deviations.mean()) ** 2
    variance = rl.TracyWidom(beta=1).var()
    assert_mean(squares, variance, bias=0.15, detect=1.6)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(squares * 2.0, variance, bias=0.15, detect=3.0)  # scale mistaken by sqrt(2)
    assert_mean(deviations, rl.TracyWidom(beta=1).mean(), bias=0.3, detect=1.3)


# Symmetries and corners.


@settings(max_examples=40, deadline=None)
@given(
    t=st.lists(st.floats(0, 100), min_size=1, max_size=8).filter(lambda values: max(values) > 0.1),
    scale=st.floats(1e-100, 1e100),
    dimension=st.integers(1, 100),
    covariance=st.booleans(),
)
def test_scaling_order_and_grouping(t, scale, dimension, covariance):
    t = np.array(t)
    law = rl.GeneralizedMarchenkoPastur(t, dimension, covariance=covariance)
    x = law.ppf([0.3, 0.6, 0.99])
    other = rl.GeneralizedMarchenkoPastur(
        np.concatenate([t[::-1], t]) * scale, dimension, np.full(2 * t.size, 0.5), covariance=covariance
    )
    np.testing.assert_allclose(other.cdf(x * scale), law.cdf(x), atol=1e-7)
    np.testing.assert_allclose(other.support, law.support * scale, rtol=1e-6)
    assert other.atom == pytest.approx(law.atom, abs=1e-14)
    assert other.mean() == pytest.approx(law.mean() * scale, rel=1e-12)


def test_vanishing_eigenvalues_count_as_zero():
    law = rl.GeneralizedMarchenkoPastur([1.0, 1e-200, 0.0, 5e-324], 10)
    assert law.atom == 0.9
    assert law.size == 10
    assert np.isfinite(law.support).all()
    tiny = rl.GeneralizedMarchenkoPastur([1.0, 1e-60], 10)
    assert tiny.atom == 0.8
    assert len(tiny.support) == 2
    assert tiny.count_below(1e-30) == 9


def test_eigenvalues_a_rounding_apart():
    value = np.nextafter(1.0, 2)
    one, two = rl.GeneralizedMarchenkoPastur([1.0, value, 3.0], 50), rl.GeneralizedMarchenkoPastur([1, 3], 50, [2, 1])
    np.testing.assert_allclose(one.support, two.support, rtol=1e-14)


def test_narrowest_bands_still_count():
    law = rl.GeneralizedMarchenkoPastur([1.0, 2.0], 1.0, [1e-25, 1e-25])
    assert law.support.shape == (2, 2)
    assert np.diff(law.support).max() < 1e-11
    assert law.sf(1.5) == pytest.approx(1e-25, rel=1e-9, abs=0)
    assert law.sf(0.5) == pytest.approx(2e-25, rel=1e-9, abs=0)


def test_infinities_give_limits():
    law = rl.GeneralizedMarchenkoPastur([1.0, 2.0], 5)
    ends = np.array([-np.inf, np.inf])
    np.testing.assert_array_equal(law.pdf(ends), [0, 0])
    np.testing.assert_array_equal(law.cdf(ends), [0, 1])
    np.testing.assert_array_equal(law.sf(ends), [1, 0])
    np.testing.assert_array_equal(law.count_below(ends), [0, 5])
    assert np.isnan(law.count_below(np.nan))


def test_the_callers_arrays_are_his():
    t, w = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    law = rl.GeneralizedMarchenkoPastur(t, 5, w)
    t[0] = w[0] = 99
    assert law == rl.GeneralizedMarchenkoPastur([1.0, 2.0], 5, [3.0, 4.0])
    assert hash(law) == hash(rl.GeneralizedMarchenkoPastur([1.0, 2.0], 5, [3.0, 4.0]))
    assert law != rl.GeneralizedMarchenkoPastur([1.0, 2.0], 5)
    assert law != 3


BAD = [
    (([-1.0, 2.0], 5), {}, ValueError, r"`eigenvalues` must be >= 0; got -1"),
    (([], 5), {}, ValueError, r"`eigenvalues` must hold a positive entry of positive multiplicity; got 0 entries"),
    (([0.0, 0.0], 5), {}, ValueError, r"`eigenvalues` must hold a positive entry"),
    (([1.0, 0.0], 5, [0.0, 2.0]), {}, ValueError, r"`eigenvalues` must hold a positive entry"),
    (([1.0, np.nan], 5), {}, ValueError, r"`eigenvalues` must be finite; got 1 NaN"),
    (([1.0, np.inf], 5), {}, ValueError, r"`eigenvalues` must be finite; got 1 NaN or inf"),
    (([[1.0]], 5), {}, ValueError, r"`eigenvalues` must have 1 dimension; got shape \(1, 1\)"),
    ((["a"], 5), {}, TypeError, r"`eigenvalues` must be an array of real numbers"),
    (([1.0], 0), {}, ValueError, r"`num_parameters` must be > 0; got 0"),
    (([1.0], "5"), {}, TypeError, r"`num_parameters` must be a real number; got '5'"),
    (([1.0], 5, [-1.0]), {}, ValueError, r"`multiplicities` must be >= 0; got -1"),
    (([1.0], 5, [1.0, 2.0]), {}, ValueError, r"`multiplicities` must be as many as `eigenvalues`; got 2 for 1"),
    (([1.0], 5, [np.nan]), {}, ValueError, r"`multiplicities` must be finite"),
    (([1.0], 1e100), {}, ValueError, r"`multiplicities` must add up to more than 1e-99 of `num_parameters`; got 1 of"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), BAD)
def test_bad_input(args, options, error, message):
    with pytest.raises(error, match=message):
        rl.GeneralizedMarchenkoPastur(*args, **options)


def test_guesses_are_those_of_the_polynomial_through_the_last_points():
    points = [(x, 1 - 2 * x + 0.5j * x**2) for x in (0.0, 1.0, 3.0)]
    assert extrapolate(points, 4.0) == pytest.approx(-7 + 8j)
    assert extrapolate(points[:1], 4.0) == 1.0
    assert extrapolate([points[0], points[0]], 4.0) == 0.0  # the same place twice says nothing


def test_slopes_are_secants_once_there_are_two_points():
    t, w, dimension = np.array([1.0, 3.0]), np.array([2.0, 5.0]), 20.0
    slopes = Slopes(Subordination((Atoms(t, w),), dimension), PlainAtoms.of(t, w, dimension), by_differences=True)

    def z(u):
        return u + np.sum(w * t * u / (u - t)) / dimension

    first, second = 4.0 + 1.0j, 3.5 + 1.5j
    slope = 1 - np.sum(w * t**2 / (first - t) ** 2) / dimension
    for _ in range(2):  # the same point again tells no secant
        assert slopes.at(first) == (pytest.approx(z(first)), pytest.approx(slope))
    assert slopes.at(second) == (pytest.approx(z(second)), pytest.approx((z(second) - z(first)) / (second - first)))


def test_bad_sample_covariance():
    make = rl.GeneralizedMarchenkoPastur.sample_covariance
    for ratio in (-0.5, 0.0, 1e-100):
        with pytest.raises(ValueError, match=f"`ratio` must be > 1e-99; got {ratio:g}"):
            make([1.0], ratio)
    with pytest.raises(ValueError, match=r"`eigenvalues` must hold a positive entry"):
        make([], 0.5)
    with pytest.raises(ValueError, match=r"`eigenvalues` must be >= 0; got -1"):
        make([-1.0, 2.0], 0.5)
    with pytest.raises(ValueError, match=r"`weights` must have a positive sum; got 0"):
        make([1.0], 0.5, weights=[0.0])


def test_bad_calls():
    law = rl.GeneralizedMarchenkoPastur([1.0, 2.0], 5)
    for method in (law.outlier, law.is_outlier, law.place):
        with pytest.raises(ValueError, match=r"`theta` must be > 0; got -2"):
            method([-2.0, 1.0])
        with pytest.raises(ValueError, match=r"`theta` must be > 0; got 0"):
            method(0.0)
        with pytest.raises(ValueError, match=r"`theta` must be finite"):
            method(np.nan)
    with pytest.raises(ValueError, match=r"`k` must be >= 0 and <= 5; got 6"):
        law.classical_locations(6)
    with pytest.raises(ValueError, match=r"`q` must be >= 0 and <= 1; got 1.5"):
        law.ppf(1.5)
    with pytest.raises(TypeError, match=r"`z` must be real or complex numbers"):
        law.stieltjes("z")
    with pytest.raises(TypeError, match=r"`x` must be real numbers"):
        law.count_below("x")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(-60, 0), min_size=4, max_size=4),
    st.floats(-60, 60),
)
@example([0.0625, 0.25], [-3.0, -2.5, 0.0, 0.0], 46.0)  # a band narrower than rounding, whose edges were in wrong order
def test_any_ratio_and_weights(population, weights, ratio):
    # Bands may be narrower than rounding of where they are: points then, of the right place and mass.
    t, w = 10.0 ** np.array(population), 10.0 ** np.array(weights[: len(population)])
    law = rl.GeneralizedMarchenkoPastur.sample_covariance(t, 10.0**ratio, w)
    support = law.support
    assert np.isfinite(support).all()
    assert np.isfinite(law.edge_scales).all()
    assert (np.diff(support.ravel()) >= 0).all()
    assert support[0, 0] >= 0
    assert law.cdf(support[-1, 1] * (1 + 1e-9)) == 1
    x = law.ppf([0.01, 0.5, 0.99])
    assert np.isfinite(x).all()
    assert (np.diff(x) >= -1e-14 * x[1:]).all()
    assert x[-1] <= support[-1, 1] * (1 + 1e-12)
    assert np.isfinite(law.pdf(np.append(x[x > 0], 0.5 * support.sum(axis=1)))).all()


def test_lone_atoms_are_points():
    law = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], 1e-40)
    np.testing.assert_array_equal(law.support, [[1, 1], [2, 2]])
    np.testing.assert_allclose(law.cdf([0.5, 1.5, 2.5]), [0, 0.5, 1])
    # Johnstone's scale: t (p / n)^(1/2) / p^(2/3) times a factor of p alone, one atom of weight p.
    one = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0], 1e-33, [8.0]).edge_scales[0, 1]
    n, p = 8e33, 8.0
    assert one == pytest.approx((np.sqrt(n) + np.sqrt(p)) * (1 / np.sqrt(n) + 1 / np.sqrt(p)) ** (1 / 3) / n, rel=1e-6)


def test_a_wigner_part_adds_no_eigenvalues():
    plain = PlainAtoms.of(np.array([1.0, 2.0]), np.array([3.0, 4.0]), 10.0, 0.25)
    np.testing.assert_array_equal(plain.weights, [0, 3, 4])  # that at 0 stands for it
    assert [plain.atoms_above(u) for u in (-0.1, 0.5, 1.5, 2.5)] == [10, 7, 4, 0]


def test_an_angle_less_its_sine_times_its_cosine_is_accurate_where_it_is_small():
    for q in [*np.logspace(-9, -1.0001, 40), 0.1001, 0.5, 3.0]:
        with mpmath.workdps(60):
            angle = mpmath.atan(mpmath.mpf(q))
            expected = float(angle - mpmath.sin(angle) * mpmath.cos(angle))
        for adjacent in (1.0, 8.0):
            found = counts.excess(float(q) * adjacent, adjacent)
            assert found == pytest.approx(expected, rel=1e-15 if q < 0.1 else 1e-13, abs=0)
    assert counts.excess(0.0, 1.0) == 0
    assert counts.excess(1.0, -1.0) == pytest.approx(0.75 * np.pi + 0.5, rel=1e-15)
