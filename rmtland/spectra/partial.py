"""The top of a spectrum pair by pair, and trace and norm of all of it: what a matrix too large to diagonalise tells."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from rmtland._arguments import Seed, generator
from rmtland.spectra.eigenpairs import Eigenpairs, top_eigenpairs
from rmtland.spectra.operators import SymmetricOperator
from rmtland.spectra.probes import Run

NUM_PROBES = 60
"""Random products behind trace and norm of what the top eigenvectors leave."""


@dataclass(frozen=True, eq=False)
class PartialSpectrum:
    """The largest eigenpairs, and trace, Frobenius norm and their ratio with standard errors.

    Attributes
    ----------
    pairs : Eigenpairs
    trace, frobenius, ratio : float
    trace_error, frobenius_error, ratio_error : float
        From the scatter of the probes; those of trace and norm come from the same ones and partly cancel in the ratio.
    num_products : int
    """

    pairs: Eigenpairs = field(repr=False)
    trace: float
    trace_error: float
    frobenius: float
    frobenius_error: float
    ratio: float
    ratio_error: float
    num_products: int


def partial_spectrum(
    operator: SymmetricOperator, k: int, *, trace: float | None = None, num_probes: int = NUM_PROBES,
    max_products: int | None = None, rng: Seed = None,
) -> PartialSpectrum:  # fmt: skip
    """The k largest eigenpairs by Lanczos iteration, trace and norm beyond them from random probes.

    Parameters
    ----------
    operator : SymmetricOperator
        D x D.
    k : int
        1 <= k <= D.
    trace : float, optional
        Where it is known; the probes then serve the norm alone.
    num_probes : int
        At least 6.
    max_products : int, optional
        Of the Lanczos iteration, as in `top_eigenpairs`.
    rng : seed, optional
        Of the start vector and of the probes, a child each.

    Returns
    -------
    PartialSpectrum

    Raises
    ------
    ValueError, MemoryError
        As `top_eigenpairs` and `trace_estimate` say.

    References
    ----------
    Meyer, Musco, Musco and Woodruff (2021), Hutch++: what few directions carry is taken exactly, here the eigenvectors
    that were asked for.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> matrix = rl.as_operator(np.diag([*np.linspace(0, 1, 300), 50.0, 70.0]))
    >>> found = partial_spectrum(matrix, 2, rng=0)
    >>> print(found.pairs.eigenvalues.round(6), round(found.trace, 3), found.frobenius_error < 0.05)
    [50. 70.] 270.0 True
    """
    start, probing = generator(rng).spawn(2)
    pairs = top_eigenpairs(operator, k, max_products=max_products, rng=start)
    run = Run(operator.deflated(pairs), num_probes, None, probing)
    samples = run.probe(run.limit, deflate=False)
    known = pairs.eigenvalues / samples.unit
    samples = dataclasses.replace(samples, exact_trace=float(known.sum()), exact_square=float(known @ known))
    if trace is not None:
        traces = np.zeros_like(samples.traces)
        samples = dataclasses.replace(samples, exact_trace=trace / samples.unit, traces=traces)
    total, error = samples.trace()
    square, square_error = samples.square()
    root = float(np.sqrt(square))
    norm_error = 0.5 * square_error / root * samples.unit if root > 0 else 0.0
    ratio, ratio_error = samples.ratio()
    products = pairs.num_products + run.limit
    return PartialSpectrum(pairs, total, error, root * samples.unit, norm_error, ratio, ratio_error, products)
