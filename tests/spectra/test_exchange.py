import statistics

import numpy as np
import pytest

import rmtland as rl
from rmtland.spectra.operators import SymmetricOperator


def leave_one_out(matrix, probes):
    """XTrace of Epperly, Tropp and Webber (2024), section 2.1, by one basis for each probe left out."""
    size, count = probes.shape
    samples = []
    for i in range(count):
        basis = np.linalg.qr(matrix @ np.delete(probes, i, axis=1))[0]
        rest = probes[:, i] - basis @ (basis.T @ probes[:, i])
        rest *= np.sqrt((size - count + 1) / (rest @ rest))  # section 2.3
        samples.append(np.trace(basis.T @ matrix @ basis) + rest @ matrix @ rest)
    return samples


@pytest.mark.parametrize("num_products", [6, 7, 16])
@pytest.mark.parametrize("scale", [1.0, 1e-200])
def test_xtrace_is_the_mean_over_probes_left_out_and_its_error(num_products, scale):
    matrix = np.random.default_rng(0).normal(size=(30, 30))
    matrix = matrix + matrix.T
    blocks = []

    def multiply(block):
        blocks.append(np.array(block))
        return scale * (matrix @ block)

    operator = SymmetricOperator(multiply, 30, matrix)
    found = rl.trace_estimate(operator, method="xtrace", num_products=num_products, rng=0)
    probes = blocks[0]
    assert probes.shape == (30, num_products // 2)
    np.testing.assert_allclose(np.sum(probes**2, axis=0), 30, rtol=1e-6)
    samples = leave_one_out(matrix, probes)
    assert found.estimate == pytest.approx(scale * statistics.mean(samples), rel=1e-8)
    assert found.standard_error == pytest.approx(
        scale * statistics.stdev(samples) / (num_products // 2) ** 0.5, rel=1e-7
    )
    assert found.scale == pytest.approx(scale * np.sqrt(np.mean(np.sum((matrix @ probes) ** 2, axis=0))), rel=1e-7)
