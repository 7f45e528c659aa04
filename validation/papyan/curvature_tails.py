"""Papyan, fig. 4: the spectrum of H is symmetric about 0, has power-law tails, and is none of the classical laws."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe
from validation.papyan import _networks
from validation.papyan._networks import SPLITS, distance, one

SIZES = {"smoke": ([100], [60], 4), "full": ([1351], None, 3)}
"""Examples per class, the paper's at full scale; epochs looked at; seeds."""
DRAWS = 199
FLOOR = 1e-6
"""Of the largest eigenvalue: less is taken for 0."""
UNEVEN, LEVEL, STRAIGHT = 0.1, 0.01, 0.8
"""Asymmetry that passes, level of the tests, R^2 of a line that is one; fixed on networks of other seeds."""
PAPERS = (2.7, 2.2)
"""Exponents that fig. 4 prints, of the density and of the log spectrum, for VGG11 on MNIST."""


def draw(scale, rng):
    sizes, looks, seeds = SIZES[scale]
    # One hidden layer of units that are linear on both sides of 0: a curvature that couples the two layers alone.
    seed = int(rng.integers(2**31))
    data = rl.nets.load_dataset("digits")
    images, labels = data.x_train[:400], data.y_train[:400]
    recipe = Recipe(data="digits", hidden=(12,), batch=32, learning_rate=0.05, momentum=0.9, epochs=3)
    module = networks.build(recipe, seed, images)
    for _ in networks.epochs(recipe, module, images, labels, seed):
        pass
    bare = np.linalg.eigvalsh(rl.nets.logit_curvature(networks.source(module, images, labels)).to_dense())
    spectra = _networks.networks(
        "papyan.curvature_tails", scale, rng, sizes=sizes, looks=looks, seeds=seeds, matrices=("h",)
    )
    return bare, spectra, {n: calibration(n, rng) for n in (200,)}


def reach(values):
    """The largest over the median of positive numbers: of any scale, and no more than 4 / 0.66 in a limit law."""
    return values.max() / np.median(values)


def calibration(size, rng):
    """`reach` of matrices of so many nonzero eigenvalues: Wigner, of either sign, and Wishart of ratio 1.

    Of Marchenko-Pastur laws that of ratio 1 reaches furthest; fewer eigenvalues than H has scatter more.
    """
    wigner = rl.GaussianEnsemble(size).eigenvalues(DRAWS, rng=rng)
    wishart = rl.Wishart(size, size).eigenvalues(DRAWS, rng=rng)
    return np.array([reach(v[v > 0]) for v in wigner]), np.array([reach(v) for v in wishart])


def asymmetry(nodes, weights):
    """Distance of a spectrum from its mirror image, over the mean absolute eigenvalue."""
    return distance((nodes, weights), (-nodes, weights)) * weights.sum() / np.sum(np.abs(nodes) * weights)


def tails(nodes, weights, sign):
    """Papyan's line through a tail, log density against log eigenvalue, and the likeliest power law where known."""
    values = sign * nodes
    keep = values > FLOOR * np.abs(nodes).max()
    values, weights = values[keep], weights[keep]
    bins = np.geomspace(values.max() * 10**-1.5, values.max(), 13)
    counts, _ = np.histogram(values, bins, weights=weights)
    middle = np.sqrt(bins[1:] * bins[:-1])
    some = counts > 0
    line = rl.power_law_line(middle[some], counts[some] / np.diff(bins)[some])
    fit = rl.fit_power_law(values, num_bootstrap=0) if (weights == 1).all() else None
    return line, fit, values, weights


def judge(data, theory):
    bare, spectra, calibrated = data
    wigner, wishart = next(iter(calibrated.values()))
    checks = [
        exact("one hidden layer: distance from the mirror image, over the mean absolute eigenvalue",
              asymmetry(theory(bare), np.ones(bare.size)), 0.0, tolerance=1e-8),
    ]  # fmt: skip
    text, shown = [], None
    for name, found in spectra.items():
        for network in range(found.sizes["network"]):
            kind = f"{name}, {found.network.to_numpy()[network]}"
            for split in SPLITS:
                uneven, steep, straight, beyond, fits = [], [], [], [], []
                for trial in range(found.sizes["trial"]):
                    nodes, weights = one(found, split, "h", network=network, per_class=0, trial=trial, look=-1)
                    nodes = theory(nodes)
                    uneven.append(asymmetry(nodes, weights))
                    parts = [tails(nodes, weights, sign) for sign in (1, -1) if (sign * nodes > 0).any()]
                    steep.append([line.exponent for line, *_ in parts])
                    straight.append(np.mean([line.r_squared for line, *_ in parts]))
                    fits += [fit for _, fit, *_ in parts if fit is not None]
                    values, counts = parts[0][2:]
                    middle = np.interp(0.5, np.cumsum(counts) / counts.sum(), values)
                    beyond.append([(1 + np.sum(of >= values.max() / middle)) / (1 + DRAWS) for of in (wigner, wishart)])
                    if shown is None and split == "test":  # the paper's
                        shown = f"{kind}, test", parts
                beyond = np.max(beyond, axis=0)
                steep = np.array(steep)
                error = np.std(uneven, ddof=1) / len(uneven) ** 0.5
                checks += [
                    exact(f"{kind}, {split}: distance from the mirror image, mean over seeds", np.mean(uneven), 0.0,
                          tolerance=UNEVEN),
                    exact(f"{kind}, {split}: p-values of semicircle and Marchenko-Pastur laws, largest over seeds",
                          beyond, 0.0, tolerance=LEVEL),
                    exact(f"{kind}, {split}: 1 - R^2 of log density against log eigenvalue, mean over seeds",
                          1 - np.mean(straight), 0.0, tolerance=1 - STRAIGHT),
                ]  # fmt: skip
                spread = steep.std(axis=0, ddof=1) / len(steep) ** 0.5
                by_likelihood, rival = "", ""
                if fits:  # of eigenvalues; a quadrature has none
                    likely = np.array([fit.exponent for fit in fits])
                    worse = sum(fit.rivals["lognormal"].log_ratio < 0 for fit in fits)
                    told = sum(fit.rivals["lognormal"].p_value < 0.1 for fit in fits)
                    by_likelihood = (
                        f"; by likelihood {likely.mean():.2f} +- {likely.std(ddof=1) / likely.size**0.5:.2f}"
                    )
                    rival = f"""A lognormal is likelier than the power law in {worse} of {len(fits)} tails, and the two
                    are told apart (p < 0.1) in {told}."""
                text.append(
                    f"""{kind}, {split}: the spectrum of H differs from its mirror image by {np.mean(uneven):.3f} +-
                    {error:.3f} of its mean absolute eigenvalue. Lines have exponents {
                        ", ".join(f"{m:.2f} +- {s:.2f}" for m, s in zip(steep.mean(axis=0), spread, strict=True))
                    } (positive, negative), R^2 {np.mean(straight):.2f}{by_likelihood}. The paper
                    prints {PAPERS[0]} for the density and {PAPERS[1]} for the log spectrum of VGG11 on MNIST. {
                        rival
                    }"""
                )

    def plot():
        figure, (left, right) = figures.panels(2, f"H of {shown[0]}: density", "log spectrum")
        for (line, _, values, weights), colour, label in zip(
            shown[1], figures.COLOURS[1::-1], ("positive", "negative, absolute value"), strict=False
        ):
            bins = np.geomspace(values.max() * FLOOR, values.max() * 1.01, 40)
            counts, _ = np.histogram(values, bins, weights=weights)
            left.plot(np.sqrt(bins[1:] * bins[:-1]), counts / np.diff(bins), "o", ms=3, color=colour, label=label)
            x = np.geomspace(line.xmin, line.xmax, 20)
            left.plot(x, line.density(x), color=colour, lw=1.2, label=f"exponent {line.exponent:.1f}")
            right.stairs(counts, bins, color=colour, label=label)
        # The paper's slopes, through the middle of ours: its networks have other eigenvalues.
        line = shown[1][0][0]
        middle = np.sqrt(line.xmin * line.xmax)
        x = np.array([middle, line.xmax])
        a_bin = middle * (bins[1] - bins[0]) / np.sqrt(bins[1] * bins[0])
        for ax, height, slope in ((left, 1.0, PAPERS[0]), (right, a_bin, PAPERS[1])):
            falling = height * line.density(middle) * (x / middle) ** -slope
            ax.plot(x, falling, "k:", lw=1.2, label=f"slope of the paper's VGG11, {slope}")
        left.set(xscale="log", yscale="log", xlabel=r"$|\lambda|$", ylabel="eigenvalues per unit")
        right.set(xscale="log", yscale="log", ylim=(0.5, None), xlabel=r"$|\lambda|$", ylabel="eigenvalues per bin")
        figures.legend(left)
        figures.legend(right)
        return figure

    text.append(
        f"""With one hidden layer of ReLU units H couples the two layers alone and is symmetric exactly. No semicircle
        or Marchenko-Pastur law of any ratio has eigenvalues so far beyond their median: at most {wigner.max():.1f} and
        {wishart.max():.1f} times in {DRAWS} draws. A straight line by itself does not show a power law: lognormals have
        them too."""
    )
    return Outcome(checks, "\n\n".join(text), plot)


def levels(size):
    """Probabilities in the middle of equal parts."""
    return (np.arange(size) + 0.5) / size


CLAIM = Claim(
    statement="""The spectrum of H is nearly symmetric about 0, exactly for one hidden layer of piecewise linear units;
    its tails are straight in log-log axes, and neither a semicircle nor a Marchenko-Pastur law has such tails.""",
    source="Papyan (2018), The full spectrum of deepnet Hessians at scale, fig. 4",
    estimates="""Wasserstein distance of the spectrum of H from its mirror image, lines through log density, and the
    largest over the median of the positive eigenvalues, after training, on training and on test examples""",
    reference="""no distance; a straight line; the same ratio in draws of Wigner and Wishart matrices, whose ratio 1
    reaches furthest of all Marchenko-Pastur laws""",
    bias="""None derived: blocks of H between neighbouring layers alone make it symmetric, blocks between others spoil
    that. The exponents' errors are those over seeds.""",
    draw=draw,
    judge=judge,
    theory=lambda eigenvalues: eigenvalues,
    mutants={
        "shifted by the mean absolute eigenvalue": lambda x: x + np.abs(x).mean(),
        "the semicircle of the same variance": lambda x: rl.Semicircle(np.std(x)).ppf(levels(x.size)),
        "a sample covariance": lambda x: rl.MarchenkoPastur(0.5).ppf(levels(x.size)),
    },
)
