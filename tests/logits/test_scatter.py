import statistics

import numpy as np
import pytest

import rmtland as rl
from rmtland.logits.accumulate import SharedChunk
from rmtland.logits.scatter import NUM_GROUPS, Scatter
from tests import oracles

NUM_EXAMPLES, NUM_CLASSES, NUM_DIRECTIONS = 37, 3, 2


def by_definition(arrays, directions, centres, inside, share, weights, by_pair):
    """Means over the examples of each group, one example and one class after the other, then their deviation."""
    logits, labels, gradients = arrays
    groups = [[] for _ in range(NUM_GROUPS)]
    for i, (z, y, jacobian) in enumerate(zip(logits, labels, gradients, strict=True)):
        p = oracles.softmax(z)
        total = np.zeros(inside.shape[1])
        for other in range(NUM_CLASSES):
            along = (jacobian[other] - p @ jacobian) @ directions
            cell = y * NUM_CLASSES + other if by_pair else y + NUM_CLASSES * (other == y)
            total += weights[i] * p[other] * ((along - centres[cell]) @ inside) ** 2
        groups[i % NUM_GROUPS].append(total)
    means = [sum(group) / len(group) for group in groups if group]
    spread = [statistics.stdev(values) for values in zip(*means, strict=True)]
    return np.array(spread) * np.sqrt(share / len(means))


@pytest.mark.parametrize("by_pair", [True, False])
@pytest.mark.parametrize("num_examples", [NUM_EXAMPLES, 16, 3, 2])
@pytest.mark.parametrize("weighted", [True, False])
def test_deviations_are_those_of_the_groups_of_examples(by_pair, num_examples, weighted):
    rng = np.random.default_rng(0)
    arrays = tuple(array[:num_examples] for array in oracles.examples(NUM_EXAMPLES, NUM_CLASSES, 9))
    directions = np.linalg.qr(rng.normal(size=(9, NUM_DIRECTIONS)))[0]
    weights = rng.uniform(0.5, 2.0, num_examples) if weighted else np.ones(num_examples)
    source = rl.DenseLogitGradients(*arrays)
    scatter = Scatter(NUM_CLASSES, NUM_DIRECTIONS, by_pair)
    for seen in range(0, num_examples, 5):
        chunk = oracles.ScratchChunk(*(array[seen : seen + 5] for array in arrays))
        if weighted:
            chunk.weights, chunk.targets = weights[seen : seen + 5], chunk.labels
        scatter.add(SharedChunk(chunk, source), chunk.jvp(directions), seen)
    centres = rng.normal(size=(NUM_CLASSES * (NUM_CLASSES if by_pair else 2), NUM_DIRECTIONS))
    inside = rng.normal(size=(NUM_DIRECTIONS, 3))
    found = scatter.deviations(centres, inside, 0.7)
    expected = by_definition(arrays, directions, centres, inside, 0.7, weights, by_pair)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(scatter.deviations(centres, inside, 0.35), expected / np.sqrt(2), rtol=1e-9)
    assert (scatter.deviations(centres, inside, 0.0) == 0).all()


def test_one_group_has_no_deviation():
    logits, labels, gradients = (array[:1] for array in oracles.examples(NUM_EXAMPLES, NUM_CLASSES, 9))
    source = rl.DenseLogitGradients(logits, labels, gradients)
    scatter = Scatter(NUM_CLASSES, NUM_DIRECTIONS, by_pair=True)
    scatter.add(
        SharedChunk(oracles.ScratchChunk(logits, labels, gradients), source), gradients[:, :, :NUM_DIRECTIONS], 0
    )
    found = scatter.deviations(np.zeros((NUM_CLASSES**2, NUM_DIRECTIONS)), np.eye(NUM_DIRECTIONS), 0.5)
    np.testing.assert_array_equal(found, 0)
