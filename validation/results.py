"""One claim run, written and read: a JSON file and a figure, whole or not at all."""

from __future__ import annotations

import json
import math
import platform
import re
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from rmtland import _version
from rmtland._files import replace_file
from validation import devices
from validation.checks import FAIL, INCONCLUSIVE
from validation.claims import Claim, discover, seed_sequence
from validation.examples import folder_named
from validation.stores import kept_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 3
KEYS = (
    "schema", "id", "mutant", "statement", "source", "estimates", "reference", "bias", "disagreement", "refuted",
    "verdict", "checks", "unnoticed", "conclusions", "error", "figure", "scale", "seed", "images", "seconds",
    "finished", "versions",
)  # fmt: skip
HOLDS, KNOWN, STOOD_IN = "holds", "does not hold, as is known", "holds on the digits that stand for images"
EXPECTED = (HOLDS, KNOWN, STOOD_IN)
"""Endings that a run should have."""


def run_claim(
    claim_id: str, scale: str, seed: int, out: Path | str, mutant: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Run one claim and write its result to `out`.

    Parameters
    ----------
    claim_id : str
        Of a discovered claim.
    scale : {"smoke", "full"}
    seed : int
        Of the run; the claim's own seeds follow from it and the id.
    out : path
        Existing folder.
    mutant : str, optional
        Put this wrong formula in the place of the theory.
    device : str, optional
        Where networks are trained and measured; see `validation.devices.used`.

    Returns
    -------
    dict
        What the JSON file holds, with the keys `KEYS`. A claim that raises has failed; `error` tells how. `unnoticed`
        are the mutants that the same draws do not reject, `images` whether a folder of image collections was named.
    """
    return run(discover()[claim_id], claim_id, scale, seed, Path(out), mutant, device)


def run(
    claim: Claim, claim_id: str, scale: str, seed: int, out: Path, mutant: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Run a claim that need not be a discovered one; see `run_claim`."""
    result: dict[str, Any] = dict.fromkeys(KEYS)
    result |= {"schema": SCHEMA, "id": claim_id, "mutant": mutant, "scale": scale, "seed": seed}
    result["images"] = folder_named()
    for name in ("statement", "source", "estimates", "reference", "bias", "disagreement", "refuted"):
        result[name] = " ".join(getattr(claim, name).split())
    result |= {"verdict": FAIL, "checks": [], "unnoticed": [], "conclusions": ""}
    figure, start = None, time.perf_counter()
    try:
        # One thread: products of small matrices gain nothing from more, and several round differently, so that
        # results would depend on the number of jobs.
        with threadpool_limits(1), kept_in(out / "stores", seed), devices.used(device, scale):
            data = claim.draw(scale, np.random.default_rng(seed_sequence(seed, claim_id)))
            outcome = claim.judge(data, claim.theory if mutant is None else claim.mutants[mutant])
            unnoticed = claim.unnoticed(data, outcome) if mutant is None else []
            figure = None if outcome.plot is None else _labelled(outcome.plot())
            result["versions"] = versions()
        result |= {"checks": [check.to_dict() for check in outcome.checks], "unnoticed": unnoticed}
        result |= {"verdict": outcome.verdict, "conclusions": _unwrapped(outcome.conclusions)}
    except Exception:
        # A claim that breaks must not take the others with it.
        result |= {"error": traceback.format_exc(limit=-3), "versions": versions()}
    result["seconds"] = round(time.perf_counter() - start, 3)
    result["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write(result, figure, out)
    return result


def ending(result: dict[str, Any]) -> str:
    """How a claim ended in words, the same on the terminal and on the page."""
    if result["error"]:
        return "broke"
    if result["verdict"] == INCONCLUSIVE:
        return INCONCLUSIVE
    refuted = result["refuted"] and result["mutant"] is None
    if result["verdict"] == FAIL:
        return KNOWN if refuted else "does not hold"
    if refuted:
        # What does not hold for images may hold for the digits that stand for them.
        return "holds, though known not to" if result["images"] else STOOD_IN
    return HOLDS


def write(result: dict[str, Any], figure: Any, out: Path) -> None:
    """Write figure and JSON so that a JSON file is never half there and never beside the figure of another run."""
    stem = file_stem(result["id"], result["mutant"])
    target = out / f"{stem}.json"
    # The old result goes first: an interruption between the two files then leaves no result, not a mixed one.
    target.unlink(missing_ok=True)
    if figure is not None:
        result["figure"] = f"{stem}.png"
        replace_file(out / result["figure"], lambda file: figure.savefig(file, format="png", dpi=120))
    else:
        (out / f"{stem}.png").unlink(missing_ok=True)
    text = json.dumps(_finite(result), indent=1, allow_nan=False)
    replace_file(target, lambda file: file.write(text.encode()))


def read(out: Path) -> list[dict[str, Any]]:
    """Results in a folder by id, those of mutants left out.

    Raises
    ------
    ValueError
        If a file is no result, or there is none at all.
    """
    results = []
    for path in sorted(out.glob("*.json")):
        try:
            result = json.loads(path.read_text())
            missing = set(KEYS) - set(result)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is no validation result: {error}") from None
        if missing:
            raise ValueError(f"{path} is no validation result: lacks {', '.join(sorted(missing))}")
        if result["mutant"] is None:
            results.append(result)
    if not results:
        raise ValueError(f"no results in {out}; `run` makes them")
    return results


def file_stem(claim_id: str, mutant: str | None) -> str:
    """Name of the files of a result."""
    return claim_id if mutant is None else f"{claim_id}--{re.sub(r'[^a-z0-9]+', '-', mutant.lower()).strip('-')}"


def versions() -> dict[str, str]:
    """What the numbers may depend on."""
    recorded = _version.versions("numpy", "scipy", "numba", "matplotlib") | {"machine": platform.machine()}
    if "torch" in sys.modules:  # a claim of networks
        recorded |= _version.versions("torch") | {"device": str(devices.device())}
    return recorded


def _labelled(figure: Figure) -> Figure:
    """The figure; an error where an axis does not say what it shows."""
    if not all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes):
        raise ValueError("every axis of a figure must have a label")
    return figure


def _unwrapped(text: str) -> str:
    """Paragraphs as single lines, separated by empty ones."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities, which JSON does not know, as None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
