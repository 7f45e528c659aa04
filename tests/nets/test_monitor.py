from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.nets import monitor as monitor_module


def network(seed=0):
    torch.manual_seed(seed)
    module = torch.nn.Sequential(
        torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 4)
    ).double()
    labels = torch.arange(200) % 4
    inputs = torch.randn(200, 12) + 1.5 * torch.randn(4, 12)[labels]
    return module, inputs.double(), labels


def train(module, inputs, labels, steps, after):
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    torch.manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(0, len(labels), (20,))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs[batch]), labels[batch]).backward()
        optimiser.step()
        after()


def test_it_follows_the_dense_matrices():
    module, inputs, labels = network()
    followed = rl.nets.OutlierMonitor(module, inputs, labels, every=5)
    seen = []

    def after():
        if followed.step():
            module.eval()
            source = rl.nets.NetworkLogitGradients(module, inputs, labels)
            values, vectors = np.linalg.eigh(rl.gauss_newton(source).to_dense())
            slope = rl.gradient(source).numpy()
            power = ((vectors[:, -3:].T @ slope) ** 2).sum() / (slope @ slope)
            sharpest = np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())[-1]
            module.train()
            seen.append((values[-3:], power, sharpest))

    train(module, inputs, labels, 40, after)
    data = followed.dataset()
    assert followed.steps == list(data.step.values) == list(range(5, 41, 5))
    assert data["rank"].values.tolist() == [3, 2, 1]
    exact = np.array([values for values, _, _ in seen])
    assert np.abs(data.eigenvalues.values / exact - 1).max() < 0.03
    assert (np.abs(data.eigenvalues.values - exact) <= data.errors.values).mean() >= 0.95
    np.testing.assert_allclose(data.gradient_power, [power for _, power, _ in seen], atol=0.05)
    np.testing.assert_allclose(data.powers.sum("rank"), data.gradient_power)
    sharpest = np.array([value for _, _, value in seen])
    np.testing.assert_allclose(data.sharpness, sharpest, rtol=0.02)
    assert (data.sharpness <= sharpest * (1 + 1e-9)).all()
    # What follows a network must not remember the one that was.
    assert np.abs(np.diff(exact[:, -1])).max() > 0.05 * exact.max()


def test_training_is_the_same_as_without():
    trained = []
    for every in (None, 2):
        module, inputs, labels = network()
        followed = rl.nets.OutlierMonitor(module, inputs, labels, every=every or 1000)
        train(module, inputs, labels, 6, followed.step)
        assert module.training
        trained.append(torch.cat([p.detach().reshape(-1) for p in module.parameters()]))
    assert torch.equal(*trained)


def test_the_share_of_time_is_kept(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(monitor_module.time, "monotonic", lambda: clock[0])
    module, inputs, labels = network()
    followed = rl.nets.OutlierMonitor(module, inputs, labels, share=0.25)

    def measure():
        clock[0] += 2.0
        return {"eigenvalues": np.ones(3)}

    monkeypatch.setattr(followed, "_measure", measure)
    for _ in range(100):
        clock[0] += 1.0
        followed.step()
    # 2 seconds of 8 each: the first at once, and made up for.
    assert followed.steps[0] == 1
    assert followed.steps[1:] == list(range(16, 101, 8))
    assert followed.seconds <= 0.25 * 100
    assert followed.seconds > 0.2 * 100


def test_options_act():
    module, inputs, labels = network()
    assert rl.nets.OutlierMonitor(module, inputs, labels, every=1).step()
    plain = rl.nets.OutlierMonitor(module, (inputs, labels), every=2, k=2, sharpness=False)
    assert [plain.step(), plain.step(), plain.step(7)] == [False, True, True]
    assert plain.steps == [2, 7]
    data = plain.dataset()
    assert data.eigenvalues.shape == (2, 2)
    assert "sharpness" not in data
    smooth = rl.nets.OutlierMonitor(module, inputs, labels, every=1, loss=rl.CrossEntropy(label_smoothing=0.1))
    smooth.step()
    assert "sharpness" in smooth.dataset()


def test_weights_that_are_not_finite_leave_nan():
    module, inputs, labels = network()
    followed = rl.nets.OutlierMonitor(module, inputs, labels, every=1)
    followed.step()
    good = module[0].weight.detach().clone()
    with torch.no_grad():
        module[0].weight[0, 0] = np.nan
        followed.step()
        module[0].weight[:] = good
        followed.step()
    data = followed.dataset()
    assert data.isel(step=1).to_array().isnull().all()
    np.testing.assert_allclose(data.eigenvalues.isel(step=2), data.eigenvalues.isel(step=0), rtol=1e-3)


def test_bad_arguments():
    module, inputs, labels = network()
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module; got str"):
        rl.nets.OutlierMonitor("net", inputs, labels)
    for options, message in (
        ({"share": 0}, "`share` must be > 0 and < 1; got 0"),
        ({"every": 0}, "`every` must be >= 1; got 0"),
        ({"k": 0}, "`k` must be >= 1; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.nets.OutlierMonitor(module, inputs, labels, **options)
    # Before the loop, not in the middle of it.
    with pytest.raises(ValueError, match="`source` must have softmax outputs"):
        rl.nets.OutlierMonitor(module, inputs, torch.ones(len(inputs), 4), loss=rl.SquaredError(), every=3)
    with pytest.raises(TypeError, match="`labels` must be given with arrays of inputs; got None"):
        rl.nets.OutlierMonitor(module, inputs, every=3)
    followed = rl.nets.OutlierMonitor(module, inputs, labels, every=3)
    with pytest.raises(RuntimeError, match="nothing was measured yet"):
        followed.dataset()
    followed.step(2)
    with pytest.raises(ValueError, match="`number` must be >= 3; got 2"):
        followed.step(2)
    with torch.no_grad():
        module[0].weight[:] = np.inf
    with pytest.raises(ValueError, match="`module` must have finite parameters when first measured"):
        followed.step()


@pytest.mark.parametrize(("k", "most"), [(None, 5), (1, 2), (2, 4), (3, 5), (7, 7)])
def test_twice_as_many_are_followed_as_told_but_not_more_than_there_are(k, most, monkeypatch):
    """With two passes at first, then one from the last directions."""
    module, inputs, labels = network()
    followed = rl.nets.OutlierMonitor(module, inputs, labels, every=1, k=k, sharpness=False)
    asked, vectors = [], torch.linalg.qr(torch.randn(followed._source().num_parameters, most).double())[0]

    def found(source, passes, count, *, num_directions, start):
        asked.append((passes, count, num_directions, start))
        values = np.arange(1.0, count + 1)
        return SimpleNamespace(eigenvalues=values, eigenvectors=vectors.numpy(), errors=0.1 * values)

    monkeypatch.setattr(monitor_module, "streamed_outliers", found)
    monkeypatch.setattr(monitor_module, "most_outliers", lambda *_: 5)
    told = followed._source().num_classes - 1 if k is None else k
    rows = [followed._measure(), followed._measure()]
    assert [call[:3] for call in asked] == [(2, most, most), (1, most, most)]
    assert asked[0][3] is None
    assert asked[1][3] is not None
    slope = rl.gradient(followed._source()).double().numpy()
    for row in rows:
        np.testing.assert_allclose(row["eigenvalues"], np.arange(1.0, most + 1)[-told:])
        np.testing.assert_allclose(row["errors"], 0.1 * row["eigenvalues"])
        shares = (vectors.numpy()[:, -told:].T @ slope) ** 2 / (slope @ slope)
        np.testing.assert_allclose(row["powers"], shares, rtol=1e-5)
        np.testing.assert_allclose(row["gradient_power"], shares.sum(), rtol=1e-5)
