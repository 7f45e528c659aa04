"""Every public function of operators and spectra, with every kind of input that breaks solvers: right or named."""

import numpy as np
import pytest
import torch

import rmtland as rl
from tests.spectra.spectra import cast, epsilon, every_kind, numpy, of_spectrum

SIZE = 60
BULK = np.linspace(0.5, 1.5, SIZE - 3)
SPECTRA = {
    "ordinary": np.array([*BULK, 6.0, 8.0, 10.0]),
    "negative": -np.array([*BULK, 6.0, 8.0, 10.0]),
    "rank-deficient": np.array([*np.zeros(SIZE - 3), 6.0, 8.0, 10.0]),
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
}
SCALES = (1.0, 1e-12, 1e12)

SOLVERS = {
    "lanczos": lambda o: rl.lanczos(o, 12, rng=0),
    "lanczos in three vectors": lambda o: rl.lanczos(o, 12, rng=0, reorthogonalize=False),
    "top_eigenpairs": lambda o: rl.top_eigenpairs(o, 3, rng=0),
    "arpack": lambda o: rl.top_eigenpairs(o, 3, rng=0, method="arpack"),
    "lobpcg": lambda o: rl.top_eigenpairs(o, 3, rng=0, method="lobpcg"),
    "subspace_iteration": lambda o: rl.subspace_iteration(o, 3, rng=0),
    "spectral_density": lambda o: rl.spectral_density(o, rng=0),
    "kpm": lambda o: rl.spectral_density(o, rng=0, method="kpm"),
    "log_spectral_density": lambda o: rl.log_spectral_density(o, rng=0),
    "hutch++": lambda o: rl.trace_estimate(o, num_products=30, rng=0),
    "hutchinson": lambda o: rl.trace_estimate(o, num_products=30, method="hutchinson", rng=0),
    "xtrace": lambda o: rl.trace_estimate(o, num_products=30, method="xtrace", rng=0),
    "frobenius_estimate": lambda o: rl.frobenius_estimate(o, num_products=30, rng=0),
    "diagonal_estimate": lambda o: rl.diagonal_estimate(o, num_products=30, rng=0),
    "goldilocks_ratio": lambda o: rl.goldilocks_ratio(o, num_products=30, rng=0),
}
every_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS.keys())
every_spectrum = pytest.mark.parametrize("spectrum", SPECTRA)
every_rule = pytest.mark.parametrize("method", ["gap", "ratio", "elbow", "edge"])
every_scale = pytest.mark.parametrize("scale", SCALES)


def operator_of(matrix, kind):
    matrix = cast(matrix, kind)
    return rl.SymmetricOperator(lambda v: matrix @ v, SIZE, matrix)


@every_solver
def test_what_is_not_square_is_named(solve):
    with pytest.raises((ValueError, TypeError), match="square|must be finite|SymmetricOperator|ndim|1-dim|dimension"):
        solve(np.ones((3, 4)))


@every_kind
@every_solver
def test_what_is_not_symmetric_is_named(solve, kind):
    lopsided = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    with pytest.raises(ValueError, match="`operator` must be symmetric; got"):
        solve(operator_of(lopsided, kind))


@every_kind
@every_solver
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_that_are_not_finite_are_named(solve, kind, bad):
    matrix = of_spectrum(SPECTRA["ordinary"])
    matrix[3, 3] = bad
    with pytest.raises(ValueError, match="finite products"):
        solve(operator_of(matrix, kind))


@pytest.mark.parametrize("k", [SIZE, SIZE + 1])
@pytest.mark.parametrize("name", ["lanczos", "arpack", "lobpcg", "subspace", "lanczos steps", "deflate"])
def test_as_many_as_dimensions(name, k):
    values = SPECTRA["ordinary"]
    matrix = of_spectrum(values)
    if name == "lanczos steps":
        np.testing.assert_allclose(rl.lanczos(matrix, k, rng=0).ritz_values, values, rtol=1e-10)
    elif name == "deflate":
        with pytest.raises(ValueError, match="`deflate` must be >= 0 and <= 59; got"):
            rl.spectral_density(matrix, deflate=k, rng=0)
    elif k > SIZE or name in ("arpack", "lobpcg"):
        with pytest.raises(ValueError, match="`k` must be <"):
            rl.top_eigenpairs(matrix, k, method=name, which="magnitude" if name == "subspace" else "largest")
    else:
        which = "magnitude" if name == "subspace" else "largest"
        pairs = rl.top_eigenpairs(matrix, k, method=name, which=which, rng=0)
        np.testing.assert_allclose(pairs.eigenvalues, values, rtol=1e-8)


@every_kind
@every_scale
@every_spectrum
def test_eigenvalues_are_right(spectrum, scale, kind):
    values = np.sort(scale * SPECTRA[spectrum])
    operator = operator_of(of_spectrum(values), kind)
    size = max(np.abs(values).max(), np.finfo(float).tiny)
    allowed = 1e-6 if kind[1] == "float32" else 1e-9
    for reorthogonalize in (True, False):
        run = rl.lanczos(operator, 40, rng=0, reorthogonalize=reorthogonalize)
        np.testing.assert_allclose([run.nodes[0], run.nodes[-1]], values[[0, -1]], atol=1e-2 * size)
        end = 0 if spectrum == "negative" else -1  # where the outliers are
        np.testing.assert_allclose(run.nodes[end], values[end], atol=allowed * size)
    pairs = rl.top_eigenpairs(operator, 3, which="magnitude", rng=0)
    far = values[np.argsort(-np.abs(values))[:3]]
    np.testing.assert_allclose(pairs.eigenvalues, np.sort(far), atol=allowed * size)
    assert pairs.converged.all()
    found = rl.subspace_iteration(operator, 3, rng=0)
    np.testing.assert_allclose(found.eigenvalues, np.sort(far), atol=allowed * size)
    rest = rl.deflate(operator, pairs)
    left = np.linalg.eigvalsh(rest.to_dense())
    expected = np.sort(np.append(np.sort(np.abs(values))[:-3], np.zeros(3)))
    np.testing.assert_allclose(np.sort(np.abs(left)), expected, atol=100 * epsilon(kind) * size + 1e-3 * size)


@every_kind
@every_scale
@every_spectrum
def test_traces_and_densities_are_right(spectrum, scale, kind):
    values = scale * SPECTRA[spectrum]
    matrix = of_spectrum(values)
    operator = operator_of(matrix, kind)
    size = max(np.linalg.norm(values), np.finfo(float).tiny)
    for method in ("hutch++", "hutchinson", "xtrace"):
        found = rl.trace_estimate(operator, method=method, num_products=30, rng=0)
        assert abs(found.estimate - values.sum()) <= 6 * found.standard_error + 1e-4 * size
    found = rl.frobenius_estimate(operator, num_products=30, rng=0)
    assert abs(found.estimate - np.linalg.norm(values)) <= 6 * found.standard_error + 1e-4 * size
    diagonal = rl.diagonal_estimate(operator, num_products=SIZE)
    np.testing.assert_allclose(np.asarray(diagonal.estimate), np.diag(matrix), atol=1e-5 * size)
    ratio = rl.goldilocks_ratio(operator)
    if spectrum == "zero":
        assert np.isnan(ratio)
    else:
        np.testing.assert_allclose(ratio, values.sum() / np.linalg.norm(values), rtol=1e-4)
    for method in ("lanczos", "kpm"):
        density = rl.spectral_density(operator, method=method, num_probes=4, num_steps=50, rng=0)
        assert np.isfinite(density.density).all()
        mean, error = density.expectation(lambda x: x)
        rounding = 1e-14 * (density.bounds[1] - density.bounds[0])
        assert abs(mean - values.mean()) <= 8 * error + 1e-2 * size / np.sqrt(SIZE) + rounding


@every_kind
@pytest.mark.parametrize("more", [0, 5])
def test_more_products_than_dimensions(kind, more):
    values = SPECTRA["ordinary"]
    matrix = of_spectrum(values)
    operator, count = operator_of(matrix, kind), SIZE + more
    for method in ("hutch++", "hutchinson", "xtrace"):
        found = rl.trace_estimate(operator, method=method, num_products=count)
        assert (found.estimate, found.standard_error) == (pytest.approx(values.sum(), rel=1e-6), 0)
    found = rl.frobenius_estimate(operator, num_products=count)
    assert (found.estimate, found.standard_error) == (pytest.approx(np.linalg.norm(values), rel=1e-6), 0)
    found = rl.diagonal_estimate(operator, num_products=count)
    np.testing.assert_allclose(np.asarray(found.estimate), np.diag(matrix), rtol=1e-5)
    for method in ("lanczos", "kpm"):
        density = rl.spectral_density(operator, num_steps=count, num_probes=2, rng=0, method=method)
        assert density.num_products <= 2 * SIZE + 2 * 32 + 2 * more
        np.testing.assert_allclose(density.weights.sum(axis=1), 1.0)
    with pytest.raises(ValueError, match="`k` must be <= D = 60; got 61"):
        rl.subspace_iteration(operator, SIZE + 1)


NUM_OUTLIERS = {  # of the rules; None where no positive eigenvalues have a ratio
    "ordinary": {"gap": 3, "ratio": 3, "elbow": 3, "edge": 3},
    "negative": {"gap": 57, "ratio": None, "elbow": 0, "edge": 0},
    "rank-deficient": {"gap": 3, "ratio": 2, "elbow": 3, "edge": 3},
    "identity": {"gap": 0, "ratio": 0, "elbow": 0, "edge": 0},
    "zero": {"gap": 0, "ratio": None, "elbow": 0, "edge": 0},
}


@every_kind
@every_scale
@every_spectrum
@every_rule
def test_outliers_by_every_rule(method, spectrum, scale, kind):
    values = cast(scale * SPECTRA[spectrum], kind)
    options = {"edge": scale * 1.6} if method == "edge" else {"max_outliers": SIZE}  # as many as there are, and more
    expected = NUM_OUTLIERS[spectrum][method]
    if expected is None:
        with pytest.raises(ValueError, match='`eigenvalues` must hold at least 2 positive ones for method="ratio"'):
            rl.count_outliers(values, method, **options)
        return
    count = rl.count_outliers(values, method, **options)
    assert count == expected
    assert count == np.count_nonzero(numpy(values) > count.threshold)


@every_rule
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_spectrum_are_named_by_every_rule(method, bad):
    options = {"edge": 1.6} if method == "edge" else {}
    for values in (np.append(SPECTRA["ordinary"], bad), torch.tensor([1.0, bad, 2.0])):
        with pytest.raises(ValueError, match="`eigenvalues` must be finite"):
            rl.count_outliers(values, method, **options)
    with pytest.raises(ValueError, match="`eigenvalues` must have 1 dimension"):
        rl.count_outliers(of_spectrum(SPECTRA["ordinary"]), method, **options)
    with pytest.raises((TypeError, ValueError), match="`eigenvalues` must be an array of real numbers; got"):
        rl.count_outliers([1.0, 2.0j], method, **options)
    with pytest.raises(TypeError, match="`eigenvalues` must be"):
        rl.count_outliers("some", method, **options)


@every_kind
@every_scale
def test_power_laws_of_any_spectrum(scale, kind):
    tail = 1 - np.arange(SIZE) / SIZE
    values = np.sort(tail**-0.5)  # density x^-3
    rounding = 10 * epsilon(kind)
    reference = rl.fit_power_law(values, num_bootstrap=10, rng=0)
    for sign in (1, -1):
        given = cast(sign * scale * values, kind)
        fit = rl.fit_power_law(given, num_bootstrap=10, rng=0, sign="positive" if sign > 0 else "negative")
        assert fit.exponent == pytest.approx(reference.exponent, rel=1e3 * rounding)
        assert fit.xmin == pytest.approx(scale * reference.xmin, rel=rounding)
        assert (fit.num_tail, fit.p_value) == (reference.num_tail, reference.p_value)
        line = rl.power_law_line(scale * values, 2 * values**-3 / scale)
        assert line.exponent == pytest.approx(3)
        with pytest.raises(ValueError, match="`eigenvalues` must hold at least 10 .* in the tail; got 0 of 0"):
            rl.fit_power_law(given, sign="negative" if sign > 0 else "positive")
    for spectrum, message in (
        ("rank-deficient", "at least 10 positive ones in the tail; got 3 of 3"),
        ("identity", "`eigenvalues` must differ in the tail; got 60 equal ones"),
        ("zero", "at least 10 positive ones in the tail; got 0 of 0"),
        ("negative", "at least 10 positive ones in the tail; got 0 of 0"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.fit_power_law(cast(scale * SPECTRA[spectrum], kind))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="`eigenvalues` must be finite"):
            rl.fit_power_law(np.append(values, bad))
        with pytest.raises(ValueError, match="`density` must be finite"):
            rl.power_law_line(values, np.append(values[1:], bad))
    with pytest.raises(ValueError, match="`eigenvalues` must have 1 dimension"):
        rl.fit_power_law(of_spectrum(values))
