"""Logits of a wide network at initialisation: a Gaussian process over the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array
from rmtland._arrays import told
from rmtland.landscape.logit_laws import Draw, GivenLogits

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GaussianProcessLogits:
    """Normal logits that are independent between classes and correlated between examples.

    Parameters
    ----------
    covariance : array_like (N, N)
        Of z_k over the examples, the same for every class k.
    labels : array_like (N,), optional
        Integers in 0..C-1, the same in every draw; uniform in each draw where left out.

    Raises
    ------
    ValueError, TypeError
        For a matrix that is not symmetric or has a negative eigenvalue, labels that do not fit.

    Notes
    -----
    A network's logits at initialisation share most of their variance between inputs that are alike: their classes'
    mean probabilities differ from 1/C, where `GaussianLogits` of the same variance average out.

    References
    ----------
    Neal (1996); Lee et al. (2018), Deep neural networks as Gaussian processes.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> law = rl.GaussianProcessLogits(np.ones((5, 5)))
    >>> logits, _ = law.draw_logits(5, 3, np.random.default_rng(0))
    >>> bool(np.ptp(logits, axis=0).max() < 1e-6)  # all inputs alike
    True
    """

    covariance: npt.ArrayLike
    labels: npt.ArrayLike | None = None

    __repr__ = told

    def __post_init__(self) -> None:
        matrix = finite_array("covariance", self.covariance, ndim=2)
        size = len(matrix)
        if matrix.shape != (size, size) or not size:
            raise ValueError(f"`covariance` must be square; got {matrix.shape}")
        scale = float(np.abs(matrix).max())
        if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-10 * scale):
            raise ValueError("`covariance` must be symmetric")
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        if float(values.min()) < -1e-8 * scale:
            raise ValueError(f"`covariance` must have no negative eigenvalue; got {values.min():g}")
        object.__setattr__(self, "covariance", matrix)
        object.__setattr__(self, "_root", vectors * np.sqrt(np.maximum(values, 0)))
        if self.labels is not None:
            labels = np.asarray(self.labels)
            if labels.shape != (size,):
                raise ValueError(f"`labels` must have shape ({size},); got {labels.shape}")
            object.__setattr__(self, "labels", labels)

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """Logits (N, C) and labels (N,); ValueError for another N, or labels out of range."""
        root: Floats = self._root  # type: ignore[attr-defined]
        if num_examples != len(root):
            raise ValueError(f"`covariance` must be that of N = {num_examples} examples; got {len(root)}")
        logits: Floats = root @ rng.standard_normal((len(root), num_classes))
        if self.labels is None:
            return logits, rng.integers(num_classes, size=num_examples)
        given = GivenLogits(logits, self.labels)  # type: ignore[arg-type]
        return given.logits, given.labels
