"""Papyan, figs. 6 and 10: Hess, G and H over epochs and sample sizes, and the epoch in which G is largest."""

from __future__ import annotations

import numpy as np

from validation import Claim, Outcome, exact, figures
from validation.papyan import _networks
from validation.papyan._networks import MATRICES, one

SIZES = {"smoke": (None, [0, 3, 5, 7, 10, 14, 20, 60], 2), "full": (None, None, 3)}
"""Examples per class, epochs looked at, seeds; None: those of the scale."""
ALIGNED = np.log(2.0)
"""The peak of G within a factor of two of the knee, as a mean over sample sizes; fixed before looking."""


def draw(scale, rng):
    sizes, looks, seeds = SIZES[scale]
    return _networks.networks(
        "papyan.dynamics", scale, rng, sizes=sizes, looks=looks, seeds=seeds, splits=("train",), curves=True
    )


def knee(errors):
    """The epoch in which a falling curve is furthest below its chord (Satopaa et al. 2011), at least 1."""
    x = np.linspace(0, 1, errors.size)
    low, high = errors.min(), errors.max()
    y = (errors - low) / max(high - low, 1e-12)
    return max(int(np.argmax(y[0] + (y[-1] - y[0]) * x - y)), 1)


def sizes_of(found, network, place, trial):
    """Largest eigenvalues of Hess, G and H in every epoch looked at."""
    looks = range(found.sizes["look"])
    where = {"network": network, "per_class": place, "trial": trial}
    return np.array([[one(found, "train", name, look=k, **where)[0][-1] for k in looks] for name in MATRICES])


def judge(data, theory):
    checks, text, shown = [], [], {}
    for name, found in data.items():
        looks = np.array(found.attrs["looks"])
        for network in range(found.sizes["network"]):
            kind = f"{name}, {found.network.to_numpy()[network]}"
            shape = found.sizes["per_class"], found.sizes["trial"]
            cells = [(n, t) for n in range(shape[0]) for t in range(shape[1])]
            tops = np.array([sizes_of(found, network, *cell) for cell in cells]).reshape(*shape, 3, looks.size)
            curves = found.train_error.isel(network=network).to_numpy()
            peaks = looks[tops[:, :, 1].argmax(axis=-1)]
            knees = np.array([[theory(curves[n, t]) for t in range(shape[1])] for n in range(shape[0])])
            apart = np.log(np.maximum(peaks, 1) / knees)
            # A peak inside: larger than at both ends.
            rise = np.log(tops[:, :, 1].max(axis=-1) / tops[:, :, 1, 0]).mean(axis=1)
            fall = np.log(tops[:, :, 1].max(axis=-1) / tops[:, :, 1, -1]).mean(axis=1)
            beside = tops[:, :, 1] / tops[:, :, 2]
            at_peak = np.take_along_axis(beside, tops[:, :, 1].argmax(axis=-1)[..., None], axis=-1)[..., 0]
            fade = np.log(beside[:, :, -1] / at_peak).mean(axis=1)
            sizes = found.per_class.to_numpy().tolist()
            checks += [
                exact(f"{kind}: sample sizes at which the largest eigenvalue of G rises from epoch {looks[0]} and "
                      "falls to the last", (rise > 0) & (fall > 0), 1.0, sizes=sizes),
                exact(f"{kind}: log of the peak of G over the knee of the training error, mean over sizes and seeds",
                      apart.mean(), 0.0, tolerance=ALIGNED),
                exact(f"{kind}: sample sizes at which G over H, largest eigenvalues, falls from the peak of G to the "
                      "last epoch", fade < 0, 1.0, sizes=sizes),
            ]  # fmt: skip
            spread = apart.std(ddof=1) / apart.size**0.5
            text.append(
                f"""{kind}: with {", ".join(map(str, sizes))} examples per class the largest eigenvalue of G peaks in
                epoch {", ".join(f"{m:.0f}" for m in np.median(peaks, axis=1))} (median), the knee of the training error
                is in epoch {", ".join(f"{m:.0f}" for m in np.median(knees, axis=1))}; the peak is
                {np.exp(apart.mean()):.2f} times the knee (log +- {spread:.2f} over seeds and sizes). G over H, largest
                eigenvalues, is {", ".join(f"{m:.1f}" for m in beside[:, :, 0].mean(axis=1))} before training,
                {", ".join(f"{m:.1f}" for m in at_peak.mean(axis=1))} at the peak and
                {", ".join(f"{m:.1f}" for m in beside[:, :, -1].mean(axis=1))} in the last epoch."""
            )
            if not shown:
                shown = {
                    "kind": kind,
                    "found": found,
                    "network": network,
                    "peaks": peaks,
                    "looks": looks,
                    "curves": curves,
                }

    def plot():
        found, looks = shown["found"], shown["looks"]
        rows = np.unique(np.linspace(0, looks.size - 1, min(5, looks.size)).round().astype(int))
        columns = np.unique(np.linspace(0, found.sizes["per_class"] - 1, 3).round().astype(int))
        figure, axes = _networks.grid_of_panels(shown["kind"], len(rows), len(columns) + 1, height=1.6)
        for i, look in enumerate(rows):
            for j, place in enumerate(columns):
                where = {"network": shown["network"], "per_class": int(place), "trial": 0, "look": int(look)}
                spectra = [one(found, "train", name, **where) for name in MATRICES]
                edge = spectra[2][0][-1]
                ends = max(2.0, spectra[0][0][-1] / edge)
                for spectrum, colour, label in zip(
                    spectra, ("#d55e00", "#009e73", "#0072b2"), ("Hess", "G", "H"), strict=True
                ):
                    scaled = spectrum[0] / edge, spectrum[1]
                    _networks.stairs(axes[i, j], scaled, np.linspace(-1.2, 1.02 * ends, 100), colour, label)
                axes[i, j].set_xlabel("eigenvalue over the edge of H", fontsize=7)
                axes[i, j].set_ylabel(f"epoch {looks[look]}: eigenvalues", fontsize=7)
                if i == 0:
                    axes[i, j].set_title(f"{found.per_class.to_numpy()[place]} per class", fontsize=9)
            if i:
                axes[i, -1].remove()
        figures.legend(axes[0, 0])
        right = axes[0, -1]
        for n, colour in zip(columns, figures.COLOURS, strict=False):
            curve = shown["curves"][n].mean(axis=0)
            right.plot(
                np.arange(1, curve.size), curve[1:], color=colour, label=f"{found.per_class.to_numpy()[n]} per class"
            )
            peak = max(int(np.median(shown["peaks"][n])), 1)
            right.plot(peak, curve[peak], "o", color=colour, ms=7)
        right.set(xscale="log", title="training error; circle: peak of G")
        right.set_xlabel("epoch", fontsize=7)
        right.set_ylabel("error", fontsize=7)
        right.title.set_fontsize(9)
        figures.legend(right)
        return figure

    return Outcome(checks, "\n\n".join(text), plot)


CLAIM = Claim(
    statement="""At every sample size the largest eigenvalue of G rises with training to a peak and falls again, until
    it is small beside that of H, and the peak lies where the training error turns from falling fast to falling
    slowly.""",
    source="Papyan (2018), The full spectrum of deepnet Hessians at scale, figs. 6 and 10",
    estimates="""epoch of the largest top eigenvalue of G on training examples, over sample sizes and seeds; knee of the
    training error, the point furthest below the chord""",
    reference="the knee; the values at both ends of training",
    bias="None derived: epochs looked at are a factor of 1.4 apart, so that a factor of two is a step or two.",
    draw=draw,
    judge=judge,
    theory=knee,
    mutants={
        "the peak at the end of training": lambda errors: errors.size - 1,
        "the peak in the first epoch": lambda errors: 1,
        "the peak where the rate falls": lambda errors: (errors.size - 1) // 3 * 2,
    },
    refuted="""The peak is there, and where the error turns. G does not fade beside H: in a small perceptron both fade,
    H faster, and G over H grows to the end, as H is weighed by residuals p - y, which vanish first.""",
)
