"""Marchenko and Pastur: the bulk of a sample covariance matrix, p < n."""

from rmtland.laws.marchenko_pastur import MarchenkoPastur
from validation import Claim
from validation.laws import _counts

SIZES = {"smoke": {16: 30_000, 48: 6_000, 144: 700}, "full": {16: 200_000, 48: 50_000, 144: 6_000, 432: 300}}

CLAIM = Claim(
    statement="""The eigenvalues of X X^T / n, X p x n with independent entries of variance 1, have the density
    sqrt((b - x)(x - a)) / (2 pi ratio x) on [a, b] = (1 -+ sqrt(ratio))^2 in the limit, ratio = p/n.""",
    source="Marchenko and Pastur (1967), eq. (1.14); finite-size term: Bai and Silverstein (2004), theorem 1.1",
    estimates="mean number of eigenvalues below five points, over draws of one matrix each; number of zeros",
    reference="p times the distribution function, plus the derived term",
    bias="""Real entries: 1/4 of an eigenvalue at either edge less half an arcsine law, so that the error of the mean
    distribution is O(1/p) with this constant; beyond it O(1/p^2).""",
    draw=lambda scale, rng: _counts.draw(0.5, SIZES[scale], rng),
    judge=_counts.judge,
    theory=MarchenkoPastur,
    mutants={
        "2% on the variance": lambda ratio: MarchenkoPastur(ratio, sigma=1.02**0.5),
        "p and n swapped": lambda ratio: MarchenkoPastur(1 / ratio),
    },
)
