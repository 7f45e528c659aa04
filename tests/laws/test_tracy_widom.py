"""Tracy-Widom against Painleve II at 80 digits, determinants at 30 digits, published numbers, dense draws."""

import mpmath as mp
import numpy as np
import pytest

import rmtland as rl
from rmtland.laws import tracy_widom
from tests.statistical import assert_mean
from tools import tabulate_tracy_widom

LAWS = {beta: rl.TracyWidom(beta=beta) for beta in (1, 2, 4)}
SCALE = {1: 1.0, 2: 1.0, 4: 2**0.5}  # from the variable of the determinants to that of the law


@pytest.fixture(scope="module")
def painleve():
    """Log cdf, log sf, log pdf by s, then beta, in the variable s of the determinants, from +24 to -20 by quarters.

    The Hastings-McLeod solution of q'' = s q + 2 q^3 by Taylor steps from the right, where it is Ai(s) up to Ai(s)^3;
    with I = int q and R = int q^2 over (s, infinity), L = log F2, L' = R: log F1 = (L - I) / 2 and
    F4 = (exp((L - I) / 2) + exp((L + I) / 2)) / 2. An error grows by 1e36 on the way: 80 digits leave 30.
    """
    order, step, values = 56, mp.mpf(-1) / 4, {}
    with mp.workdps(90):
        s = mp.mpf(24)
        q, slope = mp.airyai(s), mp.airyai(s, derivative=1)
        r = slope**2 - s * q * q
        total = mp.mpf(1) / 3 - mp.airyai(s, derivative=-1)
        log_f2 = -(2 * s * s * q * q - 2 * s * slope * slope - q * slope) / 3
        while s >= -20:
            values[float(s)] = laws_of(q, total, r, log_f2)
            a, square = [q, slope], []
            for k in range(order):
                square.append(mp.fdot(a[: k + 1], a[k::-1]))
                cube = mp.fdot(a[: k + 1], square[::-1])
                a.append((s * a[k] + (a[k - 1] if k else 0) + 2 * cube) / ((k + 1) * (k + 2)))
            powers = [step**k for k in range(order + 3)]
            log_f2 += r * step - mp.fsum(c * powers[k + 2] / ((k + 1) * (k + 2)) for k, c in enumerate(square))
            r -= mp.fsum(c * powers[k + 1] / (k + 1) for k, c in enumerate(square))
            total -= mp.fsum(c * powers[k + 1] / (k + 1) for k, c in enumerate(a))
            q, slope = mp.fdot(a, powers), mp.fsum(k * c * powers[k - 1] for k, c in enumerate(a) if k)
            s += step
    return values


def laws_of(q, total, r, log_f2):
    minus, plus = (log_f2 - total) / 2, (log_f2 + total) / 2
    slope_minus, slope_plus = (r + q) / 2, (r - q) / 2
    four = (mp.exp(minus) + mp.exp(plus)) / 2
    pdf = {
        1: mp.exp(minus) * slope_minus,
        2: mp.exp(log_f2) * r,
        4: (mp.exp(minus) * slope_minus + mp.exp(plus) * slope_plus) / 2,
    }
    cdf = {1: mp.exp(minus), 2: mp.exp(log_f2), 4: four}
    return {beta: tuple(float(mp.log(v)) for v in (cdf[beta], 1 - cdf[beta], pdf[beta])) for beta in cdf}


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_against_painleve_from_tail_to_tail(beta, painleve):
    law, scale = LAWS[beta], SCALE[beta]
    s = np.array(sorted(painleve))
    x = s / scale
    log_cdf, log_sf, log_pdf = np.array([painleve[point][beta] for point in s]).T
    log_pdf += np.log(scale)
    assert log_cdf[0] < -230  # the left end is below 1e-100
    assert log_sf[-1] < (-75 if beta == 1 else -150)
    # Logarithms are compared, so this is relative accuracy of cdf, sf and pdf in both tails.
    np.testing.assert_allclose(law.logcdf(x), log_cdf, rtol=3e-15, atol=1e-13)
    np.testing.assert_allclose(law.logsf(x), log_sf, rtol=3e-15, atol=1e-13)
    np.testing.assert_allclose(law.pdf(x), np.exp(log_pdf), rtol=1e-12)
    np.testing.assert_allclose(law.cdf(x), np.exp(log_cdf), rtol=1e-12)
    np.testing.assert_allclose(law.sf(x), np.exp(log_sf), rtol=1e-12)
    # And in the bulk absolutely.
    np.testing.assert_allclose(law.cdf(x), np.exp(log_cdf), rtol=0, atol=1e-14)


def airy_kernel_determinant(s, order):
    """F2 by its own kernel, (Ai(x) Ai'(y) - Ai'(x) Ai(y)) / (x - y), on (s, s + 24)."""
    nodes, weights = mp_legendre(order, s, s + 24)
    ai = [mp.airyai(x) for x in nodes]
    slope = [mp.airyai(x, derivative=1) for x in nodes]

    def kernel(i, j):
        if i == j:
            return slope[i] ** 2 - nodes[i] * ai[i] ** 2
        return (ai[i] * slope[j] - slope[i] * ai[j]) / (nodes[i] - nodes[j])

    return mp.det(
        mp.matrix(order, order)
        + mp.matrix(
            [[(i == j) - mp.sqrt(weights[i] * weights[j]) * kernel(i, j) for j in range(order)] for i in range(order)]
        )
    )


def half_kernel_determinants(s, order):
    """det(I - V) and det(I + V), V(x, y) = Ai((x + y) / 2) / 2, on (s, s + 30)."""
    nodes, weights = mp_legendre(order, s, s + 30)
    v = mp.matrix(order, order)
    for i in range(order):
        for j in range(i + 1):
            v[i, j] = v[j, i] = mp.sqrt(weights[i] * weights[j]) * mp.airyai((nodes[i] + nodes[j]) / 2) / 2
    return mp.det(mp.eye(order) - v), mp.det(mp.eye(order) + v)


def mp_legendre(order, low, high):
    """Gauss-Legendre rule from mpmath's polynomial and its derivative."""
    half = (high - low) / 2
    guess = np.polynomial.legendre.leggauss(order)[0]
    nodes = [mp.findroot(lambda x: mp.legendre(order, x), mp.mpf(float(g)), tol=1e-60) for g in guess]
    weights = [2 * (1 - x * x) / (order * mp.legendre(order - 1, x)) ** 2 for x in nodes]
    return [low + half * (1 + x) for x in nodes], [half * w for w in weights]


@pytest.mark.parametrize("s", ["-3.7", "0.3"])
def test_beta_2_against_the_airy_kernel_at_30_digits(s):
    with mp.workdps(35):
        exact = airy_kernel_determinant(mp.mpf(s), 36)
        assert LAWS[2].cdf(float(s)) == pytest.approx(float(exact), rel=1e-14)
        assert LAWS[2].sf(float(s)) == pytest.approx(float(1 - exact), rel=1e-12)


@pytest.mark.parametrize("s", ["-4.1", "-1.3"])
def test_beta_1_and_4_against_determinants_at_30_digits(s):
    with mp.workdps(35):
        minus, plus = half_kernel_determinants(mp.mpf(s), 40)
        assert LAWS[1].cdf(float(s)) == pytest.approx(float(minus), rel=1e-13)
        assert LAWS[4].cdf(float(s) / 2**0.5) == pytest.approx(float((minus + plus) / 2), rel=1e-13)
        assert LAWS[2].cdf(float(s)) == pytest.approx(float(minus * plus), rel=1e-13)


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_far_right_tail_against_the_airy_trace(beta):
    # 1 - F1 = int Ai / 2, 1 - F2 = int K(x, x), 1 - F4 = half the second less the first squared, next order e^(-s^1.5).
    law, scale = LAWS[beta], SCALE[beta]
    with mp.workdps(160):
        for s in (15.9, 16.0, 22.3, 31.0, 49.0):
            x = mp.mpf(s)
            ai, slope = mp.airyai(x), mp.airyai(x, derivative=1)
            one = (mp.mpf(1) / 3 - mp.airyai(x, derivative=-1)) / 2
            two = (2 * x * x * ai * ai - 2 * x * slope * slope - ai * slope) / 3
            density = {1: ai / 2, 2: slope**2 - x * ai * ai, 4: (slope**2 - x * ai * ai) / 2 - one * ai / 2}[beta]
            sf = {1: one, 2: two, 4: (two - one**2) / 2}[beta]
            assert law.sf(s / scale) == pytest.approx(float(sf), rel=1e-12)
            assert law.pdf(s / scale) == pytest.approx(float(density * scale), rel=1e-12)
            assert law.isf(float(sf)) == pytest.approx(s / scale, rel=1e-14)
    assert law.sf(49.0 / scale) < (1e-101 if beta == 1 else 1e-190)


def test_left_tail_against_published_constants():
    # Baik, Buckingham, DiFranco (2008): F1 ~ 2^(-11/48) e^(zeta'(-1)/2) ..., F2 ~ 2^(1/24) e^(zeta'(-1)) ...
    zeta = -0.1654211437004509
    s = -1e4
    x = -s
    one = -(x**3) / 24 - x**1.5 / (3 * 2**0.5) - np.log(x) / 16 - 11 / 48 * np.log(2) + zeta / 2
    two = -(x**3) / 12 - np.log(x) / 8 + np.log(2) / 24 + zeta
    four = -(x**3) / 24 + x**1.5 / (3 * 2**0.5) - np.log(x) / 16 - 35 / 48 * np.log(2) + zeta / 2
    assert LAWS[1].logcdf(s) == pytest.approx(one, rel=1e-15)
    assert LAWS[2].logcdf(s) == pytest.approx(two, rel=1e-15)
    assert LAWS[4].logcdf(s / 2**0.5) == pytest.approx(four, rel=1e-15)


@pytest.mark.parametrize(
    ("law", "mean", "var", "skewness", "kurtosis"),
    [  # Bornemann (2010), table 10; beta = 4 in both scales
        (rl.TracyWidom(1), -1.2065335745820, 1.6077810345810, 0.29346452408, 0.1652429384),
        (rl.TracyWidom(2), -1.771086807411, 0.8131947928329, 0.224084203610, 0.0934480876),
        (rl.TracyWidom(4), -2.306884893241, 0.5177237207726, 0.16550949435, 0.0491951565),
        (rl.TracyWidom(4, convention="matrix"), -2.0552008, 0.4109176, 0.16550949435, 0.0491951565),
    ],
)
def test_published_moments(law, mean, var, skewness, kurtosis):
    tracy_widom._table.cache_clear()  # the sums are made here, whatever ran before
    digits = 1e-7 if law.convention == "matrix" else 1e-11
    assert law.mean() == pytest.approx(mean, rel=digits)
    assert law.var() == pytest.approx(var, rel=digits)
    assert law.skewness() == pytest.approx(skewness, abs=1e-10)
    assert law.kurtosis() == pytest.approx(kurtosis, abs=1e-9)
    assert law.moment(0) == pytest.approx(1, rel=1e-14)


def test_published_quantiles():
    # Johnstone (2001), table 2: 90, 95 and 99 per cent points of F1.
    np.testing.assert_allclose(LAWS[1].ppf([0.90, 0.95, 0.99]), [0.45, 0.98, 2.02], atol=0.005)


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_quantiles_from_end_to_end_of_the_floats(beta):
    law = LAWS[beta]
    p = 10.0 ** -np.array([1, 3, 10, 30, 100, 200, 300])
    np.testing.assert_allclose(law.logcdf(law.ppf(p)), np.log(p), rtol=1e-13)
    np.testing.assert_allclose(law.logsf(law.isf(p)), np.log(p), rtol=1e-13)
    assert law.ppf(0.0) == -np.inf
    assert law.ppf(1.0) == np.inf
    assert np.isfinite(law.ppf([5e-324, np.nextafter(1, 0)])).all()
    x = law.ppf(np.linspace(1e-6, 1 - 1e-6, 20_001))
    assert np.all(np.diff(x) > 0)


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_quantiles_start_near_their_end(beta, monkeypatch):
    """Newton's method from a good guess takes two steps nearly everywhere, bisection many."""
    tracy_widom._table.cache_clear()  # the guesses are made here, whatever ran before
    evaluate, points = tracy_widom._Table.log_mass_and_slope, []

    def counted(table, s):
        points.append(s.size)
        return evaluate(table, s)

    monkeypatch.setattr(tracy_widom._Table, "log_mass_and_slope", counted)
    p = 10.0 ** -np.linspace(0.5, 300, 1000)
    for method in (rl.TracyWidom(beta).ppf, rl.TracyWidom(beta).isf):
        method(p)
        assert sum(points) < 2.2 * p.size
        points.clear()


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_seams_of_the_table_do_not_show(beta):
    law, scale = LAWS[beta], SCALE[beta]
    for s in (-12.0, -4.0, -2.0, 0.125, 16.0):
        before, after = np.nextafter(s / scale, -np.inf), np.nextafter(s / scale, np.inf)
        for method in (law.pdf, law.cdf, law.sf):
            assert method(before) == pytest.approx(method(after), rel=1e-13)
    beyond = np.array([-1e200, -1e5, 1e5, 1e200, 1e308])
    np.testing.assert_array_equal(law.pdf(beyond), 0)
    np.testing.assert_array_equal(law.cdf(beyond), [0, 0, 1, 1, 1])
    logs = law.logcdf([-np.inf, -1e200, -1e5, -10.0, 0.0, np.inf])
    assert np.all(logs[1:] >= logs[:-1])
    np.testing.assert_array_equal(law.logcdf([-np.inf, np.inf]), [-np.inf, 0])
    np.testing.assert_array_equal(law.logsf([-np.inf, np.inf]), [0, -np.inf])
    assert np.isnan(law.logcdf(np.nan))
    assert np.isnan(law.logsf([np.nan, 0.0])).tolist() == [True, False]


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_tails_take_over_where_the_table_ends(beta):
    table = tracy_widom._table(beta)
    ends = (table.low, -1, table._left_tail), (table.high, 1, table._right_tail)
    for end, side, tail in ends:
        s = end + side * np.array([0.01, 0.5, 0.99, 1.01, 2.5]) / table.density
        value, slope = table.log_mass_and_slope(s)
        np.testing.assert_array_equal(table.log_mass(s), tail(s)[0])
        np.testing.assert_array_equal((value, slope), tail(s))
        within = end - side * np.array([0.01, 0.5]) / table.density
        np.testing.assert_allclose(table.log_mass_and_slope(within), tail(within), rtol=1e-7)


# Traps seen in other packages.


def test_trap_conventions_of_beta_4():
    ours, matrix = rl.TracyWidom(4), rl.TracyWidom(4, convention="matrix")
    x = np.linspace(-5, 1, 13)
    np.testing.assert_allclose(ours.cdf(x), matrix.cdf(x * 2 ** (-1 / 6)), rtol=1e-13)
    np.testing.assert_allclose(ours.pdf(x), matrix.pdf(x * 2 ** (-1 / 6)) * 2 ** (-1 / 6), rtol=1e-13)
    assert ours.ppf(0.3) == pytest.approx(matrix.ppf(0.3) * 2 ** (1 / 6), rel=1e-14)
    for beta in (1, 2):
        assert rl.TracyWidom(beta).cdf(-1.0) == rl.TracyWidom(beta, convention="matrix").cdf(-1.0)


def test_trap_quantiles_near_one_are_numbers():
    q = 1 - 10.0 ** -np.arange(3, 16)
    for law in LAWS.values():
        x = law.ppf(q)
        assert np.isfinite(x).all()
        assert np.all(np.diff(x) > 0)


def test_trap_far_tail_is_not_off_by_ninety_per_cent():
    # log10 sf from the Airy function alone, to leading order.
    s = 9.0
    leading = -2 / 3 * s**1.5 - np.log(4 * np.sqrt(np.pi) * s**0.75)
    assert LAWS[1].logsf(s) == pytest.approx(leading, abs=0.1)


def dense_maxima(beta, n, count, rng):
    """Largest eigenvalues of Gaussian ensembles with off-diagonal E |h|^2 = 1, centred at n + 1/2 - 1/beta, scaled."""
    found = []
    for _ in range(count):
        if beta == 4:
            a = (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))) / 2
            b = (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))) / 2
            h = np.block([[a, b], [-b.conj(), a.conj()]])
            h = (h + h.conj().T) / np.sqrt(2)
        elif beta == 2:
            h = (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))) / np.sqrt(2)
            h = (h + h.conj().T) / np.sqrt(2)
        else:
            h = rng.standard_normal((n, n))
            h = (h + h.T) / np.sqrt(2)
        found.append(np.linalg.eigvalsh(h)[-1])
    shifted = n + 0.5 - 1 / beta
    return (np.array(found) - 2 * np.sqrt(shifted)) * shifted ** (1 / 6)


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "convention"), [(1, "tracy-widom"), (2, "tracy-widom"), (4, "matrix")])
def test_dense_draws_follow_the_law(beta, convention):
    law = rl.TracyWidom(beta, convention=convention)
    x = dense_maxima(beta, 60, 1800, np.random.default_rng(beta))
    bias = 60 ** (-2 / 3)
    assert_mean(law.cdf(x), 0.5, bias=0.1 * bias, detect=0.1)
    with pytest.raises(AssertionError, match="off by"):  # the mutant: scale n^(1/6) taken as n^(1/3)
        assert_mean(law.cdf(x * 60 ** (1 / 6)), 0.5, bias=0.1 * bias, detect=0.1)
    if beta == 4:
        with pytest.raises(AssertionError, match="off by"):  # the mutant: the other convention
            assert_mean(rl.TracyWidom(4).cdf(x), 0.5, bias=0.1 * bias, detect=0.1)


def test_bad_parameters():
    for beta in (0, 3, 5, -1):
        with pytest.raises(ValueError, match="`beta` must be one of 1, 2, 4; got"):
            rl.TracyWidom(beta=beta)
    for beta in (1.0, "1", None, np.nan, True):
        with pytest.raises(TypeError, match="`beta` must be an integer; got"):
            rl.TracyWidom(beta=beta)
    with pytest.raises(ValueError, match="`convention` must be one of 'tracy-widom', 'matrix'; got 'dyson'"):
        rl.TracyWidom(beta=4, convention="dyson")
    with pytest.raises(TypeError, match="`x` must be real numbers"):
        rl.TracyWidom().logcdf("x")
    with pytest.raises(TypeError, match="`x` must be real numbers"):
        rl.TracyWidom().logsf(1j)


@pytest.mark.slow
def test_table_is_the_one_its_script_makes():
    # One long piece made anew, and both tails; the whole takes minutes.
    with mp.workprec(tabulate_tracy_widom.BITS):
        made = tabulate_tracy_widom.long_piece(0, 60, 26)
        right = tabulate_tracy_widom.right_tail()
        left = tabulate_tracy_widom.left_tail()
        with np.load(tracy_widom._FILE) as data:
            first = int((0 - data["left"]) * data["pieces_per_unit"])
            for beta in (1, 2, 4):
                pieces = np.array(tabulate_tracy_widom.short_pieces(made[beta]))
                stored = data[f"centre_{beta}"][first : first + len(pieces)]
                np.testing.assert_allclose(stored, pieces, rtol=0, atol=1e-15)
                np.testing.assert_allclose(data[f"right_{beta}"], right[beta], rtol=0, atol=1e-15)
            np.testing.assert_array_equal(data["minus"], left[0])
            np.testing.assert_array_equal(data["plus"], left[1])


def test_moments_beyond_float64_are_refused():
    assert np.isfinite(rl.TracyWidom(2).moment(149))
    with pytest.raises(OverflowError, match=r"`k` must leave E x\^k within the range of float64; got 1000"):
        rl.TracyWidom(2).moment(1000)
