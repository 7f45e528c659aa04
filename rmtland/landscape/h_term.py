"""The H-term of the model: an independent symmetric Gaussian matrix for what the curvature of the logits adds."""

from __future__ import annotations

import numpy as np

from rmtland._arguments import require_memory
from rmtland.ensembles.wigner import GaussianEnsemble
from rmtland.landscape.theory.sums import Floats


def draw_h_term(num_parameters: int, sigma_H: float, rng: np.random.Generator) -> Floats:
    """A symmetric Gaussian matrix, off-diagonal variance sigma_H^2 / D and diagonal variance twice that, (D, D)."""
    size = num_parameters
    require_memory(f"the {size} x {size} H-term", 24.0 * size * size, "use model.theory(), or sigma_H = 0")
    matrix: Floats = GaussianEnsemble(size).matrix(rng)
    matrix *= sigma_H
    return matrix
