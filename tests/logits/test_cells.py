import numpy as np
import pytest

from rmtland.logits.cells import Cells
from tests import oracles


@pytest.mark.parametrize("keeps_pairs", [True, False])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("num_examples", [4, 40])
def test_sums_make_the_part_of_g_that_means_are(keeps_pairs, absent, num_examples):
    logits, labels, gradients = oracles.examples(num_examples, 4, 9)
    if absent:
        labels = np.where(labels == 1, 2, labels)
    parts = oracles.hierarchy(logits, labels, gradients)
    sums = parts["p"][:, :, None] * parts["pair"]
    if keeps_pairs:
        sums[np.arange(4), np.arange(4)] = 99.0  # not read: minus those of the others
    else:
        sums = -sums[np.arange(4), np.arange(4)]
    cells = Cells.of(parts["p"] / num_examples, keeps_pairs, 2.0**-52)
    factor = cells.turn @ sums.reshape(-1, 9) / num_examples
    expected = parts["A1"] + parts["A2"] + (parts["B1"] if keeps_pairs else 0)
    np.testing.assert_allclose(factor.T @ factor, expected, rtol=1e-9, atol=1e-13)
    assert cells.weights.shape == (16 if keeps_pairs else 8,)
    assert cells.weights.sum() == pytest.approx(1)
    known = cells.weights > 0
    assert known.all() != absent
    np.testing.assert_allclose(cells.inverse_root[known] ** 2, 1 / cells.weights[known])
    assert not cells.inverse_root[~known].any()


def test_an_own_mean_is_known_down_to_rounding():
    weights = np.array([[1e-17, 0.5], [0.25, 1e-9]])
    found = Cells.of(weights, True, 2.0**-52).weights
    np.testing.assert_array_equal(found, [0, 0.5, 0.25, 1e-9])
    np.testing.assert_array_equal(Cells.of(weights, True, 2.0**-23).weights, [0, 0.5, 0.25, 0])
    weights = np.array([[0.5, 1e-17], [1e-300, 0.5]])  # of others nothing is lost
    np.testing.assert_array_equal(Cells.of(weights, True, 2.0**-52).weights, weights.ravel())
    np.testing.assert_array_equal(Cells.of(weights, False, 2.0**-52).weights, [1e-17, 1e-300, 0.5, 0.5])
