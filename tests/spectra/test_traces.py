import copy
import math
import pickle
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland.spectra import _vectors, probes, traces
from rmtland.spectra.operators import SymmetricOperator
from rmtland.spectra.traces import trace_and_norm
from tests.spectra.spectra import of_spectrum
from tests.statistical import assert_mean


@given(st.integers(1, 8), st.integers(0, 10**6), st.sampled_from(["float32", "float64"]))
def test_trace_and_norm_of_an_operator(dimension, seed, dtype):
    matrix = np.random.default_rng(seed).normal(size=(dimension, dimension))
    matrix = (matrix + matrix.T).astype(dtype)
    for array in (matrix, torch.from_numpy(matrix)):
        trace, norm = trace_and_norm(rl.SymmetricOperator.from_matrix(array))
        assert trace == pytest.approx(np.trace(matrix.astype(float)), rel=1e-12, abs=1e-12)
        assert norm == pytest.approx(np.linalg.norm(matrix.astype(float)), rel=1e-12)


def test_ratio_of_operator_eigenvalues_and_spectrum_agree():
    draw = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=4, num_parameters=30).sample(0)
    spectrum = rl.gauss_newton_spectrum(draw)
    expected = np.trace(draw.hessian()) / np.linalg.norm(draw.hessian())
    for given_as in (
        rl.gauss_newton(draw),
        spectrum,
        spectrum.eigenvalues,
        spectrum.eigenvalues.tolist(),
        torch.tensor(spectrum.eigenvalues, requires_grad=True),
        spectrum.eigenvalues[spectrum.eigenvalues > 0],
    ):
        found = rl.goldilocks_ratio(given_as)
        assert found == pytest.approx(expected, rel=1e-12)
        assert found.standard_error == 0
        assert found.num_products == (30 if isinstance(given_as, rl.SymmetricOperator) else 0)
    assert spectrum.goldilocks_ratio() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1.0, 1e170, 1e300])
def test_the_ratio_does_not_depend_on_the_scale(scale):
    # Squares of 1e-170 underflow and those of 1e170 overflow; an absolute threshold would call the former zero.
    eigenvalues = scale * np.array([3.0, 4.0])
    assert rl.goldilocks_ratio(eigenvalues) == pytest.approx(7 / 5, rel=1e-14)
    assert rl.goldilocks_ratio(rl.SymmetricOperator.from_matrix(np.diag(eigenvalues))) == pytest.approx(1.4, rel=1e-14)


def test_ends_of_the_range():
    assert rl.goldilocks_ratio(np.ones(16)) == 4
    assert rl.goldilocks_ratio(-np.ones(16)) == -4
    assert rl.goldilocks_ratio([1.0, -1.0]) == 0
    assert math.isnan(rl.goldilocks_ratio(np.zeros(3)))
    assert math.isnan(rl.goldilocks_ratio(rl.SymmetricOperator.from_matrix(np.zeros((2, 2)))))


def spiked(dimension, rng=0, dtype=np.float64):
    """A few large eigenvalues of both signs on an indefinite bulk, in a random basis."""
    source = np.random.default_rng(rng)
    basis = np.linalg.qr(source.normal(size=(dimension, dimension)))[0]
    eigenvalues = source.normal(0.2, 1.0, dimension)
    eigenvalues[:4] = [60.0, 40.0, -30.0, 20.0]
    return ((basis * eigenvalues) @ basis.T).astype(dtype)


class Counted:
    """An operator with a count of its products."""

    def __init__(self, matrix):
        self.spent = 0

        def multiply(block):
            self.spent += block.shape[1]
            return matrix @ block

        self.operator = SymmetricOperator(multiply, matrix.shape[0], matrix)


MATRIX = spiked(300)
TRACE, NORM = np.trace(MATRIX), np.linalg.norm(MATRIX)


@pytest.mark.parametrize("method", traces.METHODS)
@pytest.mark.parametrize("in_torch", [False, True])
def test_traces_are_unbiased_and_know_their_error(method, in_torch):
    matrix = torch.tensor(MATRIX, dtype=torch.float32) if in_torch else MATRIX
    counted = Counted(matrix)
    found = [
        rl.trace_estimate(counted.operator, method=method, num_products=60, rng=seed)
        for seed in range(50 if in_torch else 150)
    ]
    values, errors = np.array([f.estimate for f in found]), np.array([f.standard_error for f in found])
    assert counted.spent == sum(f.num_products for f in found) == 60 * len(found)
    assert_mean(values, TRACE, detect=0.8 * NORM)
    # Scores: an error that is stated too small by a factor shows as a spread above 1.
    assert np.sqrt(np.mean(((values - TRACE) / errors) ** 2)) == pytest.approx(1, abs=0.35)
    assert np.mean([f.scale for f in found]) == pytest.approx(NORM, rel=0.05)
    # The large eigenvalues are taken out: what is left is the bulk's sqrt(2 * 300 / n).
    bulk = np.sqrt(2 * np.sum(np.sort(np.abs(np.linalg.eigvalsh(MATRIX)))[:-4] ** 2))
    expected = {"hutchinson": np.sqrt(2 / 60) * NORM, "hutch++": bulk / np.sqrt(20), "xtrace": bulk / np.sqrt(30)}[
        method
    ]
    assert values.std() == pytest.approx(expected, rel=0.25)
    assert np.median(errors) == pytest.approx(expected, rel=0.3)
    assert all(f.converged for f in found)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_the_square_of_the_norm_is_unbiased(method):
    found = [rl.frobenius_estimate(MATRIX, method=method, num_products=60, rng=seed) for seed in range(150)]
    squares = np.array([f.square for f in found])
    assert_mean(squares, NORM**2, detect=0.25 * NORM**2)
    errors = np.array([f.square_standard_error for f in found])
    assert np.sqrt(np.mean(((squares - NORM**2) / errors) ** 2)) == pytest.approx(1, abs=0.4)
    for f in found[:3]:
        assert f.estimate == pytest.approx(f.square**0.5, rel=1e-12)
        assert f.standard_error == pytest.approx(0.5 * f.square_standard_error / f.estimate, rel=1e-12)
        assert float(f) == f.estimate == f.scale
    # 20 probes of the bulk against 60 of everything.
    assert np.median(errors) < 0.35 * NORM**2


def test_hutch_plus_plus_is_better_for_norms_with_large_eigenvalues():
    errors = {
        method: rl.frobenius_estimate(MATRIX, method=method, num_products=90, rng=0).standard_error
        for method in ("hutchinson", "hutch++")
    }
    assert errors["hutch++"] < 0.3 * errors["hutchinson"]


@pytest.mark.parametrize("method", traces.METHODS)
@pytest.mark.parametrize("shift", [0.0, -3.0, -TRACE / 300, 5.0])
def test_stopping_rules_hold_for_negative_and_vanishing_traces(method, shift):
    # Traces of 70, -800, 0 and 1600. A rule relative to the running mean never ends at 0, and one without abs() ends at
    # once below it.
    matrix = MATRIX + shift * np.eye(300)
    trace, norm = np.trace(matrix), np.linalg.norm(matrix)
    scale = max(abs(trace), norm)
    for tolerance in (0.2, 0.08):
        found = rl.trace_estimate(matrix, method=method, tolerance=tolerance, rng=1)
        assert found.converged
        assert found.standard_error <= tolerance * max(abs(found.estimate), found.scale)
        assert abs(found.estimate - trace) < 4 * tolerance * scale
    coarse = rl.trace_estimate(matrix, method=method, tolerance=10.0, rng=1)
    assert coarse.num_products == probes.FIRST_STAGE
    hopeless = rl.trace_estimate(matrix, method=method, tolerance=1e-6, num_products=100, rng=1)
    assert not hopeless.converged
    assert hopeless.num_products == 100


def test_a_tolerance_that_needs_more_products_than_dimensions_gives_the_exact_trace():
    found = rl.trace_estimate(MATRIX, tolerance=1e-9, rng=0)
    assert (found.standard_error, found.converged) == (0.0, True)
    assert found.estimate == pytest.approx(TRACE, rel=1e-12)
    assert found.num_products == 240 + 300  # what was spent before counts
    norm = rl.frobenius_estimate(MATRIX, tolerance=1e-9, rng=0)
    assert (norm.standard_error, norm.square_standard_error, norm.converged) == (0.0, 0.0, True)
    assert norm.estimate == pytest.approx(NORM, rel=1e-12)
    assert rl.trace_estimate(MATRIX, num_products=300).num_products == 300
    assert rl.trace_estimate(MATRIX, num_products=299, rng=0).standard_error > 0
    assert rl.frobenius_estimate(MATRIX, tolerance=0.05, rng=0).num_products < 300


@pytest.mark.parametrize("method", traces.METHODS)
def test_identity_zero_and_low_rank(method):
    zero = rl.trace_estimate(np.zeros((200, 200)), method=method, rng=0)
    assert (zero.estimate, zero.standard_error, zero.scale, zero.converged) == (0, 0, 0, True)
    assert rl.trace_estimate(np.zeros((200, 200)), method=method, tolerance=0.1, rng=0).converged
    one = rl.trace_estimate(np.eye(200), method=method, rng=0)
    assert one.estimate == pytest.approx(200, rel=1e-12)
    assert one.standard_error < 1e-10
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 5)))[0]
    low = (vectors * [1, 2, -4, 8, 0.5]) @ vectors.T
    for matrix, precision in ((low, 1e-12), (torch.tensor(low, dtype=torch.float32), 1e-5)):
        found = rl.trace_estimate(matrix, method=method, num_products=60, rng=0)
        if method == "hutchinson":
            assert abs(found.estimate - 7.5) < 4 * found.standard_error
        else:  # the range is found, and nothing is left
            assert found.estimate == pytest.approx(7.5, rel=precision)
            assert found.standard_error < precision
        assert found.num_products <= 61
    staged = rl.trace_estimate(low, method=method, tolerance=1e-6, num_products=130, rng=0)
    assert staged.converged == (method != "hutchinson")


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-12, 1e12, 1e150, -1e-170])
@pytest.mark.parametrize("method", traces.METHODS)
def test_scale_does_not_matter(scale, method):
    plain = rl.trace_estimate(MATRIX, method=method, tolerance=0.1, rng=0)
    found = rl.trace_estimate(MATRIX * scale, method=method, tolerance=0.1, rng=0)
    assert found.num_products == plain.num_products
    assert found.estimate == pytest.approx(scale * plain.estimate, rel=1e-9)
    assert found.standard_error == pytest.approx(abs(scale) * plain.standard_error, rel=1e-9)
    if method != "xtrace":
        norm = rl.frobenius_estimate(MATRIX * scale, method=method, rng=0)
        assert norm.estimate == pytest.approx(abs(scale) * rl.frobenius_estimate(MATRIX, method=method, rng=0).estimate)
        assert norm.standard_error > 0


@pytest.mark.parametrize("small", [[], [1e-12] * 5])
def test_a_space_found_block_by_block_holds_each_direction_once(small, monkeypatch):
    """Blocks of 7: the second finds two large directions, and five that rounding nearly hides."""
    eigenvalues = np.array([5.0, 4.5, 4.0, 3.0, 2.5, 2.0, -1.5, 1.0, 0.5, *small])
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(200, eigenvalues.size)))[0]
    matrix = (vectors * eigenvalues) @ vectors.T
    monkeypatch.setattr(probes, "block_width", lambda dimension: 7)
    for seed in range(3):
        trace = rl.trace_estimate(matrix, method="hutch++", num_products=90, rng=seed)
        norm = rl.frobenius_estimate(matrix, method="hutch++", num_products=90, rng=seed)
        assert trace.estimate == pytest.approx(eigenvalues.sum(), rel=1e-13)
        assert norm.estimate == pytest.approx(np.linalg.norm(eigenvalues), rel=1e-13)
        assert max(trace.standard_error, norm.standard_error) < 1e-13


@pytest.mark.parametrize("method", traces.METHODS)
def test_seeds_and_blocks(method, monkeypatch):
    first, again, other = (rl.trace_estimate(MATRIX, method=method, rng=seed).estimate for seed in (0, 0, 1))
    assert first == again != other
    counted = Counted(MATRIX)
    monkeypatch.setattr(probes, "block_width", lambda dimension: 7)
    found = [rl.trace_estimate(counted.operator, method=method, num_products=60, rng=s) for s in range(40)]
    assert counted.spent == 60 * 40
    # A space that grows block by block is as good as one found at once.
    scores = [(f.estimate - TRACE) / f.standard_error for f in found]
    assert np.sqrt(np.mean(np.square(scores))) == pytest.approx(1, abs=0.4)
    if method == "hutch++":
        assert np.median([f.standard_error for f in found]) < 0.5 * np.sqrt(2 / 60) * NORM


def test_a_large_operator_by_default():
    size = 2 * 10**5
    diagonal = np.ones(size, dtype=np.float32)
    diagonal[:10] = 3e4
    found = rl.trace_estimate(SymmetricOperator(lambda v: diagonal[:, None] * v, size, diagonal), rng=0)
    assert found.num_products == 120
    assert found.estimate == pytest.approx(size + 3e5 - 10, rel=1e-3)


@pytest.mark.parametrize("method", traces.METHODS)
def test_half_precision_is_summed_in_more(method):
    matrix = torch.diag(torch.cat([torch.full((5,), 300.0), torch.ones(495)])).to(torch.bfloat16)
    operator = SymmetricOperator(lambda v: matrix @ v, 500, matrix)
    found = rl.trace_estimate(operator, method=method, num_products=90, rng=0)
    assert found.estimate == pytest.approx(5 * float(matrix[0, 0]) + 495, rel=0.02)
    assert found.estimate > 1900


def test_an_operator_with_a_graph_leaves_none():
    weights = torch.ones(300, requires_grad=True)
    operator = SymmetricOperator(lambda v: weights[:, None] * v, 300, weights)
    assert not rl.diagonal_estimate(operator, num_products=10, rng=0).estimate.requires_grad
    assert rl.trace_estimate(operator, rng=0).estimate == pytest.approx(300, rel=1e-5)


@pytest.mark.parametrize(
    ("size", "limit", "tolerance", "stages", "spent"),
    [
        (10**6, None, None, [120], 120),
        (10**6, 7, None, [7], 7),
        (60, 60, None, [None], 60),
        (60, 59, None, [59], 59),
        (100, 120, None, [None], 100),
        (10**6, None, 0.1, [30, 30, 60, 120, 240, 480, 960, 1080], 3000),
        (10**6, 50, 0.1, [30, 20], 50),
        (20, None, 0.1, [None], 20),
        (100, 160, 0.1, [30, 30, None], 160),  # 120 are more than there are dimensions
        (100, 159, 0.1, [30, 30, 60, 39], 159),
        (35, 40, 0.1, [30, 10], 40),
    ],
)
def test_stages_double_what_is_spent_until_dimensions_are_fewer(size, limit, tolerance, stages, spent):
    run = probes.Run(SymmetricOperator(None, size, np.zeros(0)), limit, tolerance, 0)
    assert run.num_kept == 0
    run.converged = False
    assert list(run.stages()) == stages
    assert run.spent == spent
    assert run.converged == (stages[-1] is None)


def test_no_direction_is_taken_out_twice():
    """Products of a matrix of rank 4, most of them within the space so far."""
    eigenvalues = np.append([3.0, 2.0, -1.0, 0.5], np.zeros(26))
    for array in (of_spectrum(eigenvalues), torch.tensor(of_spectrum(eigenvalues))):
        run = probes.Run(rl.as_operator(array), 100, None, 0)
        for width, kept in ((3, 3), (3, 4), (2, 4)):
            run.take_out(run.products(probes.gaussian(run.operator, width, run.rng)))
            assert run.num_kept == kept
        trace, square = run._exact
        assert trace * run.unit == pytest.approx(4.5, rel=1e-12)
        assert square * run.unit**2 == pytest.approx(14.25, rel=1e-12)
        gram = np.asarray(run._basis.T @ run._basis)
        np.testing.assert_allclose(gram, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("length", [1.0, 1e4])
def test_a_weak_direction_found_beside_a_strong_one_is_orthogonal_to_the_space(length):
    """Its part of the products, of vectors of any length, is hardly more than their rounding."""
    values = np.append([3.0, 2.0, 1.0, 1e-11], np.zeros(26))
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]
    matrix = (vectors * values) @ vectors.T
    run = probes.Run(rl.as_operator((matrix + matrix.T) / 2), 100, None, 0)
    run.take_out(run.products(vectors[:, :2]))
    run.take_out((vectors * values) @ np.random.default_rng(1).normal(0, length, (30, 3)))
    assert run.num_kept == 4
    np.testing.assert_allclose(run._basis.T @ run._basis, np.eye(4), atol=1e-12)


def test_inner_products_add_up_over_blocks_of_rows():
    a, b = np.random.default_rng(0).normal(size=(2, 9000, 300)).astype(np.float32)
    assert 2**22 // 600 < 9000  # two blocks
    np.testing.assert_allclose(probes.inner(a, b), a.astype(float).T @ b.astype(float), rtol=1e-9, atol=1e-9)


@given(
    st.lists(st.sampled_from([0.0, 1.0, -2.0, 5.0, 5.0 + 1e-9]), min_size=30, max_size=40),
    st.sampled_from(traces.METHODS[::2]),
)
def test_few_distinct_eigenvalues_are_summed_exactly_once_their_range_is_found(eigenvalues, method):
    # At most 12 nonzero ones, fewer than a third of the products.
    values = np.zeros(200)
    values[: len(eigenvalues[:12])] = eigenvalues[:12]
    found = rl.trace_estimate(np.diag(values), method=method, num_products=60, rng=0)
    assert found.estimate == pytest.approx(values.sum(), abs=1e-8)
    assert found.standard_error < 1e-8


def test_the_error_of_the_ratio_is_that_of_leaving_one_sample_out():
    """Where the norm is known as badly as the trace, and they vary together."""
    trace, square = np.random.default_rng(0).multivariate_normal([3.0, 30.0], [[0.5, 2.0], [2.0, 40.0]], 400).T
    found = probes.Samples(exact_trace=2.0, exact_square=5.0, traces=trace, squared=square, unit=1.0).ratio()
    without = [(2 + np.delete(trace, i).mean()) / (5 + np.delete(square, i).mean()) ** 0.5 for i in range(400)]
    assert found[0] == pytest.approx((2 + trace.mean()) / (5 + square.mean()) ** 0.5, rel=1e-12)
    assert found[1] == pytest.approx(np.std(without) * 399**0.5, rel=0.01)
    # Of three samples: what each adds to the first order, by its standard deviation.
    few = probes.Samples(exact_trace=2.0, exact_square=5.0, traces=trace[:3], squared=square[:3], unit=1.0).ratio()
    norm, top = math.sqrt(5 + statistics.mean(square[:3])), 2 + statistics.mean(trace[:3])
    slopes = [t / norm - top / (2 * norm**3) * s for t, s in zip(trace[:3], square[:3], strict=True)]
    assert few == pytest.approx((top / norm, statistics.stdev(slopes) / 3**0.5), rel=1e-12)


def test_samples_are_means_with_the_errors_of_means():
    traces, squared = np.array([3.0, 5.0, 10.0]), np.array([2.0, 7.0, 3.0])
    samples = probes.Samples(exact_trace=2.0, exact_square=5.0, traces=traces, squared=squared, unit=4.0)
    assert samples.trace() == pytest.approx((4 * 8.0, 4 * statistics.stdev(traces) / 3**0.5), rel=1e-12)
    assert samples.square() == pytest.approx((9.0, statistics.stdev(squared) / 3**0.5), rel=1e-12)


def test_diagonal_entries_with_their_errors():
    exact = np.diag(MATRIX)
    deviation = np.sqrt(np.sum(MATRIX**2, axis=1) - exact**2)
    for matrix in (MATRIX, torch.tensor(MATRIX)):
        found = rl.diagonal_estimate(matrix, num_products=250, rng=0)
        assert type(found.estimate) is type(matrix)
        estimate, error = np.asarray(found.estimate), np.asarray(found.standard_error)
        np.testing.assert_allclose(error, deviation / np.sqrt(250), rtol=0.3)
        assert np.sqrt(np.mean(((estimate - exact) / error) ** 2)) == pytest.approx(1, abs=0.15)
        assert found.num_products == 250
        whole = rl.diagonal_estimate(matrix, num_products=300)
        np.testing.assert_allclose(np.asarray(whole.estimate), exact, rtol=1e-12)
        assert not np.asarray(whole.standard_error).any()
        assert whole.num_products == 300


def test_diagonal_in_blocks_is_the_diagonal_at_once(monkeypatch):
    matrix = MATRIX + 1e6 * np.eye(300)  # squares of means cancel
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (300, 40))
    terms = signs * (matrix @ signs)
    monkeypatch.setattr(traces, "rademacher", lambda operator, width, rng: signs[:, [next(rng) for _ in range(width)]])
    monkeypatch.setattr(traces, "generator", lambda rng: iter(range(40)))
    monkeypatch.setattr(traces, "block_width", lambda dimension: 7)
    found = rl.diagonal_estimate(matrix, num_products=40)
    np.testing.assert_allclose(found.estimate, terms.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, terms.std(axis=1, ddof=1) / np.sqrt(40), rtol=1e-6)


def test_ratio_is_exact_where_it_can_be_and_says_its_error_where_not(monkeypatch):
    operator = SymmetricOperator.from_matrix(MATRIX)
    exact = rl.goldilocks_ratio(operator)
    assert (exact.standard_error, exact.num_products) == (0.0, 300)
    assert exact == pytest.approx(TRACE / NORM, rel=1e-12)
    assert rl.goldilocks_ratio([1.0, 2.0]).num_products == 0
    monkeypatch.setattr(traces, "EXACT_RATIO", 299)
    found = [rl.goldilocks_ratio(operator, rng=seed) for seed in range(100)]
    assert {f.num_products for f in found} == {120}
    assert_mean(np.array(found), exact, bias=0.05, detect=0.5)
    scores = [(f - exact) / f.standard_error for f in found]
    assert np.sqrt(np.mean(np.square(scores))) == pytest.approx(1, abs=0.3)
    assert rl.goldilocks_ratio(operator, num_products=300).standard_error == 0
    for again in (pickle.loads(pickle.dumps(found[0])), copy.copy(found[0])):
        assert (again, again.standard_error, again.num_products) == (found[0], found[0].standard_error, 120)
    assert math.isnan(rl.goldilocks_ratio(SymmetricOperator.from_matrix(np.zeros((300, 300)))))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rl.trace_estimate(MATRIX, method="xnys"), ValueError, "`method` must be one of 'hutch.*; got 'xnys'"),
        (
            lambda: rl.frobenius_estimate(MATRIX, method="xtrace"),
            ValueError,
            "`method` must be one of 'hutch.*, 'hutchin",
        ),
        (lambda: rl.trace_estimate(MATRIX, num_products=5), ValueError, "`num_products` must be >= 6; got 5"),
        (lambda: rl.trace_estimate(MATRIX, num_products=0), ValueError, "`num_products` must be >= 6; got 0"),
        (lambda: rl.trace_estimate(MATRIX, tolerance=0), ValueError, "`tolerance` must be > 0; got 0"),
        (lambda: rl.diagonal_estimate(MATRIX, num_products=1), ValueError, "`num_products` must be >= 2; got 1"),
        (lambda: rl.trace_estimate(np.zeros((2, 3))), ValueError, "must be square"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("estimate", [rl.trace_estimate, rl.frobenius_estimate, rl.diagonal_estimate])
def test_products_that_are_not_finite_are_refused(estimate):
    operator = SymmetricOperator(lambda v: v * np.nan, 500, np.zeros(1))
    with pytest.raises(ValueError, match="`operator` must give finite products; got NaN or infinite entries"):
        estimate(operator)


@pytest.mark.parametrize("matrix", [MATRIX, torch.tensor(MATRIX)], ids=["numpy", "torch"])
def test_vectors_that_do_not_fit_are_refused_with_another_way(matrix, monkeypatch):
    from rmtland import _arguments

    monkeypatch.setattr(_arguments, "available_memory", lambda: 300 * 8 * 30)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    for method in ("hutch++", "xtrace"):
        with pytest.raises(MemoryError, match=r'a space of \d+ vectors needs .* use method="hutchinson" instead'):
            rl.trace_estimate(matrix, method=method)
    assert rl.trace_estimate(matrix, method="hutchinson").num_products == 120


@pytest.mark.parametrize(
    ("eigenvalues", "error", "message"),
    [
        ([1.0, np.nan], ValueError, "`eigenvalues` must be finite; got 1 NaN"),
        (np.eye(2), ValueError, r"`eigenvalues` must have 1 dimension; got shape \(2, 2\)"),
        ("abc", TypeError, "`eigenvalues` must be an array of real numbers; got str"),
    ],
)
def test_bad_eigenvalues(eigenvalues, error, message):
    with pytest.raises(error, match=message):
        rl.goldilocks_ratio(eigenvalues)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_an_operator_that_is_not_symmetric_is_named(dtype, scale):
    lopsided = (scale * np.random.default_rng(0).normal(size=(500, 500))).astype(dtype)
    operator = rl.SymmetricOperator(lambda v: lopsided @ v, 500, lopsided)
    symmetric = rl.SymmetricOperator(lambda v: lopsided @ v + lopsided.T @ v, 500, lopsided)
    for estimate in (
        *(lambda o, m=m: rl.trace_estimate(o, method=m, rng=0) for m in ("hutch++", "hutchinson", "xtrace")),
        *(lambda o, m=m: rl.frobenius_estimate(o, method=m, rng=0) for m in ("hutch++", "hutchinson")),
        lambda o: rl.diagonal_estimate(o, rng=0),
        lambda o: rl.diagonal_estimate(o, num_products=2, rng=0),
        lambda o: rl.goldilocks_ratio(o, num_products=60, rng=0),
    ):
        with pytest.raises(ValueError, match=r"`operator` must be symmetric; got p\^T A q = .*, q\^T A p = "):
            estimate(operator)
        estimate(symmetric)


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e150])
def test_products_may_be_as_far_from_symmetric_as_a_millionth_of_the_operator(unit):
    """Whatever the lengths of the two vectors; the operator is as large as it says or its products show."""
    p, q = np.array([3.0, 0.0, 0.0]), np.array([0.0, 0.1, 0.0])

    def check(difference, beyond=0.0, rest=0.0, **known):
        images = unit * np.array([[4.0, 1 + difference, beyond], [1.0, 2.0, rest]]).T * [3.0, 0.1]
        known = {name: value * (unit if name == "rounding_scale" else 1) for name, value in known.items()}
        operator = SymmetricOperator(None, 3, np.zeros(0), **known)
        _vectors.require_symmetric_products(operator, np.stack([p, q], axis=1), images)

    for known, size in (
        ({}, 17**0.5),
        ({"beyond": 30.0}, 917**0.5),
        ({"rest": 20.0}, 405**0.5),
        ({"rounding_scale": 100.0}, 100),
        ({"rounding": 1e-3}, 16e3 * 17**0.5),  # in half precision
    ):
        for sign in (-1, 1):
            check(sign * 0.9e-6 * size, **known)
            with pytest.raises(ValueError, match=r"`operator` must be symmetric; got p\^T A q = "):
                check(sign * 1.2e-6 * size, **known)
    for vectors in (np.stack([p, 0 * q], axis=1), np.stack([0 * p, q], axis=1)):
        _vectors.require_symmetric_products(SymmetricOperator(None, 3, np.zeros(0)), vectors, np.eye(3, 2, 1))
    # Products of a frozen network have lost their digits to underflow.
    tiny = 1e-31 * np.array([[0.0, 9.0], [1.0, 0.0], [0.0, 0.0]])
    _vectors.require_symmetric_products(SymmetricOperator(None, 3, np.zeros(0)), np.eye(3, 2), tiny)


def test_errors_at_the_fewest_products():
    """With two samples in an error, N - 1 of N is half of it: its square is the variance of the estimate on average."""
    matrix = np.random.default_rng(0).normal(size=(30, 30))
    matrix += matrix.T
    traces = [rl.trace_estimate(matrix, num_products=6, rng=seed) for seed in range(600)]
    norms = [rl.frobenius_estimate(matrix, num_products=6, method="hutchinson", rng=seed) for seed in range(600)]
    halves = [rl.frobenius_estimate(matrix, num_products=6, rng=seed) for seed in range(1200)]
    shifted = rl.as_operator(matrix + 8 * np.eye(30))
    ratios = [rl.goldilocks_ratio(shifted, num_products=6, rng=seed) for seed in range(1200)]
    for estimates, errors in (
        ([found.estimate for found in traces], [found.standard_error for found in traces]),
        ([found.square for found in norms], [found.square_standard_error for found in norms]),
        ([found.square for found in halves], [found.square_standard_error for found in halves]),
        ([float(found) for found in ratios], [found.standard_error for found in ratios]),
    ):
        variance = np.var(estimates, ddof=1)
        assert_mean(np.square(errors), variance, bias=0.15 * variance, detect=1.1 * variance)
        with pytest.raises(AssertionError, match="against"):
            assert_mean(np.square(errors) / 2, variance, bias=0.15 * variance, detect=1.1 * variance)
