"""Networks that trip up curvature code, and brute-force oracles from plain autograd."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

N, C = 11, 3


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dropout=0.1)
        self.head = nn.Linear(4, C)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, C)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Tied(nn.Module):
    """Tied weights, a frozen layer, an unused one, no bias at the end."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, C, bias=False)

    def forward(self, x):
        return self.head(torch.tanh(self.frozen(torch.tanh(self.b(torch.tanh(self.a(x)))))))


def build(name, dtype=torch.float64):
    """(module in training mode, inputs) from a fixed seed."""
    torch.manual_seed(0)
    module, inputs = {
        "mlp": lambda: (nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, C)), torch.randn(N, 6)),
        "relu": lambda: (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, C)), torch.randn(N, 6)),
        "conv": lambda: (
            nn.Sequential(
                nn.Conv2d(1, 3, 3),
                nn.BatchNorm2d(3),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Dropout(),
                nn.Linear(27, C),
            ),
            torch.randn(N, 1, 8, 8),
        ),
        "group_norm": lambda: (
            nn.Sequential(
                nn.Conv2d(2, 4, 3),
                nn.GroupNorm(2, 4),
                nn.GELU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, C),
            ),
            torch.randn(N, 2, 6, 6),
        ),
        "attention": lambda: (Attention(), torch.randint(0, 5, (N, 5))),
        "recurrent": lambda: (Recurrent(), torch.randn(N, 6, 4)),
        "tied": lambda: (Tied(), torch.randn(N, 4)),
    }[name]()
    return module.to(dtype).train(), inputs.to(dtype) if inputs.is_floating_point() else inputs


NAMES = ("mlp", "relu", "conv", "group_norm", "attention", "recurrent", "tied")
LABELS = torch.arange(N) % C


def trainable(module):
    return [p for p in module.parameters() if p.requires_grad]


def flat(gradients, parameters):
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(gradients, parameters, strict=True)]
    )


def units(tensor):
    """One entry after another singled out: backward passes of `tensor`'s entries would fill all others with zeros."""
    return torch.eye(tensor.numel(), dtype=tensor.dtype, device=tensor.device).reshape(-1, *tensor.shape)


def jacobian(module, inputs):
    """(N, C, D) by one backward pass per example and output, in evaluation mode."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    parameters = trainable(module)
    with sdpa_kernel(SDPBackend.MATH):
        outputs = module(inputs)
        rows = [
            flat(torch.autograd.grad(outputs, parameters, unit, retain_graph=True, allow_unused=True), parameters)
            for unit in units(outputs)
        ]
    for m, mode in modes:
        m.training = mode
    return torch.stack(rows).reshape(*outputs.shape, -1), outputs.detach()


def full_hessian(module, inputs, labels):
    """(D, D) of the mean cross-entropy by one backward pass per row through the gradient."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    parameters = trainable(module)
    with sdpa_kernel(SDPBackend.MATH):
        loss = nn.functional.cross_entropy(module(inputs), labels)
        gradient = flat(torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True), parameters)
        rows = [
            flat(torch.autograd.grad(gradient, parameters, unit, retain_graph=True, allow_unused=True), parameters)
            for unit in units(gradient)
        ]
    for m, mode in modes:
        m.training = mode
    return torch.stack(rows)
