"""Marchenko and Pastur with more dimensions than samples: the atom at zero."""

import dataclasses

from rmtland.laws.marchenko_pastur import MarchenkoPastur
from validation import Claim
from validation.laws import _counts

SIZES = {"smoke": {16: 20_000, 48: 4_000, 144: 400}, "full": {16: 150_000, 48: 30_000, 144: 4_000, 288: 500}}


@dataclasses.dataclass
class WithoutAtom:
    """The continuous part alone, scaled up to mass 1."""

    law: MarchenkoPastur
    atom: float = 0.0

    def cdf(self, x):
        """Distribution function."""
        return (self.law.cdf(x) - self.law.atom) / (1 - self.law.atom)

    def pdf(self, x):
        """Density."""
        return self.law.pdf(x) / (1 - self.law.atom)


CLAIM = Claim(
    statement="""For p > n, p - n eigenvalues of X X^T / n vanish: the law has an atom of mass 1 - 1/ratio at 0 beside
    its density on [(sqrt(ratio) - 1)^2, (sqrt(ratio) + 1)^2], whose mass is 1/ratio.""",
    source="Marchenko and Pastur (1967), eq. (1.14); used as 'zeros' by Sagun et al. (2017), theorem 2",
    estimates="number of eigenvalues below 1e-9; mean number of eigenvalues below five points",
    reference="p - n exactly; p times the distribution function, plus the derived term",
    bias="None for the zeros; for the counts as for p < n: 1/4 at either edge less half an arcsine law.",
    draw=lambda scale, rng: _counts.draw(2.5, SIZES[scale], rng),
    judge=_counts.judge,
    theory=MarchenkoPastur,
    mutants={
        "no atom": lambda ratio: WithoutAtom(MarchenkoPastur(ratio)),
        "p and n swapped": lambda ratio: MarchenkoPastur(1 / ratio),
    },
)
