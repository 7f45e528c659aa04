"""Johnstone and Ma: the largest eigenvalue of a real Wishart matrix."""

from rmtland.laws.spikes import SpikedCovarianceLaw
from rmtland.laws.tracy_widom import TracyWidom
from validation import Claim
from validation.expansions import tracy_widom_mean_shift_wishart
from validation.laws import _edges
from validation.sampling import wishart

RATIO = 0.5
SIZES = {
    "smoke": {8: 300_000, 12: 150_000, 16: 100_000, 32: 30_000, 64: 4_000},
    "full": {8: 1_000_000, 16: 800_000, 32: 400_000, 64: 100_000, 128: 15_000},
}


def draw(scale, rng):
    return {n: wishart(round(RATIO * n), n, draws, rng)[:, -1] for n, draws in SIZES[scale].items()}


def shifted(n):
    return SpikedCovarianceLaw(RATIO, [1.0], num_samples=n).edge()


def plain(n):
    p, root = RATIO * n, n**0.5 + (RATIO * n) ** 0.5
    return root**2 / n, root * (1 / n**0.5 + 1 / p**0.5) ** (1 / 3) / n


CLAIM = Claim(
    statement="""The largest eigenvalue of X X^T, X real p x n, follows the Tracy-Widom law of beta = 1 with centre
    (sqrt(n - 1/2) + sqrt(p - 1/2))^2 and the scale made of the same two roots up to O(n^-2/3); with n and p in their
    place only up to O(n^-1/3).""",
    source="Johnstone (2001), theorem 1.1; Ma (2012), theorem 2",
    estimates="mean and variance of the standardised largest eigenvalue at p = n/2",
    reference="mean and variance of the law",
    bias="""Mean: (2/5) B s E tau^2 with B = 1/b - 1/(2 (b - a)) for edges a < b and s the scale, O(n^-2/3), derived
    in validation/expansions.py from the curvature of the Marchenko-Pastur law at its edge; then O(n^-4/3). Variance:
    O(n^-2/3), fitted along.""",
    draw=draw,
    judge=lambda data, theory: _edges.judge(
        data, theory, shifted, plain, lambda n: tracy_widom_mean_shift_wishart(RATIO * n, n), "real Wishart, p = n/2"
    ),
    theory=(shifted, TracyWidom(1)),
    mutants={
        "plain centring": (plain, TracyWidom(1)),
        "beta = 2 for real matrices": (shifted, TracyWidom(2)),
        "square root of the scale": (lambda n: (shifted(n)[0], shifted(n)[1] ** 0.5), TracyWidom(1)),
    },
)
