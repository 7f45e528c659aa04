"""One page of all results: self-contained HTML with the figures inside."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from rmtland._files import replace_text
from validation.checks import FAIL, INCONCLUSIVE, PASS
from validation.results import HOLDS, ending

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(results: list[dict[str, Any]], out: Path) -> Path:
    """Write report.html from results and the figures beside them.

    Parameters
    ----------
    results : list of dict
        As `validation.results.read` gives them.
    out : Path
        Folder of the results and of the page.

    Returns
    -------
    Path
        The page.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    template = environment.from_string(TEMPLATE.read_text())
    figures = {r["id"]: base64.b64encode((out / r["figure"]).read_bytes()).decode() for r in results if r["figure"]}
    page = template.render(
        results=results,
        figures=figures,
        counts={verdict: sum(r["verdict"] == verdict for r in results) for verdict in (PASS, FAIL, INCONCLUSIVE)},
        others=[r for r in results if ending(r) != HOLDS],
        ending=ending,
        disagreements=[r for r in results if r["disagreement"]],
        seconds=sum(r["seconds"] for r in results),
        rows=_rows,
    )
    target = out / "report.html"
    replace_text(target, page)
    return target


def _rows(check: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers of a check, one row each; of tables one row for each size, the number nearest to failing."""
    fields = ("estimate", "standard_error", "expected", "bias", "allowed", "detect", "error")
    if not isinstance(check["estimate"], list):
        return [{"size": None, **{name: check[name] for name in fields}}]
    rows = []
    for i, first in enumerate(check["estimate"]):
        size = check["sizes"][i] if check["sizes"] else None
        if not isinstance(first, list):
            rows.append({"size": size, **{name: check[name][i] for name in fields}})
            continue
        used = [_used(e, a) for e, a in zip(check["error"][i], check["allowed"][i], strict=True)]
        j = used.index(max(used))
        rows.append({"size": size, **{name: check[name][i][j] for name in fields}})
    return rows


def _used(error: float | None, allowed: float | None) -> float:
    """Share of what is allowed that an error uses; None, which was no number, uses more than any."""
    if error is None or allowed is None:
        return float("inf")
    return abs(error) / allowed if allowed else float(error != 0)


def _number(value: float | str | list[Any] | None) -> str:
    """Four digits; a hyphen for what was no finite number; several with commas; names of sizes as they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return "-" if value is None else f"{value:.4g}"
