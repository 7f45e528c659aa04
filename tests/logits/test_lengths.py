import numpy as np
import pytest

import rmtland as rl


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(11, 3)), np.array([0, 1] * 5 + [1]), rng.normal(size=(11, 3, 7))


def test_lengths_by_brute_force(arrays):
    logits, labels, gradients = arrays
    found = rl.logit_gradient_lengths(rl.DenseLogitGradients(logits, labels, gradients))
    lengths = np.sqrt((gradients**2).sum(axis=2))
    np.testing.assert_allclose(found.overall, lengths.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.own_class[:2], [lengths[labels == k, k].mean() for k in (0, 1)], rtol=1e-14)
    assert np.isnan(found.own_class[2])  # a class without examples
    np.testing.assert_allclose(found.overall_error, lengths.std(axis=0, ddof=1) / np.sqrt(11), rtol=1e-10)
    spread = [lengths[labels == k, k].std(ddof=1) / np.sqrt((labels == k).sum()) for k in (0, 1)]
    np.testing.assert_allclose(found.own_class_error[:2], spread, rtol=1e-10)
    assert np.isnan(found.own_class_error[2])


def test_beside_other_statistics(arrays):
    source = rl.DenseLogitGradients(*arrays)
    measured = rl.measure(source, "clustering", lengths=rl.LengthAccumulator())
    np.testing.assert_array_equal(measured.lengths.overall, rl.logit_gradient_lengths(source).overall)
