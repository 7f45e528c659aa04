"""Trained networks that claims share: trained once, kept, the same wherever they come from."""

import numpy as np
import pytest

from validation import examples, networks, stores
from validation.networks import Recipe

SMALL = Recipe(data="digits", hidden=(4,), examples=100, learning_rate=0.2, stages=(0, 3, 8))


def test_stages_are_those_of_one_training():
    """Against gradient descent written out."""
    import torch

    weights = networks.trained(SMALL, 2)
    assert weights.shape == (2, 3, 64 * 4 + 4 + 4 * 10 + 10)
    assert np.all(weights[0, 0] != weights[1, 0])
    images, labels = networks.data(SMALL)
    module = networks.module_at(SMALL, 0, 0, 2)
    for step in range(1, 9):
        loss = torch.nn.functional.cross_entropy(module(torch.as_tensor(images).double()), torch.as_tensor(labels))
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= 0.2 * gradient
        if step in (3, 8):
            np.testing.assert_allclose(networks.flat(module), weights[0, SMALL.stages.index(step)], atol=1e-9)


def test_networks_are_kept_and_follow_the_seed_of_the_run(tmp_path):
    with stores.kept_in(tmp_path / "a", 3):
        first = networks.trained(SMALL, 1)
    names = {path.name for path in (tmp_path / "a").iterdir() if path.suffix == ".zarr"}
    assert len(names) == 1
    networks._trained.cache_clear()
    with stores.kept_in(tmp_path / "a", 3):
        again = networks.trained(SMALL, 2)
    np.testing.assert_array_equal(again[:1], first)  # read, and one more trained
    assert {path.name for path in (tmp_path / "a").iterdir() if path.suffix == ".zarr"} == names
    with stores.kept_in(tmp_path / "a", 4):
        assert not np.array_equal(networks.trained(SMALL, 1), first)


def test_large_then_small_batches_are_one_training():
    recipe = Recipe(data="digits", hidden=(4,), examples=100, large_batch=100, batch=10, stages=(0, 5, 10))
    plain = Recipe(data="digits", hidden=(4,), examples=100, batch=100, stages=(0, 5))
    cells = [networks.train(r.text, rng=np.random.default_rng(0))["weights"][1] for r in (recipe, plain)]
    np.testing.assert_array_equal(cells[0][:2], cells[1])
    assert cells[0].shape[0] == 3


@pytest.mark.parametrize("network", ["mlp", "convnet", "cnn", "alexnet"])
def test_every_network_keeps_its_weights(network):
    hidden = (2, 3, 4) if network == "convnet" else (4,)
    recipe = Recipe(data="digits", network=network, hidden=hidden, width=0.05, activation="tanh", stages=(0,))
    module = networks.build(recipe, 5)
    weights = networks.flat(module)
    other = networks.build(recipe, 6)
    networks.fill(other, weights)
    np.testing.assert_array_equal(networks.flat(other), weights)
    assert "ReLU" not in repr(module)


def test_unknown_networks_are_named():
    with pytest.raises(ValueError, match="`network` must be convnet or one of mlp, cnn, .*; got 'rnn'"):
        networks.build(Recipe(data="digits", network="rnn"), 0)


def test_shrinking_averages_tiles():
    images = np.random.default_rng(0).standard_normal((3, 2, 8, 8))
    small = examples.shrunk(images, 4)
    tiles = images.reshape(3, 2, 4, 2, 4, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(small, (tiles - tiles.mean()) / tiles.std())
    assert examples.shrunk(images, 3).shape == (3, 2, 3, 3)


def test_without_a_folder_digits_stand_for_every_collection_and_it_is_said(monkeypatch):
    monkeypatch.delenv("RMTLAND_DATA", raising=False)
    assert "digits of scikit-learn stand for mnist, cifar10" in networks.told("mnist", "cifar10", "mnist")
    images, labels = networks.data(Recipe(data="cifar10", side=7, classes=3, examples=30))
    assert images.shape == (30, 1, 7, 7)
    np.testing.assert_array_equal(labels, np.arange(30) % 3)


def test_a_folder_without_the_file_and_a_wrong_file_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RMTLAND_DATA", str(tmp_path))
    assert networks.told("mnist") == "Data: mnist."
    with pytest.raises(FileNotFoundError, match="mnist"):
        networks.data(Recipe(data="mnist"))
    (tmp_path / "mnist.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"mnist\.npz"):
        networks.data(Recipe(data="mnist"))
