"""Benaych-Georges and Nadakuditi: additive spikes of a Wigner matrix."""

from __future__ import annotations

import numpy as np

from rmtland.laws.spikes import SpikedWignerLaw
from rmtland.laws.tracy_widom import TracyWidom
from validation import Claim, Outcome, exact, figures, limit, rate
from validation.expansions import tracy_widom_mean_shift_goe, wigner_outlier_shift
from validation.sampling import controlled_mean, spiked_wigner

THETA, STAYS = 3.0, 0.4
SIZES = {
    "smoke": {12: 20_000, 24: 12_000, 48: 3_000, 96: 400},
    "full": {12: 200_000, 24: 120_000, 48: 30_000, 96: 5_000, 192: 500},
}


def draw(scale, rng):
    result = {}
    for n, draws in SIZES[scale].items():
        values, overlap, controls = spiked_wigner(n, THETA, draws, rng, overlaps=True)
        stays = spiked_wigner(n, STAYS, draws, rng)[0][:, -1]
        result[n] = values[:, -1], overlap, controls, stays
    return result


def judge(data, theory):
    sizes = np.array(list(data))
    law, below = theory(THETA), theory(STAYS)
    location = float(law.locations[0])
    mean, error = np.array([controlled_mean(top, c) for top, _, c, _ in data.values()]).T
    cosine, cosine_error = np.array([controlled_mean(o, c) for _, o, c, _ in data.values()]).T
    spread = np.array([(top.std(), top.std() / (2 * len(top)) ** 0.5) for top, *_ in data.values()])
    shift = wigner_outlier_shift(THETA)
    root = sizes[:, None] ** 0.5
    deviation = float(law.locations_std[0])
    checks = [
        limit("location: limit", sizes, mean - shift / sizes, error, location, powers=(2.0,), detect=0.05),
        limit(
            "location: n (mean - limit)",
            sizes,
            sizes * (mean - location),
            sizes * error,
            shift,
            powers=(1.0,),
            detect=0.3,
        ),
        rate("location: rate", sizes, mean - location, error, 1.0, detect=0.7, bias=0.05),
        limit("overlap", sizes, cosine, cosine_error, law.overlaps[0], powers=(1.0, 2.0), detect=0.1),
        limit("sqrt(n) s.d.", sizes, *(root * spread).T, deviation, powers=(1.0,), detect=0.25 * deviation),
        exact("weak spike is no outlier", below.is_outlier.astype(float), [0.0]),
    ]
    # Below the threshold theta/(1 - theta g)/n at g = 1 is the pull on the edge of the semicircle, and
    # the mean is that of the Tracy-Widom law.
    edge = float(below.locations[0])
    stuck = []
    for n, (*_, top) in data.items():
        centre, scale = SpikedWignerLaw(1.0, [0.0], n=n).edge()
        known = centre - 2 + STAYS / (1 - STAYS) / n + scale * tracy_widom_mean_shift_goe(n)
        stuck.append((top.mean() - known, top.std() / len(top) ** 0.5, scale))
    at_edge, edge_error, scale = np.array(stuck).T
    checks += [
        limit(
            "weak spike: mean in Tracy-Widom units",
            sizes,
            (at_edge - edge) / scale,
            edge_error / scale,
            TracyWidom(1).mean(),
            powers=(2 / 3,),
            detect=0.8,
        ),
        rate("weak spike: rate", sizes, at_edge - edge, edge_error, 2 / 3, detect=1 / 3, bias=0.05),
    ]

    def plot():
        figure, (left, right) = figures.panels(2, "limit laws and draws", "distance from the limit")
        n = int(sizes[-1])
        left.hist(
            data[n][0], 25, density=True, color=figures.COLOURS[1], alpha=0.5, label=rf"$\lambda_1$, $\theta={THETA:g}$"
        )
        left.hist(
            data[n][3], 25, density=True, color=figures.COLOURS[0], alpha=0.5, label=rf"$\lambda_1$, $\theta={STAYS:g}$"
        )
        grid = np.linspace(location - 4 * deviation / n**0.5, location + 4 * deviation / n**0.5, 200)
        width = deviation / n**0.5
        left.plot(
            grid,
            np.exp(-0.5 * ((grid - location - shift / n) / width) ** 2) / width / (2 * np.pi) ** 0.5,
            color=figures.COLOURS[1],
            lw=1.2,
        )
        centre, unit = SpikedWignerLaw(1.0, [0.0], n=n).edge()
        grid = centre + unit * np.linspace(-5, 4, 200)
        left.plot(grid, TracyWidom(1).pdf((grid - centre) / unit) / unit, color=figures.COLOURS[0], lw=1.2)
        left.set(xlabel=rf"largest eigenvalue, n = {n} (bulk on [-2, 2])", ylabel="density")
        figures.legend(left)
        figures.convergence(
            right, sizes, mean - location, error, figures.COLOURS[1], rf"$\theta={THETA:g}$", lambda n: shift / n
        )
        constant = TracyWidom(1).mean()
        figures.convergence(
            right,
            sizes,
            at_edge - edge,
            edge_error,
            figures.COLOURS[0],
            rf"$\theta={STAYS:g}$",
            lambda n: constant * n ** (-2 / 3),
        )
        right.set(xlabel="size $n$", ylabel=r"|error of $E\,\lambda_1$|; lines: derived $1/n$, $n^{-2/3}$")
        figures.legend(right)
        return figure

    text = f"""A spike {THETA:g} gives an outlier whose mean extrapolates to {checks[0].estimate:.4f} +-
    {checks[0].standard_error:.4f} (theta + 1/theta = {location:.4f}); its error falls like
    n^-{checks[2].estimate:.2f} +-
    {checks[2].standard_error:.2f} with amplitude {checks[1].estimate:.3f} +- {checks[1].standard_error:.3f} (derived
    {shift:.3f}). Squared cosine {checks[3].estimate:.4f} +- {checks[3].standard_error:.4f} (formula
    {law.overlaps[0]:.4f}); sqrt(n) s.d. {checks[4].estimate:.3f} +- {checks[4].standard_error:.3f} (formula
    {deviation:.3f}).

    A spike {STAYS:g} leaves the largest eigenvalue at the edge with the mean of the Tracy-Widom law; it comes to the
    edge
    like n^-{checks[7].estimate:.2f} +- {checks[7].standard_error:.2f}."""
    return Outcome(checks, text, plot)


class _Law:
    """The library's law for one spike, with sqrt(n) times the standard deviation."""

    def __init__(self, theta):
        law = SpikedWignerLaw(1.0, [theta], n=10_000)
        self.is_outlier, self.locations, self.overlaps = law.is_outlier, law.locations, law.overlaps
        self.locations_std = law.locations_std * 100


class _ThresholdAtEdge(_Law):
    """Outliers only for spikes beyond the edge 2 itself, without push."""

    def __init__(self, theta):
        super().__init__(theta)
        self.locations = np.array([max(theta, 2.0)])


class _ComplexDeviation(_Law):
    def __init__(self, theta):
        super().__init__(theta)
        self.locations_std = self.locations_std / 2**0.5


class _Cosine(_Law):
    def __init__(self, theta):
        super().__init__(theta)
        self.overlaps = self.overlaps**0.5


CLAIM = Claim(
    statement="""A Wigner matrix of bulk [-2, 2] plus theta v v^T has an outlier at theta + 1/theta iff theta > 1,
    with squared cosine 1 - 1/theta^2 and Gaussian fluctuations of variance 2 (1 - 1/theta^2)/n (real Gaussian
    entries).""",
    source="""Benaych-Georges and Nadakuditi (2011), theorems 2.1 and 2.2; Peche (2006), theorem 1.1. Fort and Ganguli
    (2019), section 3.1, see the outliers of a Hessian this way""",
    estimates="mean and s.d. of the largest eigenvalue, mean squared cosine, above and below the threshold",
    reference="formulas above; edge and mean of the Tracy-Widom law below",
    bias="""Above: (2 - theta^2) / (theta (theta^2 - 1)) / n, derived in validation/expansions.py. Below: pull theta /
    (1 - theta) / n on the edge and second-order centring, derived; then O(n^-2/3) in Tracy-Widom units.""",
    draw=draw,
    judge=judge,
    theory=_Law,
    mutants={
        "outlier at theta": _ThresholdAtEdge,
        "complex for real": _ComplexDeviation,
        "cosine for its square": _Cosine,
    },
)
