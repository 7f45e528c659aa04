"""Paul: how much an outlier fluctuates."""

from __future__ import annotations

import numpy as np

from rmtland.laws.spikes import SpikedCovarianceLaw
from validation import Claim, Outcome, figures, limit, rate
from validation.laws import _outliers

CASES = ((0.5, 3.0), (2.0, 6.0))


def draw(scale, rng):
    return [_outliers.draw(ratio, [spike], _outliers.SIZES[scale], rng) for ratio, spike in CASES]


def deviation(samples):
    """Standard deviation and its standard error, from the fourth moment."""
    centred = samples - samples.mean()
    variance = (centred**2).mean()
    fourth = (centred**4).mean()
    return variance**0.5, ((fourth - variance**2) / len(samples)) ** 0.5 / (2 * variance**0.5)


def judge(data, theory):
    checks, lines, series = [], [], []
    for (ratio, spike), draws in zip(CASES, data, strict=True):
        name, expected = f"ratio {ratio:g}, spike {spike:g}", theory(ratio, spike)
        sizes = np.array(list(draws))
        found, error = np.array([deviation(d.eigenvalues[:, -1]) for d in draws.values()]).T
        series.append((sizes, found, error, expected))
        root = sizes**0.5
        # A fifth of the value: the usual slips are off by sqrt(2), sqrt(ratio) or a square.
        checks.append(
            limit(
                f"{name}: sqrt(n) s.d.",
                sizes,
                root * found,
                root * error,
                expected,
                powers=(1.0,),
                detect=0.2 * expected,
            )
        )
        # n^(-2/3) is how an eigenvalue at the edge fluctuates.
        checks.append(rate(f"{name}: rate", sizes, found, error, 0.5, detect=1 / 6, bias=0.03))
        lines.append(
            f"""At {name} sqrt(n) times the standard deviation extrapolates to {checks[-2].estimate:.3f} +-
            {checks[-2].standard_error:.3f} (formula {expected:.3f}); it falls like n^-{checks[-1].estimate:.3f} +-
            {checks[-1].standard_error:.3f}, not like the n^-2/3 of an eigenvalue at the edge."""
        )

    def plot():
        figure, (left, right) = figures.panels(2, "standard deviation of the outlier", "in units of the limit")
        for colour, (ratio, spike), (sizes, found, error, expected) in zip(
            figures.COLOURS, CASES, series, strict=False
        ):
            label = rf"$p/n={ratio:g}$, $\ell={spike:g}$"
            figures.convergence(left, sizes, found, error, colour, label, lambda n, c=expected: c / n**0.5)
            figures.points(right, sizes, found * sizes**0.5 / expected, error * sizes**0.5 / expected, colour, label)
        left.set(xlabel="samples $n$", ylabel=r"s.d. of $\lambda_1$; lines: limit law")
        right.axhline(1, color="black", lw=1.2)
        right.set(xlabel="samples $n$", ylabel="s.d. / s.d. of the limit law")
        figures.log_sizes(right, sizes, log_values=False)
        figures.legend(left)
        return figure

    return Outcome(checks, "\n\n".join(lines), plot)


def scaled(ratio, spike):
    """The law's sqrt(n) times standard deviation."""
    return float(SpikedCovarianceLaw(ratio, [spike], num_samples=10_000).locations_std[0] * 100)


CLAIM = Claim(
    statement="""A simple outlier of a real sample covariance matrix is Gaussian in the limit with variance 2 ell^2 (1
    - ratio/(ell - 1)^2) / n.""",
    source="Paul (2007), theorem 3; Baik, Ben Arous and Peche (2005), theorem 1.1 (complex, half the variance)",
    estimates="standard deviation of the largest eigenvalue over draws",
    reference="the limit of sqrt(n) times it, and the exponent -1/2",
    bias="O(1/n) relative, order derived, constant fitted along.",
    draw=draw,
    judge=judge,
    theory=scaled,
    mutants={
        "stray sqrt(ratio)": lambda ratio, spike: scaled(ratio, spike) * ratio**0.5,
        "variance for standard deviation": lambda ratio, spike: scaled(ratio, spike) ** 2,
        "complex for real": lambda ratio, spike: scaled(ratio, spike) / 2**0.5,
    },
)
