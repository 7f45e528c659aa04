"""The main job as a user starts it: `rmtland compare` on the digits, under 90 s on two cores at rest."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import criterion

LIMIT = 90.0


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report"
        start = time.perf_counter()
        subprocess.run(
            [Path(sys.executable).parent / "rmtland", "compare", "--out", out], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - start
        stages = json.loads((out / "comparison.json").read_text())["stages"]
    accuracies = [stage["outputs"]["accuracy"] for stage in stages.values()]
    assert accuracies[0] < 0.3, accuracies
    assert accuracies[-1] > 0.98, accuracies
    tops = [stage["rungs"]["hessian"]["quantities"]["top_eigenvalue"]["mean"] for stage in stages.values()]
    assert tops[1] > max(tops[0], tops[2]), f"the top eigenvalue should rise and fall; got {tops}"
    return 0 if criterion("seconds for `rmtland compare` on the digits", seconds, at_most=LIMIT) else 1


if __name__ == "__main__":
    raise SystemExit(main())
