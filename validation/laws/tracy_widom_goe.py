"""Tracy and Widom: the largest eigenvalue of the Gaussian orthogonal ensemble."""

from rmtland.laws.spikes import SpikedWignerLaw
from rmtland.laws.tracy_widom import TracyWidom
from validation import Claim
from validation.expansions import tracy_widom_mean_shift_goe
from validation.laws import _edges
from validation.sampling import spiked_wigner

SIZES = {
    "smoke": {4: 500_000, 8: 250_000, 16: 50_000, 32: 6_000, 64: 800},
    "full": {4: 1_000_000, 8: 1_000_000, 16: 500_000, 32: 150_000, 64: 40_000, 128: 4_000},
}


def draw(scale, rng):
    return {n: spiked_wigner(n, 0.0, draws, rng)[0][:, -1] for n, draws in SIZES[scale].items()}


def shifted(n):
    """The library's centre and scale in units where the radius is 2."""
    return SpikedWignerLaw(1.0, [0.0], n=n).edge()


def plain(n):
    return 2.0, n ** (-2 / 3)


CLAIM = Claim(
    statement="""The largest eigenvalue of the Gaussian orthogonal ensemble, centred at 2 sqrt(n - 1/2) and scaled by
    (n - 1/2)^(-1/6) (off-diagonal variance 1), follows the Tracy-Widom law of beta = 1 up to O(n^-2/3); centred at 2
    sqrt(n) it does so only up to O(n^-1/3).""",
    source="Tracy and Widom (1996); Johnstone and Ma (2012), theorem 1",
    estimates="mean and variance of the standardised largest eigenvalue",
    reference="mean and variance of the law",
    bias="""Mean: -E tau^2 (n - 1/2)^(-2/3) / 20, tau of the law, derived in validation/expansions.py from the
    curvature of the semicircle at its edge; then O(n^-4/3). Variance: O(n^-2/3), fitted along.""",
    draw=draw,
    judge=lambda data, theory: _edges.judge(data, theory, shifted, plain, tracy_widom_mean_shift_goe, "GOE"),
    theory=(shifted, TracyWidom(1)),
    mutants={
        "plain centring": (plain, TracyWidom(1)),
        "beta = 2 for real matrices": (shifted, TracyWidom(2)),
        "square root of the scale": (lambda n: (shifted(n)[0], shifted(n)[1] ** 0.5), TracyWidom(1)),
    },
)
