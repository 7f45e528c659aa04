"""Eigenvalues from products with some directions, held against dense matrices."""

from types import SimpleNamespace

import numpy as np
import pytest

from rmtland.logits.outlier_estimate import (
    Estimate,
    Nystrom,
    apart,
    filled,
    inner_products,
    likely_errors,
    orthonormal,
    outside,
)
from rmtland.logits.outlier_stream import OutlierStream


def of_rank(size, rank, rng):
    factor = rng.normal(size=(size, rank)) * np.linspace(1, 2, rank)
    return factor @ factor.T


def directions(size, count, rng):
    return np.linalg.qr(rng.normal(size=(size, count)))[0]


def known(factor, rest, block, rng):
    """What a pass knows of F F^T + B: F as combinations of sums."""
    turn = rng.normal(size=(factor.shape[1],) * 2)
    sums = np.linalg.solve(turn, factor.T)
    return SimpleNamespace(
        kind=block[:0], sums=sums, turn=turn, own=factor.T @ factor, block=block, spread=rest @ block
    )


@pytest.mark.parametrize(("means", "rank"), [(2, 3), (3, 1), (1, 0), (0, 2)])
def test_an_estimate_is_exact_where_directions_reach_all_of_the_rest(means, rank):
    rng = np.random.default_rng(0)
    factor, rest = rng.normal(size=(9, means)), of_rank(9, rank, rng)
    exact, vectors = np.linalg.eigh(factor @ factor.T + rest)
    found = Estimate.of(known(factor, rest, directions(9, 3, rng), rng), 7)
    np.testing.assert_allclose(found.values[-8:], exact[-8:], atol=1e-11 * exact[-1])
    for k in range(8):
        assert found.following(k) == pytest.approx(exact[8 - k], abs=1e-11 * exact[-1])
    reached = means + rank
    for count in range(1, reached + 1):
        some = found.vectors(count)
        assert some.shape == (9, count)
        np.testing.assert_allclose(np.abs(np.sum(some * vectors[:, 9 - count :], axis=0)), 1, atol=1e-10)


def test_without_directions_an_estimate_is_that_of_the_means():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(9, 2))
    found = Estimate.of(known(factor, np.zeros((9, 9)), np.zeros((9, 0)), rng), 3)
    np.testing.assert_allclose(found.values, [0, 0, *np.linalg.eigvalsh(factor.T @ factor)])


def test_an_estimate_of_few_directions_is_that_of_its_dense_matrix():
    rng = np.random.default_rng(1)
    factor, rest, block = rng.normal(size=(9, 2)), of_rank(9, 7, rng), directions(9, 3, rng)
    reached = rest @ block
    dense = factor @ factor.T + reached @ np.linalg.inv(block.T @ reached) @ reached.T
    exact, vectors = np.linalg.eigh(dense)
    found = Estimate.of(known(factor, rest, block, rng), 4)
    np.testing.assert_allclose(found.values, exact[-5:], rtol=1e-10)
    some = found.vectors(99)
    np.testing.assert_allclose(some.T @ some, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(some * vectors[:, -5:], axis=0)), 1, atol=1e-9)


def test_directions_that_the_rest_does_not_reach_to_rounding_are_left_out():
    rng = np.random.default_rng(2)
    factor, block = rng.normal(size=(8, 2)), np.eye(8)[:, :3]
    for size, reached in ((1e-18, 2), (1e-13, 3)):
        rest = np.diag([0.0, 0.0, size, 0, 0, 0, 0, 0]) * np.sum(factor**2)
        assert np.count_nonzero(Estimate.of(known(factor, rest, block, rng), 5).values) <= reached
        assert Estimate.of(known(factor, rest, block, rng), 5).nystrom.shape[1] == reached - 2


def brute_force(matrix, embedding, block):
    """N = G V (V^T G V)^-1/2 with V in the space and its subspace."""
    inside = embedding @ block
    images = matrix @ inside
    values, turn = np.linalg.eigh(inside.T @ images)
    kept = values > 1e-10 * values[-1]
    return inside, images, images @ turn[:, kept] / np.sqrt(values[kept])


@pytest.mark.parametrize("rank", [6, 2])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_eigenvectors_of_an_image_and_what_lies_along_its_directions(rank, noisy, unit):
    rng = np.random.default_rng(3)
    matrix, embedding, block = unit * of_rank(12, rank, rng), directions(12, 7, rng), directions(7, 4, rng)
    inside, images, columns = brute_force(matrix, embedding, block)
    m = columns.shape[1]
    assert m == min(rank, 4)
    noise, bias, drawn = None, np.zeros(m), np.zeros(m)
    values, vectors = np.linalg.eigh(columns @ columns.T)
    values, vectors = values[-m:], vectors[:, -m:]
    if noisy:
        # An eigenvalue |G V c|^2 of noise c^T B c, c the combination that makes the eigenvector of images.
        most = (images.T @ vectors[:, -1:]) * 0.95  # so much of the first that it is the last
        noise = most @ most.T, 0.02 * unit**2 * of_rank(4, 4, rng)
        combined = np.linalg.pinv(images) @ vectors * np.sqrt(values)
        bias, drawn = (np.einsum("ik,ij,jk->k", combined, n, combined) for n in noise)
    order = np.argsort(values - bias)
    found = Nystrom.of(block, images, embedding.T @ images, block[:0], noise)
    np.testing.assert_allclose(
        found.values, np.append(np.zeros(4 - m), np.maximum(values - bias, 0)[order]), atol=1e-9 * unit
    )
    assert (order[-1] == m - 1) != noisy
    assert found.noise == pytest.approx(np.sqrt(np.mean((2 * drawn / values) ** 2)), rel=1e-7)
    assert found.following(1) == found.values[-2]
    assert found.following(3) == found.values[0] == found.following(7)
    for count in range(1, m + 1):
        chosen = vectors[:, order[-count:]]
        some = found.vectors(count)
        assert some.shape == (12, count)
        signs = np.sign(np.sum(some * chosen, axis=0))
        np.testing.assert_allclose(some * signs, chosen, atol=1e-8)
        np.testing.assert_allclose(found.inside(count) * signs, inside.T @ chosen, atol=1e-8)
        beyond = chosen - inside @ (inside.T @ chosen)
        np.testing.assert_allclose(
            found.seen_beyond(count), np.sum((columns.T @ beyond) ** 2, axis=0), atol=1e-8 * unit
        )


def test_more_eigenvectors_than_an_image_has_and_very_small_ones_are_orthonormal():
    rng = np.random.default_rng(4)
    block = directions(10, 4, rng)
    few = of_rank(10, 2, rng)
    found = Nystrom.of(block, few @ block, few @ block, block[:0])
    some = found.vectors(4)
    np.testing.assert_allclose(some.T @ some, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(few @ some[:, :2], 0, atol=1e-12)
    np.testing.assert_allclose(found.inside(4)[:, 2:], block.T @ some[:, 2:], atol=1e-12)
    assert not found.inside(4)[:, :2].any()
    np.testing.assert_allclose(found.seen_beyond(4)[:2], 0)
    steep = directions(10, 10, rng) * np.logspace(-8, 0, 10)
    steep = steep @ steep.T
    found = Nystrom.of(block, steep @ block, steep @ block, block[:0])
    some = found.vectors(4)
    np.testing.assert_allclose(some.T @ some, np.eye(4), atol=1e-6)
    with pytest.raises(ValueError, match="must be finite"):
        Nystrom.of(block, np.full((10, 4), np.inf), few @ block, block[:0])


def test_images_that_are_zero_have_eigenvalues_of_zero():
    block = np.eye(6)[:, :2]
    found = Nystrom.of(block, np.zeros((6, 2)), np.zeros((6, 2)), block[:0])
    assert found.values.tolist() == [0, 0]
    assert found.noise == 0
    assert not found.inside(2).any()
    np.testing.assert_allclose(found.vectors(2).T @ found.vectors(2), np.eye(2), atol=1e-14)


@pytest.mark.parametrize("width", [1, 70_000])
def test_inner_products_of_short_and_long_rows(width):
    rows = np.random.default_rng(5).normal(size=(3, width))
    np.testing.assert_allclose(inner_products(rows), rows @ rows.T, rtol=1e-12)


def test_the_last_columns_of_a_basis_change_least():
    rng = np.random.default_rng(6)
    block = rng.normal(size=(7, 3))
    basis = orthonormal(block)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-14)
    for j in range(3):  # the span of the last columns is kept
        inside = basis[:, j:] @ (basis[:, j:].T @ block[:, j:])
        np.testing.assert_allclose(inside, block[:, j:], atol=1e-13)
    assert orthonormal(np.zeros((7, 0))).shape == (7, 0)


@pytest.mark.parametrize(("more", "left"), [(2, 2), (4, 4), (6, 4)])
def test_directions_apart_from_others(more, left):
    rng = np.random.default_rng(7)
    before, block = directions(7, 3, rng), rng.normal(size=(7, more))
    block += 1e9 * before @ rng.normal(size=(3, more))
    basis = apart(block, before)
    assert basis.shape == (7, left)
    both = np.concatenate([before, basis], axis=1)
    np.testing.assert_allclose(both.T @ both, np.eye(3 + left), atol=1e-13)
    kept = block[:, more - left :]
    np.testing.assert_allclose(both @ (both.T @ kept), kept, rtol=1e-9, atol=1e-5)


def test_directions_are_filled_up_with_the_last_of_others():
    rng = np.random.default_rng(8)
    block, others = directions(7, 2, rng), directions(7, 4, rng)
    assert filled(None, 3, others) is others
    assert filled(block, 2, others) is block
    assert filled(block, 1, others) is block
    for given in (others, None):
        whole = filled(block, 4, given)
        np.testing.assert_array_equal(whole[:, :2], block)
        np.testing.assert_allclose(whole.T @ whole, np.eye(4), atol=1e-13)
        wanted = others if given is not None else np.eye(7)[:, :4]
        for j in (1, 2):  # spans with the last ones
            reached = whole[:, [0, 1, *range(4 - j, 4)]]
            np.testing.assert_allclose(reached @ (reached.T @ wanted[:, -j:]), wanted[:, -j:], atol=1e-12)
    np.testing.assert_array_equal(filled(block, 3, others), filled(block, 4, others)[:, [0, 1, 3]])
    assert filled(block, 9, others).shape == (7, 6)
    assert filled(block, 9).shape == (7, 7)


def test_what_lies_outside_of_directions_is_the_rest_of_a_unit_vector():
    basis, vectors = np.eye(5)[:, :2], directions(5, 5, np.random.default_rng(9))
    rest = vectors - basis @ (basis.T @ vectors)
    np.testing.assert_allclose(outside(basis.T @ vectors), np.sum(rest**2, axis=0))
    assert outside(np.array([[1.0 + 1e-9]])) == [0.0]


def test_errors_grow_with_what_was_sampled_and_unseen_and_with_a_near_next_eigenvalue():
    values, zero, one = np.array([2.0, 4.0, 8.0]), np.zeros(3), np.ones(3)
    rounding = likely_errors(values, 0.0, zero, zero)
    assert (rounding > 0).all()
    assert rounding.max() < 1e-5 * values[-1]
    sampled = likely_errors(values, 1.0, zero, one) - rounding
    np.testing.assert_allclose(sampled, sampled[0])  # wherever the next eigenvalue is
    assert 2 <= sampled[0] <= 4  # deviations
    np.testing.assert_allclose(likely_errors(values, 1.0, zero, 5 * one) - rounding, 5 * sampled)
    alone = likely_errors(values, 0.0, one, zero) - rounding
    np.testing.assert_allclose(alone, alone[0])
    assert 0.5 <= alone[0] <= 1
    near = likely_errors(values, 1.0, one, zero) - rounding
    np.testing.assert_allclose(near / alone, values / (values - 1))  # eigenvectors turn as 1 / gap
    np.testing.assert_allclose(likely_errors(values, 2.0, one, zero)[0], likely_errors(values, 1.9, one, zero)[0])
    assert likely_errors(values, 2.0, one, zero)[0] < 12 * alone[0]
    np.testing.assert_allclose(likely_errors(values, 1.0, one, one), sampled + near + rounding)
    small = likely_errors(1e-3 * values, 1e-3, 1e-3 * one, 1e-3 * one)
    np.testing.assert_allclose(small, 1e-3 * likely_errors(values, 1.0, one, one))
    assert likely_errors(zero, 0.0, zero, zero).tolist() == [0, 0, 0]


class Told:
    """What examples in a subspace tell of eigenvectors: three numbers for each."""

    def __init__(self, lost, energies, error, lift):
        self.lost, self.known = np.array(lost), (np.array(energies), np.array(error))
        self.reduction = SimpleNamespace(lift=lift)

    def left_out(self, vectors, closer):
        self.asked = vectors
        return self.lost

    def energies(self, vectors, few):
        self.seen = vectors, few
        return self.known


def test_errors_of_a_subspace_are_those_that_its_examples_tell():
    rng = np.random.default_rng(10)
    matrix, embedding, block = of_rank(12, 12, rng), directions(12, 7, rng), directions(7, 5, rng)
    images, within = matrix @ embedding @ block, embedding.T @ matrix @ embedding @ block
    exact = Nystrom.of(block, images, within, block[:0])
    k, zero, far = 3, np.zeros(3), np.full(3, 1e9)

    def errors_of(lost, energies, error, noise=None):
        told = Told(lost, energies, error, None)
        run = SimpleNamespace(
            k=k, reducer=told, closer=object(), block=block, images=images, within=within, kind=block[:0],
            noise=noise, scatter=None, sampled=0.0,
        )  # fmt: skip
        run._found = lambda: OutlierStream._found(run)
        values, errors, vectors = OutlierStream.result(run)
        np.testing.assert_allclose(vectors, exact.vectors(k), atol=1e-12)
        np.testing.assert_allclose(told.asked, block @ exact.inside(k))
        assert told.seen[0] is vectors
        assert told.seen[1] is told.asked
        return values, errors

    values, most = errors_of(zero, far, zero)
    beyond = exact.seen_beyond(k)
    _, least = errors_of(zero, beyond, zero)
    np.testing.assert_allclose(least, 1e-6 * values[-1])  # all is seen
    np.testing.assert_allclose(errors_of(zero, beyond - 1, zero)[1], least)
    np.testing.assert_allclose(
        most - least,
        likely_errors(values, exact.following(k), outside(exact.inside(k)) * exact.following(k), zero) - least,
    )
    small = most.min() / 100 * np.array([1.0, 2.0, 3.0])
    _, some = errors_of(zero, beyond + small, zero)
    np.testing.assert_allclose(some, likely_errors(values, exact.following(k), small, zero))
    np.testing.assert_allclose(errors_of(zero, beyond, small / 2)[1], some)  # two standard errors
    np.testing.assert_allclose(errors_of(zero, beyond - 1, small / 2)[1], some)
    # A share of |G u|^2 that the subspace leaves out is that of the eigenvalue, three times.
    np.testing.assert_allclose(errors_of(1e-3 * values**2, beyond, zero)[1] - least, 3e-3 * values)
    np.testing.assert_allclose(errors_of(-1e-3 * values**2, beyond, zero)[1], least)
    # By chance they differ: none counts for less than their mean, and their spread is added.
    shares = np.array([1e-3, 4e-3, 4e-3])
    expected = 3 * (np.array([3e-3, 4e-3, 4e-3]) + 1e-3 * 2**0.5) * values
    np.testing.assert_allclose(errors_of(shares * values**2, beyond, zero)[1] - least, expected)
    # Noise in products: eigenvalues are less by it, and errors more.
    noise = (np.zeros((5, 5)), 1e-3 * of_rank(5, 5, rng))
    drawn = Nystrom.of(block, images, within, block[:0], noise)
    np.testing.assert_allclose(errors_of(zero, beyond, zero, noise)[1] - least, 3 * drawn.noise * values)


def test_without_a_closer_look_eigenvectors_stay_in_the_subspace():
    rng = np.random.default_rng(11)
    factor, rest, block = rng.normal(size=(9, 2)), of_rank(9, 7, rng), directions(9, 4, rng)
    run = known(factor, rest, block, rng)
    found = Estimate.of(run, 2)
    told = Told([0.0, 0.0], None, None, lambda rows: np.pad(rows, ((0, 0), (0, 3))))
    vars(run).update(k=2, reducer=told, closer=None, images=None, scatter=None, sampled=0.5)
    run._found = lambda: OutlierStream._found(run)
    values, errors, vectors = OutlierStream.result(run)
    np.testing.assert_array_equal(values, found.values[-2:])
    np.testing.assert_array_equal(vectors, np.pad(found.vectors(2), ((0, 3), (0, 0))))
    inside = block.T @ found.vectors(2)
    expected = likely_errors(values, found.following(2), outside(inside) * found.following(2), np.zeros(2))
    np.testing.assert_allclose(errors, expected)
    told.lost = 0.01 * values**2
    np.testing.assert_allclose(OutlierStream.result(run)[1] - expected, 0.03 * values)
    run.scatter = SimpleNamespace(deviations=lambda centres, along, share: np.array([share, 2 * share]) * centres)
    run.centres = 0.1
    grown = OutlierStream.result(run)[1] - expected - 0.03 * values
    np.testing.assert_allclose(grown, likely_errors(values, 0.0, 0 * values, np.array([0.05, 0.1])) - 1e-6 * values[-1])
    run.sampled = 0.0  # of all examples
    np.testing.assert_allclose(OutlierStream.result(run)[1] - expected, 0.03 * values)
