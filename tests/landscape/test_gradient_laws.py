import math

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.gradient_laws import GradientLaw
from tests.statistical import assert_mean

LABELS = np.zeros(6, dtype=np.int64)


def draw(law, seed, num_parameters=200):
    return law.draw_gradients(LABELS, 4, num_parameters, np.random.default_rng(seed))


def test_lengths_are_root_mean_squares():
    law = rl.ClusteredGradients(mean_length=2.0, residual_length=0.5)
    draws = [draw(law, seed) for seed in range(60)]
    means = [np.mean(np.sum(c**2, axis=-1)) for c, _ in draws]
    residuals = [np.mean(np.sum(e**2, axis=-1)) for _, e in draws]
    assert_mean(means, 4.0, detect=0.3)
    assert_mean(residuals, 0.25, detect=0.01)
    # Mutants: the length taken for a square, and 4% on the residuals' variance.
    with pytest.raises(AssertionError, match="against"):
        assert_mean(means, 2.0, detect=0.3)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(residuals, 0.26, detect=0.01)


def test_lengths_do_not_depend_on_the_number_of_parameters():
    for num_parameters in (1, 10, 5000):
        means, residuals = draw(rl.ClusteredGradients(1.0, 1.0), 0, num_parameters)
        assert means.shape == (4, num_parameters)
        assert residuals.shape == (6, 4, num_parameters)
    assert np.sum(residuals**2, axis=-1).mean() == pytest.approx(1, abs=0.05)


def test_components_are_uncorrelated():
    law = rl.ClusteredGradients(1.0, 1.0)
    draws = [draw(law, seed) for seed in range(60)]
    between_logits = [e[0, 0] @ e[0, 1] for _, e in draws]
    between_examples = [e[0, 0] @ e[1, 0] for _, e in draws]
    with_the_mean = [c[0] @ e[0, 0] for c, e in draws]
    for samples in (between_logits, between_examples, with_the_mean):
        assert_mean(samples, 0, detect=0.12)
        with pytest.raises(AssertionError, match="against"):
            assert_mean(samples, 0.12, detect=0.12)


def test_signal_to_noise():
    assert rl.ClusteredGradients(1.0, 0.5).snr == 4
    assert rl.ClusteredGradients(1.0, 0.0).snr == math.inf
    assert math.isnan(rl.ClusteredGradients(0.0, 0.0).snr)
    means, residuals = draw(rl.ClusteredGradients(1.0, 0.0), 0)
    assert not residuals.any()
    assert means.any()
    assert isinstance(rl.ClusteredGradients(), GradientLaw)


@pytest.mark.parametrize("name", ["mean_length", "residual_length"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"`{name}` must be >= 0; got -1"):
        rl.ClusteredGradients(**{name: -1})
    with pytest.raises(ValueError, match=f"`{name}` must be >= 0; got nan"):
        rl.ClusteredGradients(**{name: math.nan})
    with pytest.raises(TypeError, match=f"`{name}` must be a real number; got None"):
        rl.ClusteredGradients(**{name: None})
