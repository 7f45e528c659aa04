"""Networks in half precision through every solver, beside the same weights in float32."""

import numpy as np
import pytest
import torch
from torch import nn

import rmtland as rl
from rmtland.nets import NetworkLogitGradients

N, C = 60, 4
Y = torch.arange(N) % C


def network(dtype=None):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, C))
    return module if dtype is None else module.to(dtype)


class Autocast(nn.Module):
    """In bfloat16 within, with logits in float32."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x).float()


def sources(kind):
    x = torch.randn(N, 12, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    module = Autocast() if kind == "autocast" else network(kind)
    plain = network(kind).float() if kind != "autocast" else network()
    return NetworkLogitGradients(module, x, Y), NetworkLogitGradients(plain, x, Y)


KINDS = [torch.bfloat16, torch.float16, "autocast"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", [rl.gauss_newton, rl.nets.hessian])
def test_every_solver_takes_products_that_are_rounded_so(operator, kind):
    half, single = (operator(source) for source in sources(kind))
    assert half.rounding == (2**-10 if kind is torch.float16 else 2**-7)
    assert single.rounding == 0
    exact = np.linalg.eigvalsh(single.to_dense())
    close = {"rtol": 0.02, "atol": 0.005 * exact[-1]}
    for method in ("lanczos", "arpack", "lobpcg", "subspace"):
        which = "magnitude" if method == "subspace" else "largest"
        pairs = rl.top_eigenpairs(half, 3, which=which, method=method, rng=0)
        np.testing.assert_allclose(pairs.eigenvalues, exact[-3:], **close)
        assert pairs.converged.all(), method
        assert pairs.num_products < 300, method
        # An error of a product is one of the residual: no fewer than rounding allows are claimed.
        assert (pairs.residuals >= half.rounding * exact[-1] * 0.9).all()
    run = rl.lanczos(half, 20, rng=0)
    assert run.ritz_values[-1] == pytest.approx(exact[-1], rel=0.02)
    density = rl.spectral_density(half, deflate=3, num_probes=2, rng=0)
    np.testing.assert_allclose(density.outliers, exact[-3:], **close)
    assert density.bounds[1] == pytest.approx(exact[-4], rel=0.2)  # what is left is not taken for rounding
    rl.log_spectral_density(half, rng=0)
    assert rl.trace_estimate(half, rng=0).estimate == pytest.approx(exact.sum(), rel=0.05)
    for derived in (2 * half, half + single, half.shifted(0.1), half.deflated(pairs), half.counted()):
        assert derived.rounding == half.rounding


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_symmetric_is_still_seen(kind):
    half, _ = sources(kind)
    operator = rl.nets.hessian(half)
    skew = torch.triu(torch.ones(operator.shape), 1) * 0.05
    lopsided = rl.SymmetricOperator(
        lambda block: operator.multiply(block) + skew @ block,
        operator.dimension, operator.prototype, rounding=operator.rounding,
    )  # fmt: skip
    with pytest.raises(ValueError, match="must be symmetric"):
        rl.lanczos(lopsided, 20, rng=0)


def test_parts_of_a_matrix_in_half_precision():
    half, _ = sources(torch.bfloat16)
    hierarchy = rl.hierarchy(half)
    for part in (hierarchy.A1, hierarchy.B2, hierarchy.knock_out("A1", "A2")):
        assert part.rounding == 2**-7
        assert rl.top_eigenpairs(part, 2, rng=0).converged.all()
    for of in (rl.gauss_newton, rl.nets.hessian):
        block = of(rl.restrict(half, "0.weight"))
        assert block.rounding == 2**-7
        rl.lanczos(block, 10, rng=0)
    assert rl.SymmetricOperator.from_matrix(np.eye(3)).rounding == 0
