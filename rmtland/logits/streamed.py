"""Top eigenvalues of the Gauss-Newton matrix from one or two passes over the examples, without an eigensolver."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, flag, integer, real
from rmtland._arrays import Array, all_finite, like, namespace, told
from rmtland.logits.accumulate import prototype
from rmtland.logits.cross_class import CrossClassMeansAccumulator
from rmtland.logits.gradients import (
    LogitGradients,
    check_source,
)
from rmtland.logits.outlier_stream import OutlierStream
from rmtland.logits.ranks import in_step

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StreamedOutliers:
    """The largest eigenvalues of G with their errors.

    Attributes
    ----------
    eigenvalues : ndarray (k,)
        Ascending, float64.
    errors : ndarray (k,)
        How far off each may be, for about 95 of 100 eigenvalues: three standard deviations of what the sampled
        examples leave open, and a bound to first order of what no product has seen.
    eigenvectors : array (D, k)
        Orthonormal columns, float64 in the library of the source.
    num_passes : int
        Passes over the examples.
    num_products : float
        Products with single vectors, J^T A J v over all examples; half of one where half of the examples took part.
    """

    eigenvalues: Floats
    errors: Floats
    eigenvectors: Array = field(repr=False)
    num_passes: int
    num_products: float

    __repr__ = told


def streamed_outliers(
    source: LogitGradients, passes: int = 1, k: int | None = None, *, num_directions: int | None = None,
    start: Array | None = None, keep_pairs: bool | None = None, tolerance: float = 0.01,
) -> StreamedOutliers:  # fmt: skip
    """Top eigenvalues of the Gauss-Newton matrix, and their vectors, from class means: one pass or two, no iteration.

    Parameters
    ----------
    source : LogitGradients
        With softmax outputs (`CrossEntropy`): a draw, a network, arrays. With one pass and no `start`, its first eighth
        tells the directions, of several ranks the first eighth of each: shuffle examples that are sorted. The subspace
        of a network (`tolerance`) is told by some of its first chunk, all of it while the source fits into memory.
    passes : {1, 2}
        Two passes: the second takes exact products with the directions that the first found.
    k : int, optional
        How many eigenvalues, C - 1 by default, min(D, C (C - 1)) at most.
    num_directions : int, optional
        Vectors that products are taken with, each time, k at least. More make errors smaller; in a subspace each costs
        less than a hundredth of the pass. By default 2 k; of what is held then k + 1 eigenvectors, or k + 3 in two
        passes.
    start : array (D, m), optional
        Directions from before, such as the `eigenvectors` of a step ago: products are taken with their span, over all
        examples in the same pass that finds the means.
    keep_pairs : bool, optional
        Whether all C^2 cross-class means are kept, twice 8 C^2 D bytes; by default where once is at most 1 GiB. The
        class means alone, 8 C D bytes, will do, with larger errors.
    tolerance : float
        Share of the inputs of a network's layers, and of the signals that come back to them, that may be left out:
        eigenvectors are then sought among weights between the leading directions of both, up to 48 of each where
        examples can be held, else 96 and 64, which makes a pass several times faster. 0 leaves nothing out, nor is
        anything left out over several ranks.

    Returns
    -------
    StreamedOutliers

    Raises
    ------
    ValueError
        For another loss than cross-entropy, k or directions out of range, a start of another shape, NaN or infinite
        logit gradients.
    MemoryError
        Where the means do not fit.

    Notes
    -----
    The means make up F F^T = A1 + A2 + B1 (`cross_class_means`) and G = F F^T + B with B positive semidefinite, the
    spread within classes, which aligns with the means during training. Of B the products with the leading directions V
    of F are taken, and the eigenvalues are those of F F^T + B V (V^T B V)^-1 V^T B: F F^T in full and the part of B
    that V reaches, half a power iteration better than Rayleigh-Ritz on V, and below G in any direction. In one pass V
    comes from the first eighth of the examples (half of few) and B V from the rest, about the means of all: the noise
    of B V is the greater part of the error, so that most examples go there.

    A pass costs C - 1 backward passes for the means and, per direction, one product with J and one with J^T. In a
    network whose layers account for all parameters C - 1 backward passes to the layers' outputs serve all of it, in
    coordinates of a subspace (`tolerance`) that up to 512 examples choose, of the first part of the source drawn in
    proportion to the trace of A, which late in training few have; what it leaves out is told from a quarter of these,
    which had no say, and is part of the errors. Where half of the memory budget holds all examples, as they are and in
    these coordinates, there is no noise: V comes from F of all, filled up where a `start` is less, and products with V
    and with the leading eigenvectors that these tell add up. Last come products that leave the subspace: with inputs in
    full along the vectors' signals, and signals in full along their inputs, of more vectors and more closely in two
    passes. An eighth of the examples (256 of a part, if more), drawn likewise, tells what signals add there:
    eigenvalues are less what the noise of that would make them too large, and errors are more. The eigenvalues are
    those of G V (V^T G V)^-1 V^T G, for V of these last. Where examples cannot be held a second pass takes such
    products with inputs in full. An eigenvector far from all means is missed, and the errors do not know.

    Beside Lanczos iterations the gain grows with N D: one to two times at 10^8 (55,000 parameters, 1,500 examples),
    several times at 10^9.

    References
    ----------
    Papyan (2019), Measurements of three-level hierarchical structure in the outliers in the spectrum of deepnet
    Hessians, on F. Williams and Seeger (2001), Using the Nystroem method to speed up kernel machines.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=300, num_classes=5, num_parameters=400, sigma_z=1.0)
    >>> draw = model.sample(rng=0)
    >>> found = rl.streamed_outliers(draw, passes=2)
    >>> exact = rl.gauss_newton_spectrum(draw).outliers(4)
    >>> bool((abs(found.eigenvalues - exact) <= found.errors).all()), bool((found.errors < 0.05 * exact).all())
    (True, True)
    """
    check_source(source)
    if start is not None:
        namespace(start, names="`start`")
    choice("passes", passes, (1, 2))
    if keep_pairs is not None:
        flag("keep_pairs", keep_pairs)
    statistic = CrossClassMeansAccumulator(keep_pairs)
    most = most_outliers(source, statistic)
    wanted = integer("k", source.num_classes - 1 if k is None else k, at_least=1, at_most=most)
    if num_directions is not None:
        num_directions = min(integer("num_directions", num_directions, at_least=wanted), source.num_parameters)
    tolerance = real("tolerance", tolerance, at_least=0, below=1)
    kind = prototype(source)
    if start is not None:
        if start.ndim != 2 or start.shape[0] != source.num_parameters or not 1 <= start.shape[1] <= start.shape[0]:
            raise ValueError(
                f"`start` must have shape (D, m) with D = {source.num_parameters}; got {tuple(start.shape)}"
            )
        if not all_finite(start):
            raise ValueError("`start` must be finite; got NaN or infinite entries")
    with in_step(source, start):
        run = OutlierStream(source, statistic, wanted, num_directions, tolerance, passes)
        run.pass_over(None if start is None else run.coordinates(like(kind, start)))
        run.refine(num_directions)
        values, errors, vectors = run.result()
    return StreamedOutliers(values, errors, vectors, passes, run.num_products)


def most_outliers(source: LogitGradients, statistic: CrossClassMeansAccumulator) -> int:
    """How many eigenvalues the means may have."""
    ranks = source.num_classes * (source.num_classes - 1 if statistic.keeps(source) else 1)
    return min(source.num_parameters, ranks)
