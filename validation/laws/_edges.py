"""The largest eigenvalue in Tracy-Widom units over growing sizes, for the claims on edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rmtland.laws.tracy_widom import TracyWidom
from validation import Outcome, figures, limit, rate


def judge(
    top: dict[int, np.ndarray],
    theory: tuple[Any, Any],
    shifted: Any,
    plain: Any,
    mean_shift: Callable[[int], float],
    what: str,
) -> Outcome:
    """Mean, variance and rates of (largest - centre) / scale.

    Parameters
    ----------
    top : dict
        Largest eigenvalues by size.
    theory : (callable, law)
        ``centre, scale = callable(size)`` and the limit law.
    shifted, plain : callable
        Centre and scale by size with dimensions shifted by 1/2, and without, which is shown to be of first order only.
    mean_shift : callable
        The derived n^(-2/3) term of the mean, by size.
    what : str
        Name of the ensemble.
    """
    standardise, law = theory
    sizes = np.array(list(top))
    shift = np.array([mean_shift(n) for n in sizes])

    def scaled(how: Any) -> list[np.ndarray]:
        return [(values - how(n)[0]) / how(n)[1] for n, values in top.items()]

    def moments(samples: list[np.ndarray]) -> np.ndarray:
        rows = []
        for s in samples:
            c = (s - s.mean()) ** 2
            rows.append((s.mean(), s.std() / len(s) ** 0.5, c.mean(), c.std() / len(s) ** 0.5))
        return np.array(rows).T

    mean, mean_error, variance, variance_error = moments(scaled(standardise))
    rough, rough_error, _, _ = moments(scaled(plain))
    mu = TracyWidom(1).mean()
    amplitude = shift * sizes ** (2 / 3)

    def from_centring(n: float) -> float:
        """What plain centring adds to the mean: arithmetic, n^(-1/3) and higher terms."""
        (centre, scale), (wrong, width) = shifted(n), plain(n)
        return (centre + scale * mu - wrong) / width - mu

    large = 1e8
    leading = [from_centring(large) * (n / large) ** (-1 / 3) / from_centring(n) for n in sizes]
    checks = [
        limit("mean less the derived term", sizes, mean - shift, mean_error, law.mean(), powers=(4 / 3,), detect=0.15),
        limit(
            "n^(2/3) (mean - limit)",
            sizes,
            (mean - law.mean()) * sizes ** (2 / 3) / amplitude,
            mean_error * sizes ** (2 / 3) / abs(amplitude),
            1.0,
            powers=(2 / 3,),
            detect=2.0,
        ),
        # The complex law, beta = 2, has a variance lower by 0.79.
        limit("variance", sizes, variance, variance_error, law.var(), powers=(2 / 3, 4 / 3), detect=0.79),
        rate(
            "rate of the error with plain centring",
            sizes,
            (rough - mu - shift) * leading,
            rough_error * np.abs(leading),
            1 / 3,
            detect=1 / 3,
            bias=0.05,
        ),
    ]

    def plot() -> Any:
        figure, (left, right) = figures.panels(2, f"largest eigenvalue, {what}", "error of the mean")
        grid = np.linspace(-5, 3.5, 300)
        n = sizes[-2]
        left.hist(scaled(standardise)[-2], 50, density=True, color="#cccccc", label=f"draws, n = {n}")
        left.plot(grid, law.pdf(grid), color=figures.COLOURS[1], label=r"Tracy-Widom, $\beta=1$")
        left.set(xlabel=r"$(\lambda_1-\mu_n)/s_n$", ylabel="density")
        figures.legend(left)
        figures.convergence(
            right, sizes, rough - law.mean(), rough_error, figures.COLOURS[1], r"plain centring, $n^{-1/3}$"
        )
        right.plot(
            sizes, np.abs(rough[0] - law.mean()) * (sizes / sizes[0]) ** (-1 / 3), color=figures.COLOURS[1], lw=1.2
        )
        figures.convergence(right, sizes, mean - law.mean(), mean_error, figures.COLOURS[0], "shifted by 1/2")
        right.plot(sizes, np.abs(shift), color=figures.COLOURS[0], lw=1.2, label=r"derived, $n^{-2/3}$")
        right.set(xlabel="size $n$", ylabel="|mean - Tracy-Widom mean|, in its units")
        figures.legend(right)
        return figure

    text = f"""{what}: with dimensions shifted by 1/2 the mean extrapolates to {checks[0].estimate:.4f} +-
    {checks[0].standard_error:.4f} (law {law.mean():.4f}) once the derived n^-2/3 term is taken away; its measured
    amplitude
    is {checks[1].estimate:.2f} +- {checks[1].standard_error:.2f} times the derived one. The variance extrapolates to
    {checks[2].estimate:.3f} +- {checks[2].standard_error:.3f} (law {law.var():.4f}).

    With plain centring the mean is off by {rough[0] - law.mean():.3f} at n = {sizes[0]} and still by
    {rough[-1] - law.mean():.3f} +- {rough_error[-1]:.3f} at n = {sizes[-1]}: an error that falls like
    n^-{checks[3].estimate:.3f}
    +- {checks[3].standard_error:.3f} only."""
    return Outcome(checks, text, plot)
