import numpy as np
import pytest
import torch

from rmtland.nets import Dataset, mlp, train, training_stages


def blobs(n=60, classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, 4)) + 3 * np.eye(classes, 4)[y]
    return Dataset("blobs", x, y, x[:0], y[:0])


def test_the_same_seed_gives_the_same_network_and_leaves_the_global_generator_alone():
    data = blobs()
    state = torch.random.get_rng_state()
    runs = [training_stages(data, hidden=(5,), epochs=4, num_examples=20, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    vectors = [[source.network.vector for source in run.values()] for run in runs]
    assert all(torch.equal(a, b) for a, b in zip(vectors[0], vectors[1], strict=True))
    assert not torch.equal(vectors[0][0], vectors[2][0])
    assert list(runs[0]) == ["initialisation", "mid training", "end of training"]
    assert not torch.equal(vectors[0][1], vectors[0][2])


def test_training_lowers_the_loss_and_keeps_the_mode():
    data = blobs()
    module = mlp([4, 5, 3]).eval()
    loss = torch.nn.CrossEntropyLoss()
    x, y = torch.as_tensor(data.x_train), torch.as_tensor(data.y_train)
    before = loss(module(x), y).item()
    epochs = []
    train(module, data.x_train, data.y_train, epochs=20, after_epoch=epochs.append)
    assert loss(module(x), y).item() < before / 2
    assert epochs == list(range(1, 21))
    assert not module.training


def test_divergence_is_told():
    data = blobs()
    with pytest.raises(FloatingPointError, match="training diverged in epoch 1; lower `learning_rate` = 1e"):
        train(mlp([4, 5, 3]), data.x_train, data.y_train, epochs=3, learning_rate=1e200, momentum=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1}, "`epochs` must be >= 2; got 1"),
        ({"num_examples": 61}, "`num_examples` must be >= 2 and <= 60; got 61"),
        ({"num_examples": 1}, "`num_examples` must be >= 2 and <= 60; got 1"),
        ({"hidden": (0,)}, "`sizes` must be >= 1; got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be > 0; got 0.0"),
    ],
)
def test_bad_settings(options, message):
    settings = {"num_examples": 20, "epochs": 2} | options
    with pytest.raises(ValueError, match=message):
        training_stages(blobs(), **settings)


def test_one_class_is_no_classification():
    with pytest.raises(ValueError, match="`dataset` must have at least 2 classes; got 1"):
        training_stages(blobs(classes=1), num_examples=20)


def test_a_network_that_does_not_fit():
    with pytest.raises(MemoryError, match=r"training [0-9,]* parameters needs .* GiB .* narrower hidden layers"):
        training_stages(blobs(), hidden=(100_000, 100_000_000), num_examples=20)


def test_an_mlp_needs_two_sizes():
    with pytest.raises(ValueError, match=r"`sizes` must name inputs and outputs at least; got \[4\]"):
        mlp([4])
