"""The law of measured means, shared directions and anisotropic residuals of a source."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import eigsh

from rmtland._arguments import integer
from rmtland.landscape.anisotropic import AnisotropicGradients
from rmtland.landscape.covariance import ResidualCovariance
from rmtland.landscape.kernels import softmax
from rmtland.landscape.uneven_gradients import covariance_of_dimension
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.gram import LogitGradientGram, gram_of

Floats = npt.NDArray[np.float64]


def measured_gradients(
    source: LogitGradients | LogitGradientGram, num_factors: int | None = None
) -> AnisotropicGradients:
    """`AnisotropicGradients` with everything measured on the logit gradients of one source.

    Parameters
    ----------
    source : LogitGradients or LogitGradientGram
        The Gram matrix of N C rows is formed where a source is given.
    num_factors : int, optional
        Shared directions F of the residuals, by default 6 C; at most N C.

    Returns
    -------
    AnisotropicGradients
        A law of these N examples: it belongs to `GivenLogits` with the source's logits and labels.

    Raises
    ------
    ValueError
        For more directions than rows, or logit gradients without residuals.

    Notes
    -----
    Of dz_k/dW less their mean over the logits k, which is all that A_mu 1 = 0 lets G see. Means are those over the
    examples of a class, logit by logit: C^2 of them, with their inner products. Of the residuals about these the
    F - 1 leading directions are kept, each example weighed by its curvature tr A_mu, and the direction in which they
    add up to the residual part of the gradient sum_mu J_mu^T (p_mu - y_mu), which labels choose and curvature does not
    see; with the loading of every logit gradient on them and their inner products with the means: this is what carries
    the gradient's power. What is left adds nothing to the gradient (`cancelling`, p - y). It is a normal matrix with
    each example's own C x C covariance, and one covariance in parameter space: a power law of the effective dimension,
    from inner products of different examples, without bias.

    References
    ----------
    Fort and Ganguli (2019), eq. (15), and Papyan (2019) for the means; Kong and Valiant (2017) for moments of the rest.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(30, 3, 200, sigma_z=1.0).sample(rng=0)
    >>> law = rl.measured_gradients(draw, num_factors=4)
    >>> model = rl.LandscapeModel(30, 3, 200, rl.GivenLogits(draw.logits, draw.labels), law)
    >>> ratio = model.spectrum(rng=0).goldilocks_ratio() / rl.gauss_newton_spectrum(draw).goldilocks_ratio()
    >>> bool(abs(ratio - 1) < 0.1)
    True
    """
    gram = gram_of(source).centered()
    n, c = gram.num_examples, gram.num_classes
    count = integer("num_factors", min(6 * c, n * c) if num_factors is None else num_factors, at_least=0, at_most=n * c)
    matrix = gram.matrix.reshape(n * c, n * c)
    averages = _class_averages(np.asarray(gram.labels), n, c)
    means = averages @ matrix  # (C^2, N C): inner products of means and rows
    mean_gram = means @ averages.T
    # What each example has of the means of its class, by least squares.
    labels = np.asarray(gram.labels)
    at_row = _mean_of_row(labels, n, c)
    mixing = _mixing_of(means, mean_gram, labels, n, c)
    crossed = means - _mixed(mean_gram[:, at_row], mixing)
    residual = _mixed(means[at_row], mixing, rows=True)
    residual = matrix - residual - residual.T
    inner = _mixed(_mixed(mean_gram[np.ix_(at_row, at_row)], mixing), mixing, rows=True)
    residual += inner
    if not np.trace(residual) > 1e-12 * np.trace(matrix):
        return AnisotropicGradients(mean_gram, 0.0)
    slopes = softmax(np.ascontiguousarray(gram.logits))
    slopes[np.arange(n), labels] -= 1.0
    loadings, overlaps = _directions(residual, crossed, _curvatures(gram), slopes.ravel(), count)
    rest = residual - loadings @ loadings.T
    # Directions as long as rows are: in one Gram matrix with means of 1e-10, rounding would leave nothing of these.
    length = float(np.sqrt(np.trace(matrix) / len(matrix)))
    loadings, overlaps = loadings / length, overlaps * length
    size = c * c + loadings.shape[1]
    whole = length**2 * np.eye(size)
    whole[: c * c, : c * c], whole[: c * c, c * c :], whole[c * c :, : c * c] = mean_gram, overlaps, overlaps.T
    own = np.einsum("nknl->nkl", rest.reshape(n, c, n, c))
    return AnisotropicGradients(
        _without_negative(whole),
        1.0,
        _covariance_of(rest, n, c, gram.num_parameters),
        logit_covariance=_without_negative(own),
        mean_scales=mixing,
        loadings=loadings.reshape(n, c, -1) if loadings.shape[1] else None,
        cancelling=slopes if loadings.shape[1] else None,
    )


def _class_averages(labels: npt.NDArray[np.int64], n: int, c: int) -> Floats:
    """Rows that take the mean of logit k over class y, at k C + y, (C^2, N C); 0 for absent classes."""
    averages = np.zeros((c, c, n, c))
    sizes = np.bincount(labels, minlength=c)
    for k in range(c):
        averages[k, labels, np.arange(n), k] = 1 / sizes[labels]
    return averages.reshape(c * c, n * c)


def _mean_of_row(labels: npt.NDArray[np.int64], n: int, c: int) -> npt.NDArray[np.int64]:
    """Which mean each row of J has, (N C,)."""
    rows: npt.NDArray[np.int64] = (np.arange(c)[None, :] * c + labels[:, None]).reshape(n * c)
    return rows


def _mixing_of(means: Floats, mean_gram: Floats, labels: npt.NDArray[np.int64], n: int, c: int) -> Floats:
    """S_mu (N, C, C) with J_mu = S_mu M_y + what is at right angles to M_y, the means of its class y."""
    mixing = np.empty((n, c, c))
    for mu in range(n):
        own = np.arange(c) * c + labels[mu]
        inverse = np.linalg.pinv(mean_gram[np.ix_(own, own)], rcond=1e-10, hermitian=True)
        mixing[mu] = (inverse @ means[own, mu * c : (mu + 1) * c]).T
    return mixing


def _mixed(matrix: Floats, mixing: Floats, rows: bool = False) -> Floats:
    """Columns (or rows) by example (.., N C) mixed by each one's S_mu."""
    if rows:
        return _mixed(matrix.T, mixing).T
    n, c = mixing.shape[:2]
    mixed: Floats = np.einsum("xnl,nkl->xnk", matrix.reshape(-1, n, c), mixing, optimize=True)
    return mixed.reshape(matrix.shape[0], n * c)


def _curvatures(gram: LogitGradientGram) -> Floats:
    """Each row's weight, tr A_mu of its example."""
    weights: Floats = np.repeat(1.0 - np.sum(softmax(np.ascontiguousarray(gram.logits)) ** 2, axis=1), gram.num_classes)
    # Frozen examples keep a little, so that directions exist where all are.
    found: Floats = weights + 1e-3 * weights.mean() + 1e-300
    return found


def _directions(
    residual: Floats, crossed: Floats, weights: Floats, slopes: Floats, count: int
) -> tuple[Floats, Floats]:
    """Loadings (N C, F) of all rows on the shared directions, and inner products of means with these (C^2, F).

    Directions are combinations of the residuals, columns w of E^T w: the leading ones, and that of the gradient.
    """
    if count == 0:
        return np.zeros((len(residual), 0)), np.zeros((len(crossed), 0))
    roots = np.sqrt(weights / weights.max())
    weighted = roots[:, None] * residual * roots
    if 8 * count < len(residual):
        start = np.random.default_rng(0).standard_normal((len(residual),))
        unit = np.trace(weighted)  # ARPACK takes what is below 4e-11 for zero
        values, vectors = eigsh(weighted / unit, k=count, which="LA", v0=start)
        values = values * unit
    else:
        values, vectors = np.linalg.eigh(weighted)
        values, vectors = values[-count:], vectors[:, -count:]
    some = values > 1e-10 * values.max()
    # v = E^T w, of length 1.
    combinations = roots[:, None] * vectors[:, some] / np.sqrt(values[some])
    if combinations.shape[1] == count:  # else the residuals have no further direction
        combinations = combinations[:, 1:]
    # The gradient's, less what it has of the others, twice for the sake of rounding.
    along = residual @ combinations
    length = float(slopes @ residual @ slopes)
    rest = slopes
    for _ in range(2):
        rest = rest - combinations @ (along.T @ rest)
    left = float(rest @ residual @ rest)
    if left > 1e-8 * length > 0:
        combinations = np.column_stack([combinations, rest / np.sqrt(left)])
    return residual @ combinations, crossed @ combinations


def _covariance_of(rest: Floats, n: int, c: int, num_parameters: int) -> ResidualCovariance:
    """A power law of the rest's effective dimension, by inner products of different examples."""
    blocks = rest.reshape(n, c, n, c)
    squares = np.einsum("nkml,nkml->nm", blocks, blocks)
    lengths = np.einsum("nknk->n", blocks)
    products = np.outer(lengths, lengths)
    apart = ~np.eye(n, dtype=bool)
    share = float(squares[apart].sum() / products[apart].sum())
    return covariance_of_dimension(1 / share, num_parameters) if share > 2.0 / num_parameters else ResidualCovariance()


def _without_negative(matrices: Floats) -> Floats:
    """Matrices, symmetric but for rounding, without the negative eigenvalues that it left."""
    values, vectors = np.linalg.eigh(matrices)
    clean: Floats = (vectors * np.maximum(values, 0.0)[..., None, :]) @ vectors.swapaxes(-1, -2)
    return clean
