"""Papyan, fig. 3b and the summary: whose the upper tail of the Hessian's bulk is, over epochs and sample sizes."""

from __future__ import annotations

import numpy as np

from validation import Claim, Outcome, exact, figures
from validation.papyan import _networks
from validation.papyan._networks import MATRICES, SPLITS

C, TAIL = 10, 20
TOP = C + TAIL + 1
"""Outliers that are left out, and how many eigenvalues below them are the upper tail; the last has a neighbour too."""
SIZES = {"smoke": ([10, 30, 100], [0, 60], 3), "full": (None, None, 3)}
UNKNOWN = 0.5
"""Share of the tail, mean over networks, that may be left out because an eigenvalue beside it did not converge."""
INTERLACED = 0.5
"""Share of the tail that may miss its place between two neighbours of G on test examples; fixed before looking."""
OWNERS = {"train": {0: 1.0, -1: 0.0}, "test": {-1: 1.0}}
"""Whose the tail is according to the paper, by place among the epochs looked at: G's (1) or H's (0)."""


def draw(scale, rng):
    sizes, looks, seeds = SIZES[scale]
    return _networks.networks("papyan.upper_tail", scale, rng, sizes=sizes, looks=looks, seeds=seeds, top=TOP)


def tail_of(found, split, name, **where):
    """The `TOP` largest eigenvalues, descending, then the smallest one, and residuals; NaN where not converged."""
    part = found.isel(**where)
    return part[f"{split}_{name}"].to_numpy()[::-1], part[f"{split}_{name}_residuals"].to_numpy()[::-1]


def measured(found, split, **where):
    """Distances of the tail of Hess from those of G and H, over its mean; shares that interlace with G, and with H.

    Then by how much Weyl's bounds are left, and the share of the tail that is compared: where every eigenvalue that it
    is compared with has converged.
    """
    (hess, off_hess), (g, off_g), (h, off_h) = (tail_of(found, split, name, **where) for name in MATRICES)
    k = np.arange(C, C + TAIL)
    # H has no outliers: its k-th eigenvalue stands beside the (C + k)-th of Hess, as in the paper's figure.
    above, below = h[np.maximum(k - C - 1, 0)], h[k - C + 1]
    known = np.isfinite([hess[k], g[k - 1], g[k], g[k + 1], above, h[k - C], below]).all(axis=0)
    if not known.any():
        return np.nan, np.nan, np.nan, np.nan, np.nan, 0.0
    k, above, below = k[known], above[known], below[known]
    scale = np.abs(hess[k]).mean()
    apart = [np.abs(hess[k] - tail).mean() / scale for tail in (g[k], h[k - C])]
    between = [np.mean((hess[k] <= g[k - 1]) & (hess[k] >= g[k + 1])), np.mean((hess[k] <= above) & (hess[k] >= below))]
    # Weyl: by how much an eigenvalue of Hess leaves what H may move those of G by, beyond the errors of all three.
    moved, error = hess[k] - g[k], off_hess[k] + off_g[k]
    weyl = np.max([moved - h[0] - error - off_h[0], h[-1] - moved - error - off_h[-1]]) / scale
    return *apart, *between, np.maximum(weyl, 0.0), known.mean()


def judge(data, theory):
    checks, text, shown = [], [], None
    for name, found in data.items():
        looks, sizes = found.attrs["looks"], found.per_class.to_numpy()
        seeds = found.sizes["trial"]
        for network in range(found.sizes["network"]):
            kind = f"{name}, {found.network.to_numpy()[network]}"
            for split in SPLITS:
                table = np.array(
                    [[[measured(found, split, network=network, per_class=n, trial=t, look=k)
                       for k in range(len(looks))] for t in range(seeds)] for n in range(sizes.size)]
                )  # fmt: skip
                owner = np.log(table[..., 0] / table[..., 1])  # below 0: nearer to G
                mean, error = owner.mean(axis=1), owner.std(axis=1, ddof=1) / seeds**0.5
                nearer = np.where(np.isfinite(mean), mean < 0, np.nan)
                checks += [
                    exact(f"{kind}, {split}: the tail nearer to G (1) or to H (0), epoch {looks[look]}, over sizes",
                          nearer[:, look], owner_is, sizes=sizes.tolist())
                    for look, owner_is in theory[split].items()
                ]  # fmt: skip
                left = table[..., 4][np.isfinite(table[..., 4])]
                checks += [
                    exact(f"{kind}, {split}: what leaves Weyl's bounds, largest", left.max() if left.size else np.nan,
                          0.0, tolerance=1e-8),
                    exact(f"{kind}, {split}: share of the tail that converged, mean", table[..., 5].mean(), 1.0,
                          tolerance=UNKNOWN),
                ]  # fmt: skip
                missed = 1 - table[:, :, -1, 2].ravel()
                if split == "test":
                    checks.append(
                        exact(f"{kind}, {split}: share of the tail that does not interlace with G, last epoch, mean",
                              missed.mean(), 0.0, tolerance=INTERLACED)
                    )  # fmt: skip
                shown = shown or (kind, found, network)
                text.append(
                    f"{kind}, {split}: log of the tail's distance from G over that from H, by examples per class: "
                    + "; ".join(
                        f"{n}: " + ", ".join(f"{m:+.2f} +- {e:.2f}" for m, e in zip(mean[i], error[i], strict=True))
                        for i, n in enumerate(sizes)
                    )
                    + f" in epochs {', '.join(map(str, looks))}. In the last epoch {1 - missed.mean():.0%} of the tail "
                    f"(+- {missed.std(ddof=1) / missed.size**0.5:.0%}) lies between its two neighbours of G, "
                    f"{table[:, :, -1, 3].mean():.0%} between those of H. Eigenvalues known up to a residual of "
                    f"{_networks.CONVERGED:g} of them are compared, {table[..., 5].mean():.0%} of the tails."
                )

    def plot():
        kind, found, network = shown
        looks = found.attrs["looks"]
        columns = [0, len(looks) - 1]
        figure, axes = _networks.grid_of_panels(
            f"{kind}; ranks of the left: {found.per_class.to_numpy()[-1]} per class", 2, 3, height=2.4
        )
        rank = np.arange(C + 1, C + TAIL + 1)
        for i, split in enumerate(SPLITS):
            for j, look in enumerate(columns):
                ax = axes[i, j]
                where = {"network": network, "per_class": -1, "trial": 0, "look": look}
                spectra = [tail_of(found, split, name, **where)[0] for name in MATRICES]
                for values, colour, label, start in zip(
                    spectra, ("#d55e00", "#009e73", "#0072b2"), ("Hess", "G", "H, from its largest"), (C, C, 0),
                    strict=True,
                ):  # fmt: skip
                    ax.plot(rank, values[start : start + TAIL], "o-", ms=3, lw=0.8, color=colour, label=label)
                ax.set_title(f"{split}, epoch {looks[look]}", fontsize=9)
                ax.set_xticks(rank[::3])
                ax.set_xlabel("rank", fontsize=7)
                ax.set_ylabel("eigenvalue", fontsize=7)
            ax = axes[i, 2]
            for n, colour in zip(range(found.sizes["per_class"]), figures.COLOURS, strict=False):
                rows = np.array(
                    [[measured(found, split, network=network, per_class=n, trial=t, look=k)[:2]
                      for k in range(len(looks))] for t in range(found.sizes["trial"])]
                )  # fmt: skip
                owner = np.log(rows[..., 0] / rows[..., 1])
                label = f"{found.per_class.to_numpy()[n]} per class"
                figures.means(ax, np.array(looks) + 1, owner.T, colour, label)
            ax.axhline(0, color="0.6", lw=0.8, ls=":")
            ax.set(xscale="log")
            ax.set_xlabel("epoch + 1", fontsize=7)
            ax.set_ylabel("log distance from G over H", fontsize=7)
            ax.set_title(f"{split}: above 0 the tail is H's", fontsize=9)
        figures.legend(axes[0, 0])
        figures.legend(axes[0, 2])
        return figure

    return Outcome(checks, "\n\n".join(text), plot)


CLAIM = Claim(
    statement="""The upper tail of the Hessian's bulk passes from G to H on training examples as a network is trained;
    on test examples it is G's after training, and its eigenvalues lie between neighbouring ones of G.""",
    source="""Papyan (2018), The full spectrum of deepnet Hessians at scale, fig. 3b; Papyan (2019), the summary, on the
    transition over sample size and epochs""",
    estimates="""distances of the eigenvalues C + 1 to C + 20 of Hess from those of G, and from the 20 largest of H,
    over epochs, sample sizes and seeds; shares that interlace""",
    reference="which of the two is smaller; Weyl's inequalities, which hold always",
    bias="None: a comparison. Logarithms of the ratio with standard errors over seeds are in the conclusions.",
    draw=draw,
    judge=judge,
    theory=OWNERS,
    mutants={"H's on test examples too": {**OWNERS, "test": {-1: 0.0}}},
    refuted="""On test examples the tail is G's after training, as the paper has it. On training examples of a small
    perceptron it is the other way round: the tail passes from H to G, as H goes like the residuals p - y and fades
    first. And it is on training examples that Hess and G interlace; on test examples, where the paper sees it, less
    than half of the eigenvalues lie between neighbours: H, which is larger there, moves the others further than the
    distance of neighbours.""",
)
