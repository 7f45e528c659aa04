"""Class means and cross-class means on a plane, by t-SNE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rmtland._arguments import Seed, generator, instance, real
from rmtland._arrays import told
from rmtland.logits.hierarchy import Hierarchy

Floats = npt.NDArray[np.float64]
FEW_POINTS = 1000


@dataclass(frozen=True, eq=False)
class ClassEmbedding:
    """Points on a plane, near to each other where the means are.

    Attributes
    ----------
    classes : ndarray (C, 2)
        Of g_c; NaN for a class without examples.
    pairs : ndarray (C, C, 2)
        Of g_{c,c'}, class first; NaN at c' = c and where the pair has no weight.
    """

    classes: Floats
    pairs: Floats

    __repr__ = told


def class_embedding(hierarchy: Hierarchy, *, perplexity: float | None = None, rng: Seed = 0) -> ClassEmbedding:
    """Embed g_c and g_{c,c'} into a plane by t-SNE, with scikit-learn.

    Parameters
    ----------
    hierarchy : Hierarchy
        With its cross-class means kept.
    perplexity : float, optional
        About how many neighbours of a point count, > 0 and below the number of points; by default C, as many as a
        class has members, or a third of the points where that is less.
    rng : seed
        Of t-SNE.

    Returns
    -------
    ClassEmbedding

    Raises
    ------
    ValueError
        For fewer than three means, means that all coincide, or a perplexity out of range.
    MemoryError
        Where the cross-class means were not kept.

    Notes
    -----
    From the inner products of the means, which know all distances: nothing of D numbers is embedded.

    References
    ----------
    Papyan (2019), fig. 2 of the summary; van der Maaten and Hinton (2008), Visualizing data using t-SNE.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=4, num_parameters=200).sample(rng=0)
    >>> embedding = rl.class_embedding(rl.hierarchy(draw))
    >>> embedding.classes.shape, embedding.pairs.shape
    ((4, 2), (4, 4, 2))
    """
    from sklearn.manifold import TSNE

    instance("hierarchy", hierarchy, Hierarchy, "what `hierarchy` gives")
    means, num_classes = hierarchy.means, hierarchy.means.num_classes
    weights = means.pair_weights * (1 - np.eye(num_classes))
    classes, pairs = means.class_weights > 0, weights > 0
    gram = hierarchy.gram
    # g_c and g_{c,c'} as combinations of the columns of F.
    scale = np.sqrt(means.num_examples)
    of_classes = gram.combinations("A1")[classes] * (scale / np.sqrt(means.class_weights[classes]))[:, None]
    of_pairs = np.eye(num_classes**2)[pairs.reshape(-1)] * (scale / np.sqrt(weights[pairs]))[:, None]
    rows = np.concatenate([of_classes, of_pairs])
    if len(rows) < 3:
        raise ValueError(f"`hierarchy` must have at least 3 means to embed; got {len(rows)}")
    values, vectors = np.linalg.eigh(rows @ gram.matrix @ rows.T)
    points = vectors * np.sqrt(np.maximum(values, 0))
    extent = float(np.abs(points - points.mean(axis=0)).max())
    if not extent > 0:  # scikit-learn would end the process
        raise ValueError("`hierarchy` must have means that differ; all coincide")
    # t-SNE does not depend on the unit, its single precision does; powers of two change no digit.
    points = np.ldexp(points, -math.frexp(extent)[1])
    if perplexity is None:
        perplexity = min(num_classes, (len(rows) - 1) / 3)
    perplexity = real("perplexity", perplexity, above=0, below=len(rows))
    seed = int(generator(rng).integers(2**31))
    # In each of a thousand steps the threads of few points mostly wait for each other.
    with threadpool_limits(1 if len(points) < FEW_POINTS else None, user_api="openmp"):
        found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points[:, ::-1])
    embedding = ClassEmbedding(np.full((num_classes, 2), np.nan), np.full((num_classes, num_classes, 2), np.nan))
    embedding.classes[classes] = found[: len(of_classes)]
    embedding.pairs[pairs] = found[len(of_classes) :]
    return embedding
