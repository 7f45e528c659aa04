"""Statistics of some of the logits against brute force on their rows alone."""

import numpy as np
import pytest

import rmtland as rl
from tests import oracles
from tests.nets.networks import LABELS, build, jacobian

CLASSES = [3, 0, 4]


def chosen(array, labels):
    """Gradients of the chosen logits, and labels among them (-1 for others)."""
    places = {k: i for i, k in enumerate(CLASSES)}
    return array[:, CLASSES], np.array([places.get(int(y), -1) for y in labels])


def pair_means(gradients, labels):
    """q-values by all pairs, (same logit and class, same logit, different logits)."""
    units = gradients / np.linalg.norm(gradients, axis=2, keepdims=True)
    cosines = np.einsum("mkd,nld->mnkl", units, units)
    n, count = labels.size, gradients.shape[1]
    different = ~np.eye(n, dtype=bool)
    of_class = [
        cosines[:, :, k, k][different & (labels[:, None] == k) & (labels[None] == k)].mean() for k in range(count)
    ]
    same = np.mean([cosines[:, :, k, k][different].mean() for k in range(count)])
    off = ~np.eye(count, dtype=bool)
    return np.mean(of_class), same, cosines[different][:, off].mean()


@pytest.mark.parametrize("num_groups", [None, 5])
def test_some_of_many_classes(num_groups):
    logits, labels, gradients = oracles.examples(60, 6, 7)
    for sizes in ((60,), (24, 24, 12)):
        source = oracles.ScratchSource(logits, labels, gradients, rl.CrossEntropy(), sizes=sizes)
        some, places = chosen(gradients, labels)
        q = rl.clustering(source, num_groups=num_groups, classes=CLASSES)
        found = [q.same_logit_same_class, q.same_logit, q.different_logits]
        np.testing.assert_allclose(found, pair_means(some, places), rtol=1e-9)
        assert q.same_logit_error > 0
        lengths = np.linalg.norm(some, axis=2)
        measured = rl.logit_gradient_lengths(source, classes=CLASSES)
        np.testing.assert_allclose(measured.overall, lengths.mean(axis=0))
        np.testing.assert_allclose(measured.own_class, [lengths[places == k, k].mean() for k in range(3)])
        scales = rl.logit_scales(source, classes=CLASSES)
        means = np.stack([some[places == k, k].mean(axis=0) for k in range(3)])
        np.testing.assert_allclose(scales.mean_gradients, means)
        np.testing.assert_allclose(scales.sigma_z**2, logits[:, CLASSES].var(axis=1, ddof=1).mean())


@pytest.mark.parametrize("name", ["conv", "attention"])
def test_all_classes_of_a_network_in_another_order_and_two_of_them(name):
    module, inputs = build(name)
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4)
    every, turned = rl.clustering(source), rl.clustering(source, classes=[2, 0, 1])
    assert turned.same_logit_same_class == pytest.approx(every.same_logit_same_class)
    assert turned.different_logits == pytest.approx(every.different_logits)
    exact = np.linalg.norm(jacobian(module, inputs)[0].numpy(), axis=2).mean(axis=0)
    measured = rl.logit_gradient_lengths(source, classes=[2, 0])
    np.testing.assert_allclose(measured.overall, exact[[2, 0]], rtol=1e-9)


def test_classes_that_are_none():
    source = oracles.ScratchSource(*oracles.examples(20, 3, 4), rl.CrossEntropy())
    for wrong in ([0, 0], []):
        with pytest.raises(ValueError, match="`classes` must be different classes, at least one; got"):
            rl.clustering(source, classes=wrong)
    with pytest.raises(ValueError, match="`classes` must be"):
        rl.logit_scales(source, classes=[0, 3])
    logits, labels, gradients = oracles.examples(50, 3, 4)
    bad = oracles.ScratchSource(logits, labels + 3, gradients, rl.CrossEntropy())
    with pytest.raises(ValueError, match="`labels` must be in"):  # the source's own checks still hold
        rl.logit_gradient_lengths(bad, classes=[0])
