import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import rmtland as rl
from rmtland.nets import NetworkLogitGradients

X, Y = torch.randn(50, 6, dtype=torch.float64), torch.arange(50) % 3


class Layers(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 5), nn.Linear(5, 3), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Over(nn.Module):
    """Writes to what it is given."""

    def forward(self, x):
        return x.mul_(2)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda x: F.dropout(x), "`module` must give the same logits in every pass.*two passes differ by"),
        (
            nn.BatchNorm1d(5, track_running_stats=False),
            "`module` must take an example alone as it does in a batch; it raises: Expected more than 1 value",
        ),
        (
            lambda x: x - x.mean(dim=0),
            "`module` must give an example the same logits alone and in a batch; they differ by",
        ),
    ],
)
def test_networks_whose_logits_are_no_function_of_the_example(between, message):
    torch.manual_seed(0)
    module = Layers(between).double()
    if isinstance(between, nn.BatchNorm1d):
        between.weight.data.normal_()
    with pytest.raises(ValueError, match=message):
        NetworkLogitGradients(module, X, Y)
    with pytest.warns(RuntimeWarning, match=message):
        source = NetworkLogitGradients(module, X, Y, nondeterminism="warn", batch_size=50)
    assert not source.independent
    if isinstance(between, nn.BatchNorm1d):  # a Hessian over one batch is still that of its loss
        parameters = list(module.parameters())
        slope = torch.autograd.grad(F.cross_entropy(module(X), Y), parameters, create_graph=True)
        v = [torch.ones_like(p) for p in parameters]
        expected = torch.autograd.grad(slope, parameters, v)
        hessian = rl.nets.hessian(source)
        ones = torch.ones(source.num_parameters, dtype=torch.float64)
        torch.testing.assert_close(hessian @ ones, torch.cat([e.reshape(-1) for e in expected]))
        torch.testing.assert_close(torch.from_numpy(hessian.to_dense()) @ ones, hessian @ ones)


@pytest.mark.parametrize("first", [Over(), nn.ReLU(inplace=True)])
def test_a_forward_pass_that_writes_to_its_inputs(first):
    torch.manual_seed(0)
    rest = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    module, x = nn.Sequential(first, *rest), X.clone()
    with pytest.raises(ValueError, match="`module` must not write to its inputs"):
        NetworkLogitGradients(module, x, Y)
    with pytest.warns(RuntimeWarning, match="`module` must not write to its inputs"):
        source = NetworkLogitGradients(module, x, Y, nondeterminism="warn", batch_size=20)
    # Each pass has a copy.
    expected = NetworkLogitGradients(rest, first(X.clone()), Y)
    v = torch.ones(source.num_parameters, 2, dtype=torch.float64)
    for statistic in (rl.gradient, lambda s: rl.nets.hessian(s) @ v, lambda s: rl.gauss_newton(s) @ v):
        for _ in range(2):
            torch.testing.assert_close(statistic(source), statistic(expected))
    assert rl.clustering(source).same_logit == pytest.approx(rl.clustering(expected).same_logit, rel=1e-12)
    assert torch.equal(x, X)


def test_dropout_that_evaluation_mode_turns_off_is_no_matter():
    module = nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.BatchNorm1d(5), nn.Linear(5, 3)).double().train()
    assert NetworkLogitGradients(module, X, Y).independent


class Augmenting(Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, i):
        return X[i] + 0.01 * torch.randn(6, dtype=torch.float64), Y[i]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Augmenting(), batch_size=24),
        DataLoader(TensorDataset(X, Y), batch_size=24, shuffle=True, drop_last=True),
    ],
)
def test_loaders_that_do_not_repeat_themselves(loader):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    source = NetworkLogitGradients(module, loader, memory_budget=0)
    ones = torch.ones(source.num_parameters, dtype=torch.float64)
    with pytest.raises(ValueError, match="`inputs` must yield the same examples in every pass.*augments, drops"):
        rl.nets.hessian(source) @ ones
    source = NetworkLogitGradients(module, loader, memory_budget=0, nondeterminism="warn")
    with pytest.warns(RuntimeWarning, match="augments, drops or repeats some"):
        rl.nets.hessian(source) @ ones
    kept = NetworkLogitGradients(module, loader)  # read once
    torch.testing.assert_close(rl.nets.hessian(kept) @ ones, rl.nets.hessian(kept) @ ones)


def test_a_loader_may_write_its_next_batch_over_the_last():
    class Buffer:
        def __iter__(self):
            x = torch.empty(25, 6, dtype=torch.float64)
            for start in (0, 25):
                x.copy_(X[start : start + 25])
                yield x, Y[start : start + 25]

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for budget in (0, 2**30):
        source = NetworkLogitGradients(module, Buffer(), memory_budget=budget)
        torch.testing.assert_close(rl.gradient(source), rl.gradient(NetworkLogitGradients(module, X, Y)))


def test_labels_that_change_are_seen():
    class Relabelling:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield X, Y if self.passes == 1 else Y.flip(0)

    source = NetworkLogitGradients(nn.Linear(6, 3).double(), Relabelling(), memory_budget=0)
    with pytest.raises(ValueError, match="`inputs` must yield the same examples in every pass"):
        rl.gradient(source)


def test_the_choice_is_checked():
    with pytest.raises(ValueError, match="`nondeterminism` must be one of 'raise', 'warn'; got 'ignore'"):
        NetworkLogitGradients(nn.Linear(6, 3).double(), X, Y, nondeterminism="ignore")
