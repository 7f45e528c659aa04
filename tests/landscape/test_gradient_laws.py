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


@pytest.mark.parametrize(("mean", "residual", "snr"), [(3.0, 0.5, 36.0), (0.5, 2.0, 1 / 16), (0.0, 0.1, 0.0)])
def test_signal_to_noise_is_a_ratio_of_squares(mean, residual, snr):
    assert rl.ClusteredGradients(mean, residual).snr == pytest.approx(snr)


def test_class_gradients_and_unequal_lengths():
    law = rl.ClusteredGradients(1.0, 0.5, class_length=2.0, relative_lengths=[0.0, 1.0, 2.0, 0.5])
    draws = [draw(law, seed) for seed in range(60)]
    means, _, of_class = (np.array(parts) for parts in zip(*draws, strict=True))
    assert of_class.shape == (60, 4, 4, 200)
    assert_mean(np.sum(means**2, axis=-1), [0.0, 1.0, 4.0, 0.25], detect=[1e-9, 0.4, 1.6, 0.1])
    assert_mean(np.sum(of_class**2, axis=-1).mean(axis=(1, 2)), 4.0, detect=0.2)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(np.sum(of_class**2, axis=-1).mean(axis=(1, 2)), 2.0, detect=0.2)
    # Without them the first two arrays are the same numbers as ever.
    without = draw(rl.ClusteredGradients(1.0, 0.5, relative_lengths=[0, 1, 2, 0.5]), 3)
    for one, other in zip(draw(law, 3)[:2], without, strict=True):
        np.testing.assert_array_equal(one, other)
    assert hash(law) == hash(rl.ClusteredGradients(1.0, 0.5, 2.0, (0.0, 1.0, 2.0, 0.5)))


def q_model(law, labels):
    logits = np.zeros((labels.size, 4))
    return rl.LandscapeModel(labels.size, 4, 3000, logits=rl.GivenLogits(logits, labels), gradients=law)


@pytest.mark.parametrize("lengths", [None, (0.5, 1.0, 1.0, 2.0)])
def test_q_values_of_draws(lengths):
    law = rl.ClusteredGradients(1.0, 0.8, class_length=0.7, relative_lengths=lengths)
    labels = np.repeat([0, 1, 2, 3], [2, 3, 5, 30])
    draws = []
    for seed in range(12):
        q = rl.clustering(q_model(law, labels).sample(seed), num_bootstrap=0)
        draws.append([q.same_logit_same_class, q.same_logit, q.different_logits])
    expected = np.array(law.q_values(4, labels))
    assert_mean(draws, expected, bias=0.002, detect=0.06)
    # Classes of equal size would have another q_SL: what unbalanced labels change is seen.
    assert abs(law.q_values(4).same_logit - expected[1]) > 0.06
    with pytest.raises(AssertionError, match="against"):
        assert_mean(draws, law.q_values(4), bias=0.002, detect=0.06)


def test_q_values_in_both_limits():
    paper = rl.ClusteredGradients(1.0, 0.7)
    snr = paper.snr
    assert paper.q_values(10) == pytest.approx((snr / (1 + snr), snr / (1 + snr), 0.0))
    assert rl.ClusteredGradients(0.0, 0.0, class_length=1.0).q_values(5) == pytest.approx((1.0, 0.2, 0.0))
    assert np.isnan(rl.ClusteredGradients(0.0, 0.0).q_values(5)).all()
    one_dead = rl.ClusteredGradients(1.0, 0.0, relative_lengths=[1.0, 0.0])
    assert one_dead.q_values(2) == (1.0, 1.0, 0.0)
    few = rl.ClusteredGradients(1.0, 2.0, class_length=3.0)
    assert few.q_values(2, [0, 0, 1]) == pytest.approx((10 / 14, (1 + 9 / 3) / 14, 0.0))  # one pair of three


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rl.ClusteredGradients(relative_lengths=[1.0, -1.0]), ValueError, "`relative_lengths` must be >= 0"),
        (lambda: rl.ClusteredGradients(relative_lengths=1.0), ValueError, "`relative_lengths` must have 1 dimension"),
        (lambda: rl.ClusteredGradients(relative_lengths=["a"]), TypeError, "`relative_lengths` must be an array"),
        (
            lambda: rl.LandscapeModel(4, 3, 5, gradients=rl.ClusteredGradients(relative_lengths=[1.0, 2.0])),
            ValueError,
            "`relative_lengths` must have 3 entries, one per class; got 2",
        ),
        (lambda: rl.ClusteredGradients().q_values(1), ValueError, "`num_classes` must be >= 2; got 1"),
        (lambda: rl.ClusteredGradients().q_values(3, [0]), ValueError, "`labels` must be at least 2 integers"),
        (lambda: rl.ClusteredGradients().q_values(3, [0.0, 1.0]), ValueError, "`labels` must be at least 2 integers"),
        (lambda: rl.ClusteredGradients().q_values(3, [0, 3]), ValueError, r"`labels` must be in 0..2; got 0..3"),
    ],
)
def test_bad_extensions(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", ["mean_length", "residual_length", "class_length"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"`{name}` must be >= 0; got -1"):
        rl.ClusteredGradients(**{name: -1})
    with pytest.raises(ValueError, match=f"`{name}` must be >= 0; got nan"):
        rl.ClusteredGradients(**{name: math.nan})
    with pytest.raises(TypeError, match=f"`{name}` must be a real number; got None"):
        rl.ClusteredGradients(**{name: None})


def test_lengths_whose_powers_overflow_are_refused():
    for name in ("mean_length", "residual_length", "class_length"):
        with pytest.raises(ValueError, match=rf"`{name}` must be <= 1e\+38; got 1e\+150"):
            rl.ClusteredGradients(**{name: 1e150})
    with pytest.raises(ValueError, match="`residual_length` must be <= 1e"):
        rl.LandscapeModel.fort_ganguli(snr=1e-300)
    theory = rl.LandscapeModel(20, 3, 40, gradients=rl.ClusteredGradients(1e37, 1e37)).theory(0)
    assert np.isfinite(theory.outliers()).all()
    assert np.isfinite([theory.trace, theory.frobenius, theory.goldilocks_ratio()]).all()
