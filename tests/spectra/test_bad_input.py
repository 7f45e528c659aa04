"""Every public function of operators and spectra, with every kind of input that breaks solvers: right or named."""

import numpy as np
import pytest

import rmtland as rl
from tests.spectra.spectra import cast, epsilon, every_kind, of_spectrum

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


@every_scale
@every_spectrum
def test_statistics_of_the_values_are_right(spectrum, scale):
    values = scale * SPECTRA[spectrum]
    expected = 3 if spectrum in ("ordinary", "rank-deficient") else 0
    if spectrum != "negative":
        assert rl.count_outliers(values, method="gap") == expected
    with pytest.raises(ValueError, match="eigenvalues"):
        rl.count_outliers(np.append(values, np.nan))
    with pytest.raises(ValueError, match="eigenvalues"):
        rl.fit_power_law(np.append(values, np.nan))
    if spectrum in ("zero", "negative"):
        with pytest.raises(ValueError, match="eigenvalues"):
            rl.fit_power_law(values)
