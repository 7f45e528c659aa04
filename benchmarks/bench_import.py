"""`import rmtland` is quick and loads nothing heavy."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.timing import criterion

PROBE = """
import json, sys, time
start = time.perf_counter()
import rmtland
print(json.dumps({"seconds": time.perf_counter() - start, "loaded": sorted(sys.modules)}))
"""
HEAVY = {"torch", "matplotlib", "numba", "scipy", "xarray", "dask"}


def main() -> int:
    runs = []
    for _ in range(7):
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    loaded = HEAVY & set(runs[0]["loaded"])
    assert not loaded, f"import rmtland loads {loaded}"
    seconds = statistics.median(run["seconds"] for run in runs)
    return 0 if criterion("seconds for `import rmtland` in a fresh process", seconds, at_most=0.3) else 1


if __name__ == "__main__":
    sys.exit(main())
