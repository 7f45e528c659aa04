import numpy as np
import pytest
from scipy.spatial.distance import pdist
from threadpoolctl import threadpool_info, threadpool_limits

import rmtland as rl
from tests import oracles
from tests.logits.test_cross_class import CASES


def clusters():
    """Class means far apart, cross-class means close to them."""
    logits, labels, gradients = oracles.examples(80, 5, 60, mean=0.0)
    rng = np.random.default_rng(3)
    return logits, labels, 0.05 * gradients + 3 * rng.normal(size=(5, 1, 60))[labels] * rng.normal(size=(1, 5, 1))


def test_classes_lie_with_their_pairs():
    # Cross-class means that are near their class mean in D dimensions are so on the plane.
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*clusters()))
    embedding = rl.class_embedding(hierarchy, perplexity=4, rng=0)
    assert np.isnan(embedding.pairs[np.eye(5, dtype=bool)]).all()
    means, pairs = hierarchy.means.class_means, hierarchy.means.pair_means
    right = total = 0
    for c in range(5):
        for k in range(5):
            if c != k:
                near = np.argsort(np.linalg.norm(means - pairs[c, k], axis=1))[0]
                shown = np.linalg.norm(embedding.classes - embedding.pairs[c, k], axis=1)
                right += near in np.argsort(shown)[:2]
                total += 1
    assert right / total > 0.8


def test_the_plane_is_found_from_all_distances(monkeypatch):
    """In units that are a power of two, leading directions first, by which it starts."""

    class Plane:
        def __init__(self, **options):
            assert options["init"] == "pca"

        def fit_transform(self, points):
            given.append(points)
            return points[:, :2]

    given = []
    monkeypatch.setattr("sklearn.manifold.TSNE", Plane)
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*clusters()))
    embedding = rl.class_embedding(hierarchy)
    others = ~np.eye(5, dtype=bool)
    exact = np.concatenate([hierarchy.means.class_means, hierarchy.means.pair_means[others]])
    shares = pdist(given[0]) / pdist(exact)
    np.testing.assert_allclose(shares, 2.0 ** round(np.log2(shares[0])), rtol=1e-6)
    assert (np.diff(np.linalg.norm(given[0], axis=0)) <= 0).all()
    np.testing.assert_array_equal(np.concatenate([embedding.classes, embedding.pairs[others]]), given[0][:, :2])


def test_few_points_have_one_thread(monkeypatch):
    """Two took fifty times as long where another process had work."""
    from sklearn.manifold import TSNE

    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"}

    seen = []
    monkeypatch.setattr(TSNE, "fit_transform", lambda _, points: seen.append(threads()) or points[:, :2])
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*CASES["absent"]))
    with threadpool_limits(2, user_api="openmp"):
        rl.class_embedding(hierarchy)
        assert threads() == {2}
        monkeypatch.setattr("rmtland.logits.embedding.FEW_POINTS", 3)
        rl.class_embedding(hierarchy)
    assert seen == [{1}, {2}]


def test_what_is_absent_has_no_point():
    embedding = rl.class_embedding(rl.hierarchy(rl.DenseLogitGradients(*CASES["absent"])))
    assert np.isnan(embedding.classes[1]).all()
    assert np.isnan(embedding.pairs[1]).all()
    assert np.isfinite(embedding.classes[[0, 2, 3]]).all()
    assert np.isfinite(embedding.pairs[0, 1]).all()


@pytest.mark.parametrize("exponent", [-100, -3, 40])
def test_the_unit_of_the_parameters_moves_no_point(exponent):
    logits, labels, gradients = clusters()
    one, other = (
        rl.class_embedding(rl.hierarchy(rl.DenseLogitGradients(logits, labels, g)))
        for g in (gradients, np.ldexp(gradients, exponent))
    )
    np.testing.assert_array_equal(other.classes, one.classes)


def test_means_that_coincide_are_named():
    logits, labels, gradients = clusters()
    with pytest.raises(ValueError, match="`hierarchy` must have means that differ; all coincide"):
        rl.class_embedding(rl.hierarchy(rl.DenseLogitGradients(logits, labels, 0 * gradients)))


def test_seeds():
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*CASES["unbalanced"]))
    first, same, other = (rl.class_embedding(hierarchy, rng=seed).classes for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert first.shape == other.shape


def test_bad_input():
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*CASES["unbalanced"]))
    with pytest.raises(ValueError, match="`perplexity` must be"):
        rl.class_embedding(hierarchy, perplexity=16)
    logits, labels, gradients = oracles.examples(20, 2, 6)
    single = rl.hierarchy(rl.DenseLogitGradients(logits, 0 * labels, gradients))
    with pytest.raises(ValueError, match="`hierarchy` must have at least 3 means to embed; got 2"):
        rl.class_embedding(single)
