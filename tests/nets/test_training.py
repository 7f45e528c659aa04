import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from rmtland.nets import Dataset, Training, load_dataset, mlp, train, training_stages
from rmtland.nets.descent import Descent
from rmtland.nets.training import choose_probes, load_checkpoint, save_checkpoint


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


def test_two_classes_and_two_examples_are_enough():
    stages = training_stages(blobs(classes=2), hidden=(3,), epochs=2, num_examples=2)
    assert all(source.num_classes == source.num_examples == 2 for source in stages.values())


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    data = blobs()
    training = Training(mlp([4, 3]), data.x_train, data.y_train, epochs=1)
    save_checkpoint(training, tmp_path / "own.pt")
    load_checkpoint(training, tmp_path / "own.pt")
    torch.save(training.state_dict() | {"step": Path("0")}, tmp_path / "other.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_checkpoint(training, tmp_path / "other.pt")


@pytest.mark.parametrize("num_test", [0, 1, 2, 3])
def test_a_test_set_of_two_is_measured_too(num_test):
    data = blobs(n=12)
    whole = Dataset("small", data.x_train, data.y_train, data.x_train[:num_test], data.y_train[:num_test])
    probes = choose_probes(whole, None, seed=0)
    assert list(probes) == (["train", "test"] if num_test > 1 else ["train"])
    for name, x in (("train", data.x_train), ("test", data.x_train[:num_test])):
        if name in probes:
            np.testing.assert_array_equal(probes[name][0], x)


def test_velocities_that_are_loaded_stay_as_they_are():
    weight, loaded = torch.nn.Parameter(torch.ones(3)), torch.full((3,), 4.0)
    weight.grad = torch.ones(3)
    descent = Descent([weight], momentum=0.5, weight_decay=0.0)
    descent.load([loaded])
    descent.step(0.25)
    assert descent.velocities[0].tolist() == [3.0] * 3  # half of 4, and the gradient
    assert weight.tolist() == [0.25] * 3
    assert loaded.tolist() == [4.0] * 3


def test_velocities_of_another_network_are_refused():
    data = blobs()
    training = Training(mlp([4, 3]), data.x_train, data.y_train, epochs=1)
    state = training.state_dict()
    state["optimiser"]["velocities"].pop()
    with pytest.raises(ValueError, match="shorter"):
        training.load_state_dict(state)


def test_a_network_that_does_not_fit():
    with pytest.raises(MemoryError, match=r"training [0-9,]* parameters needs .* GiB .* narrower hidden layers"):
        training_stages(blobs(), hidden=(100_000, 100_000_000), num_examples=20)


def test_labels_that_do_not_fit_are_refused():
    data, module = blobs(), mlp([4, 5, 3])
    for labels, message in (
        (np.append(data.y_train, 0), r"`labels` must have shape \(60,\), one per example; got \(61,\)"),
        (data.y_train[:-1], r"`labels` must have shape \(60,\), one per example; got \(59,\)"),
        (data.y_train[:, None], r"`labels` must have shape \(60,\), one per example; got \(60, 1\)"),
        (data.y_train - 1, r"`labels` must hold class labels 0, 1, ...; got torch.int64 from -1"),
        (data.y_train * 1.0, r"`labels` must hold class labels 0, 1, ...; got torch.float64 from 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            train(module, data.x_train, labels, epochs=1)
    with pytest.raises(ValueError, match=r"`inputs` must have shape \(N, ...\) with N >= 1; got \(0, 4\)"):
        train(module, data.x_train[:0], data.y_train[:0], epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "`epochs` must be >= 0; got -1"),
        ({"batch_size": 0}, "`batch_size` must be >= 1; got 0"),
        ({"momentum": 1.0}, "`momentum` must be >= 0 and < 1; got 1.0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be >= 0; got -1.0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be > 0; got 0.0"),
        ({"seed": -1}, "`seed` must be >= 0; got -1"),
    ],
)
def test_bad_settings_of_training(options, message):
    data = blobs()
    with pytest.raises(ValueError, match=message):
        train(mlp([4, 5, 3]), data.x_train, data.y_train, **{"epochs": 1, **options})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"labels": np.arange(61) % 3}, ValueError, r"`labels` must have shape \(60,\), one per example; got \(61,\)"),
        ({"labels": np.arange(9) % 3}, ValueError, r"`labels` must have shape \(60,\), one per example; got \(9,\)"),
        ({"inputs": np.ma.masked_greater(blobs().x_train, 3)}, ValueError, "`inputs` must have no masked entries; got"),
        (
            {"labels": np.ma.masked_equal(blobs().y_train, 1)},
            ValueError,
            "`labels` must have no masked entries; got 20",
        ),
        ({"inputs": blobs().x_train * 1j}, TypeError, "`inputs` must be real numbers; got torch.complex128"),
        ({"inputs": np.full((60, 4), np.nan)}, ValueError, "`inputs` must be finite; got NaN or infinite entries"),
        ({"inputs": np.full((60, 4), "1")}, TypeError, "`inputs` must be arrays or tensors; got ndarray"),
        (
            {"inputs": np.full((60, 4), 1e300)},
            ValueError,
            "`inputs` must be finite in torch.float32, the network's; got",
        ),
        ({"module": torch.nn.ReLU()}, ValueError, "`module` must have parameters to train; got none"),
    ],
)
def test_bad_data_of_training(changed, error, message):
    data = blobs()
    given = {"module": mlp([4, 5, 3], dtype=torch.float32), "inputs": data.x_train, "labels": data.y_train}
    with pytest.raises(error, match=message):
        train(**given | changed, epochs=1)


def weights(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def test_every_setting_of_training_acts():
    data, runs = blobs(), []
    for options in (
        {}, {"learning_rate": 0.01}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"batch_size": 7}, {"seed": 1},
        {"epochs": 3},
    ):  # fmt: skip
        module = mlp([4, 5, 3])
        train(module, data.x_train, data.y_train, **{"epochs": 2, **options})
        runs.append(weights(module))
    assert all(not torch.equal(a, b) for i, a in enumerate(runs) for b in runs[:i])


def test_a_plain_loop_takes_the_same_steps():
    data, module, other = blobs(), mlp([4, 5, 3]), mlp([4, 5, 3])
    train(module, data.x_train, data.y_train, epochs=1, batch_size=60, learning_rate=0.1, momentum=0.0)
    x, y = torch.as_tensor(data.x_train), torch.as_tensor(data.y_train)
    gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(other(x), y), list(other.parameters()))
    expected = torch.cat([(p - 0.1 * g).reshape(-1) for p, g in zip(other.parameters(), gradients, strict=True)])
    torch.testing.assert_close(weights(module), expected.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.0, 0.1), (0.9, 0.0), (0.7, 0.02)])
def test_steps_are_those_of_the_optimiser_of_torch(momentum, weight_decay, dtype):
    """Bit for bit: whole batches, a rate lowered on the way, weights that are frozen and one that gets no gradient."""
    data = blobs()

    def network():
        module = mlp([4, 5, 3], seed=1, dtype=dtype)
        module.unused = torch.nn.Parameter(torch.ones(2, dtype=dtype))
        next(module.parameters()).requires_grad_(False)
        return module

    module, other = network(), network()
    options = {"momentum": momentum, "weight_decay": weight_decay}
    optimiser = torch.optim.SGD(other.parameters(), lr=0.1, **options)
    training = Training(module, data.x_train, data.y_train, epochs=6, learning_rate=0.1, batch_size=20, **options)
    order = torch.Generator().manual_seed(0)
    x, y = torch.as_tensor(data.x_train, dtype=dtype), torch.as_tensor(data.y_train)
    steps = iter(training)
    for epoch in range(6):
        for batch in torch.randperm(60, generator=order).split(20):
            next(steps)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(other(x[batch]), y[batch]).backward()
            optimiser.step()
            assert torch.equal(weights(module), weights(other))
        training.learning_rate = optimiser.param_groups[0]["lr"] = 0.1 * 0.5**epoch
    assert not torch.equal(weights(module), weights(network()))
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_a_stopped_training_goes_on_bit_for_bit(stop, tmp_path):
    data = blobs()
    settings = {"epochs": 3, "batch_size": 16}

    def start(seed=0):
        module = torch.nn.Sequential(mlp([4, 5], seed=seed), torch.nn.BatchNorm1d(5).double(), mlp([5, 3], seed=seed))
        return Training(module, data.x_train, data.y_train, **settings)

    whole = start()
    assert list(whole) == list(range(1, 13))
    first = start()
    for step in first:
        if step == stop:
            break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = start(seed=5)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert list(second) == list(range(stop + 1, 13))
    for a, b in zip(whole.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="`step` must be >= 0 and <= 12; got 13"):
        second.load_state_dict({**first.state_dict(), "step": 13})


def test_a_last_batch_of_one_joins_the_one_before():
    data = blobs(n=33)
    module = torch.nn.Sequential(mlp([4, 5]), torch.nn.BatchNorm1d(5).double(), mlp([5, 3]))
    steps = []
    train(module, data.x_train, data.y_train, epochs=2, batch_size=16, after_step=steps.append)
    assert steps == [1, 2, 3, 4]  # 16 + 17, twice


@pytest.mark.parametrize(("n", "sizes"), [(33, [16, 17]), (34, [16, 16, 2]), (49, [16, 16, 17]), (1, [1])])
def test_every_example_is_in_one_batch_of_an_epoch(n, sizes):
    module, seen = mlp([1, 3]), []
    module.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten().tolist()))
    numbers = np.arange(n, dtype=float)
    train(module, numbers[:, None], np.zeros(n, int), epochs=1, batch_size=16, learning_rate=1e-9)
    assert [len(batch) for batch in seen] == sizes
    assert sorted(number for batch in seen for number in batch) == list(numbers)


def test_networks_by_name_take_the_shape_they_need():
    digits = load_dataset("digits", per_class=5)
    for name, options, shape in (("mlp", {"hidden": (6,)}, (8, 8)), ("cnn", {"width": 0.25}, (1, 8, 8))):
        stages = training_stages(digits, network=name, epochs=2, num_examples=20, **options)
        (chunk,) = stages["end of training"].chunks()
        assert chunk.inputs.shape == (20, *shape)
        assert not torch.equal(stages["initialisation"].network.vector, stages["end of training"].network.vector)
    own = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 10))
    stages = training_stages(digits, network=own, epochs=2, num_examples=20)
    assert stages["end of training"].num_parameters == 20 + 730
    assert torch.equal(stages["end of training"].network.vector, weights(own))
    vectors = blobs()
    module = torch.nn.Linear(4, 3)
    assert training_stages(vectors, network=module, epochs=2, num_examples=20)["initialisation"].num_parameters == 15
    with pytest.raises(ValueError, match="`network` must be 'mlp' for vectors, which blobs holds; got 'cnn'"):
        training_stages(vectors, network="cnn", num_examples=20)


def test_stages_of_another_width_or_batch_size_differ():
    digits = load_dataset("digits", per_class=5)
    options = ({}, {"batch_size": 10}, {"learning_rate": 0.01}, {"width": 0.5})
    ends = [
        training_stages(digits, hidden=(4,), epochs=2, num_examples=20, **o)["end of training"].network.vector
        for o in options
    ]
    assert len(ends[3]) < len(ends[0])
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
