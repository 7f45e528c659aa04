import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.reduced_draw import reduced_draw
from tests.statistical import assert_mean

LAW = rl.ClusteredGradients(mean_length=1.0, residual_length=0.7, class_length=0.5, relative_lengths=(0.5, 1.0, 1.2))


def model(num_parameters, gradients=LAW):
    return rl.LandscapeModel(12, 3, num_parameters, rl.GaussianLogits(sigma=3.0, accuracy=0.9), gradients)


def quantities(draw):
    """Numbers that do not see rotations: traces of the parts, lengths, inner products within and between examples."""
    traces = rl.hierarchy(draw).traces
    gradients = np.concatenate([chunk.dense() for chunk in draw.chunks()])
    inner = np.einsum("nkd,mkd->nmk", gradients, gradients)
    return [
        *traces.values(),
        inner[0, 0, 2],
        inner[0, 1, 2],
        inner[0, 0, 2] ** 2,
        np.sum(gradients[0, 0] * gradients[0, 1]) ** 2,
    ]


def deviations(num_parameters, count=150):
    """Means of the quantities of reduced draws less those of draws, in standard errors, and ratios of their s.d."""
    one = model(num_parameters)
    reduced = np.array([quantities(reduced_draw(one, rng)) for rng in range(count)])
    full = np.array([quantities(one.sample(1000 + rng)) for rng in range(count)])
    error = np.hypot(reduced.std(axis=0), full.std(axis=0)) / np.sqrt(count)
    return (reduced.mean(axis=0) - full.mean(axis=0)) / error, reduced.std(axis=0) / full.std(axis=0)


@pytest.mark.parametrize("num_parameters", [5, 300])
def test_same_law_as_a_draw(num_parameters):
    # Fewer coordinates than rows, and more.
    means, ratios = deviations(num_parameters)
    assert np.abs(means).max() < 5
    assert 0.5 < ratios.min() <= ratios.max() < 2


def test_rows_without_the_lengths_of_d_coordinates_are_another_law(monkeypatch):
    monkeypatch.setattr(
        "rmtland.landscape.reduced_draw.bartlett_factor",
        lambda rows, columns, rng: rng.standard_normal((rows, min(rows, columns))),
    )
    assert np.abs(deviations(300)[0]).max() > 20


def test_sizes_and_lengths():
    draw = reduced_draw(model(10**9), rng=0)
    assert (draw.num_examples, draw.num_classes, draw.num_parameters) == (12, 3, 3 + 9 + 36)
    assert reduced_draw(model(20), rng=0).num_parameters == 20
    plain = rl.ClusteredGradients(mean_length=1.0, residual_length=0.7)
    draws = [reduced_draw(model(10**6, plain), rng) for rng in range(60)]
    assert draws[0].num_parameters == 39
    assert draws[0].class_gradients is None
    squares = np.array([np.sum(draw.residuals[3, 1] ** 2) for draw in draws])
    assert_mean(squares, 0.49, detect=0.49 * 0.01)


def test_seeds():
    first, same, other = (reduced_draw(model(50), rng=seed).residuals for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_another_law_is_refused():
    class Law(rl.ClusteredGradients):
        pass

    with pytest.raises(TypeError, match="`model` must have ClusteredGradients; got Law"):
        reduced_draw(model(50, Law(mean_length=1.0)), rng=0)


def test_what_does_not_fit():
    large = rl.LandscapeModel.fort_ganguli(num_examples=10**6, num_classes=10, num_parameters=10**9)
    with pytest.raises(MemoryError, match="logit gradients of a reduced draw needs .* use fewer examples instead"):
        reduced_draw(large, rng=0)
