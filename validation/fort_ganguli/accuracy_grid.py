"""How accurate the theory is at the paper's size over its grid of logit scales and signal-to-noise ratios."""

from __future__ import annotations

import dataclasses

import numpy as np

import rmtland as rl
from validation import Check, Claim, Outcome, exact, figures, rate
from validation.fort_ganguli import _pairs
from validation.sampling import controlled_mean

SIZE = (300, 10, 1000)
SIGMAS, SNRS = (0.1, 1.0, 3.0, 15.0), (0.5, 2.0, 10.0)
DRAWS = {0.5: 230, 2.0: 190, 10.0: 70}
GRID = {"smoke": {(15.0, 10.0): 55}, "full": {(sigma, snr): DRAWS[snr] for sigma in SIGMAS for snr in SNRS}}
"""Draws by sigma_z and SNR: standard errors of a third of the bounds."""
OUTLIER, POWER, RATIO = 0.02, 0.005, 0.005
"""The bounds: of outlier means, relative; of the power; of the ratio, relative."""
ALLOWED = 0.01, 0.002, 0.001
"""Bias at this size: quantiles for means, 0.25 / sqrt(D) at most for equal spikes; 2 q (1 - q) / D and the second order
of the ratio, at most 0.0005, with room for what follows them."""
COPIES = {"smoke": {1: 800, 2: 500, 4: 250}, "full": {1: 8000, 2: 5000, 4: 2500, 8: 1200}}
"""Draws by copies of the examples, for the rate."""
FEW = (12, 3, 60, 1.0, 2.0)


def draw(scale, rng):
    grid, copied = [], {}
    for (sigma, snr), draws in GRID[scale].items():
        child = rng.spawn(1)[0]
        grid.append(_pairs.draw_pair(_pairs.given_model(*SIZE, sigma, snr, child), sigma, draws, child))
    first = _pairs.given_model(*FEW, rng.spawn(1)[0])
    for copies, draws in COPIES[scale].items():
        # The same examples again and again leave the mean part as it is: one limit, and errors that are powers of N, D.
        logits = rl.GivenLogits(*(np.concatenate([x] * copies) for x in (first.logits.logits, first.logits.labels)))
        model = dataclasses.replace(first, num_examples=copies * FEW[0], num_parameters=copies * FEW[2], logits=logits)
        copied[copies] = _pairs.draw_pair(model, FEW[3], draws, rng.spawn(1)[0])
    return grid, copied


def judge(data, theory_of):
    grid, copied = data
    rows = [compare(pair, theory_of(pair.model)) for pair in grid]
    sizes = [[pair.sigma_z, pair.model.snr] for pair in grid]
    outlier, power, trace, ratio = (np.array([row[k] for row in rows]) for k in ("outlier", "power", "trace", "ratio"))
    counted, gaps = (np.concatenate([row[k] for row in rows]) for k in ("counted", "gaps"))
    checks = [
        Check(
            "outlier means over their predictions", outlier[:, 0], outlier[:, 1], 1, ALLOWED[0], 6 * OUTLIER, sizes,
            "every outlier of every cell",
        ),
        Check(
            "gradient power, draws less theory", power[:, 0], power[:, 1], 0, ALLOWED[1], 6 * POWER, sizes,
        ),
        Check("trace over its prediction", trace[:, 0], trace[:, 1], 1, 1e-12, 0.1, sizes, "no bias: exact"),
        Check(
            "ratio over its prediction", ratio[:, 0], ratio[:, 1], 1, ALLOWED[2], 6 * RATIO, sizes,
        ),
        exact("standard errors over the bounds' thirds", np.maximum(3 * np.concatenate([
            outlier[:, 1].ravel() / OUTLIER, power[:, 1] / POWER, ratio[:, 1] / RATIO]), 1), 1, tolerance=0.2),
        exact("eigenvalues above levels in gaps", counted, gaps),
    ]  # fmt: skip
    errors = {name: np.array(values).T for name, values in rates(copied, theory_of).items()}
    copies = np.array(list(copied))
    checks += [
        rate(f"rate of the error at fixed C: {name}", copies, *errors[name], 1.0, detect=2.0, bias=0.3)
        for name in ("ratio", "mean outlier")[: len(copies) - 2]
    ]
    worst = np.abs(outlier[:, 0] - 1).max(axis=1)
    table = "\n\n".join(
        f"sigma_z = {sigma:g}, SNR = {snr:g}: farthest outlier {100 * far:.2f}%, power {p:+.4f} +- {e:.4f}, "
        f"ratio {100 * (r - 1):+.2f}%, trace {100 * (t - 1):+.2f}%."
        for (sigma, snr), far, (p, e), r, t in zip(sizes, worst, power, ratio[:, 0], trace[:, 0], strict=True)
    )
    fits = ", ".join(f"{c.estimate:.2f} +- {c.standard_error:.2f}" for c in checks if "rate" in c.name)
    conclusions = f"""At N, C, D = {SIZE} the farthest of all outlier means is {100 * worst.max():.2f}% from its
    prediction (bound 2%), the gradient's power {np.abs(power[:, 0]).max():.4f} (0.005), the ratio
    {100 * np.abs(ratio[:, 0] - 1).max():.2f}% (0.5%), noise included. With N and D grown together at C = {FEW[1]}, from
    N = {FEW[0]} and D = {FEW[2]}, errors fall with exponents {fits} (ratio, mean outlier).

    {table}"""

    def plot():
        figure, (left, middle, right) = figures.panels(3, "outlier means", "gradient power", "errors as N and D grow")
        for colour, sigma in zip(figures.COLOURS, SIGMAS, strict=False):
            chosen = [i for i, pair in enumerate(grid) if pair.sigma_z == sigma]
            if not chosen:
                continue
            snrs = np.array([sizes[i][1] for i in chosen]) * (1 + 0.05 * SIGMAS.index(sigma))
            label = rf"$\sigma_z={sigma:g}$"
            far = [int(np.argmax(np.abs(outlier[i, 0] - 1))) for i in chosen]
            places = np.array([outlier[i, :, j] for i, j in zip(chosen, far, strict=True)])
            figures.points(left, snrs, 100 * (places[:, 0] - 1), 100 * places[:, 1], colour, label)
            figures.points(middle, snrs, power[chosen, 0], power[chosen, 1], colour, label)
        for ax, bound in ((left, 100 * OUTLIER), (middle, POWER)):
            ax.axhline(0, color=figures.GREY, lw=0.8)
            for sign in (-1, 1):
                ax.axhline(sign * bound, color=figures.GREY, lw=0.8, ls="--")
            ax.set(xscale="log", xlabel=r"SNR $\sigma_c^2/\sigma_E^2$")
        left.set_ylabel("farthest outlier, draws less theory, %")
        middle.set_ylabel("draws less theory")
        left.set_ylim(-150 * OUTLIER, 150 * OUTLIER)
        figures.legend(left, loc="upper center", ncols=4, columnspacing=0.8, handletextpad=0.2)
        for colour, name in zip(figures.COLOURS, ("mean outlier", "ratio", "gradient power"), strict=False):
            first = errors[name][0, 0]
            figures.convergence(right, copies, *errors[name], colour, name, lambda n, e=first: e / n)
        right.set(xlabel="copies of 12 examples and 60 parameters", ylabel="|draws less theory|; lines: 1/N")
        figures.legend(right)
        return figure

    return Outcome(checks, conclusions, plot)


def compare(pair, theory):
    """Means with standard errors (2, ...) of draws in units of the theory, and counts."""
    gaps = _pairs.wide_gaps(theory)
    c = pair.model.num_classes
    return {
        "outlier": mean_and_error(pair.outliers / theory.outliers()),
        "power": mean_and_error(pair.power - theory.gradient_power(c - 1)),
        "trace": mean_and_error(pair.trace / theory.trace),
        "ratio": mean_and_error(pair.ratio / theory.goldilocks_ratio()),
        "counted": np.concatenate([np.empty(0), *((pair.top > g.level).sum(axis=1) for g in gaps)]),
        "gaps": np.concatenate([np.empty(0), *(np.full(len(pair.top), g.count) for g in gaps)]),
    }


def mean_and_error(samples):
    """Mean and its standard error over draws, first axis, (2, ...)."""
    return np.array([samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))])


def rates(copied, theory_of):
    """Errors of the theory with their standard errors, by copies; the trace's fluctuation is taken out."""
    found = {"mean outlier": [], "gradient power": [], "ratio": []}
    for pair in copied.values():
        theory = theory_of(pair.model)
        c = pair.model.num_classes
        control = (pair.trace / theory.trace - 1)[:, None]
        found["mean outlier"].append(
            controlled_mean(pair.outliers.mean(axis=1) / theory.outliers().mean() - 1, control)
        )
        found["gradient power"].append(controlled_mean(pair.power - theory.gradient_power(c - 1), control))
        found["ratio"].append(controlled_mean(pair.ratio / theory.goldilocks_ratio() - 1, control))
    return found


CLAIM = Claim(
    statement="""At N = 300, C = 10, D = 1000 the theory given the logits has the means of all nine outliers within 2%,
    the gradient's power above the bulk within 0.005 and the Goldilocks ratio within 0.5%, sigma_z from 0.1 to 15 and
    SNR from 0.5 to 10; trace and counts in gaps are exact, and the errors of mean outlier and ratio fall like 1/N as N
    and D grow together.""",
    source="this package, for the model of Fort and Ganguli (2019), section 4",
    estimates="means over draws of the reduced sampler with the same logits, standard errors a third of the bounds",
    reference="the theory of the same logits and labels; at fixed C the errors' exponent 1",
    bias="""1% for outliers (quantiles for means: 0.25 / sqrt(D) at most for equal spikes), 0.002 for the power
    (2 q (1 - q) / D = 0.0005 derived), 0.1% for the ratio. At fixed C quantiles for means and ratios of means leave
    O(1/D); examples are copied, so that the limit is one.""",
    draw=draw,
    judge=judge,
    theory=_pairs.THEORY,
    mutants=_pairs.MUTANTS,
)
