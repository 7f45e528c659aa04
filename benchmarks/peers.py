"""Runs a script against packages whose pins conflict with ours, in environments of their own.

Each set of requirements gets a virtual environment below ``.venv-peers`` (git-ignored), made at first use with pip and
reused after. The script prints one JSON object as its last line of output and finds a median timer ready.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent / ".venv-peers"

# numpy 1.26 has no wheels past Python 3.12 and scikit-rmt reads pkg_resources, which setuptools 81 dropped.
SCIKIT_RMT = ("scikit-rmt==2.1.1", "numpy==1.26.4", "scipy==1.12.0", "setuptools<81")
TRACY_WIDOM = ("TracyWidom==0.4.0", "numpy==1.26.4", "scipy==1.12.0")


class PeerError(RuntimeError):
    """The environment could not be made, or the script failed in it."""


def environment(requirements: tuple[str, ...], timeout: float = 600) -> Path:
    """The interpreter of an environment that holds `requirements`; made at first use."""
    name = hashlib.sha256("\n".join(sorted(requirements)).encode()).hexdigest()[:12]
    folder = ROOT / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / "ready").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise PeerError(f"no environment for {', '.join(requirements)}: {lines[-1] if lines else error}") from error
    (folder / "ready").write_text("\n".join(requirements) + "\n")
    return python


TIMER = """
import json, statistics, sys, time, warnings
warnings.simplefilter("ignore")
def median_time(function, repeats=7, calls=1):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)
"""


def run_peer(script: str, requirements: tuple[str, ...], timeout: float = 300) -> dict[str, Any]:
    """Run `script` in an environment with `requirements` and return the JSON object it prints last.

    The script finds `median_time(function, repeats=7, calls=1)` (seconds per call), `json`, `sys` and `time` defined.
    Raises PeerError, saying why, where the environment or the script fails.
    """
    python = environment(requirements)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [str(python), "-c", TIMER + script],
            check=True,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=clean,
        )
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise PeerError(f"the peer's script failed: {lines[-1] if lines else error}") from error
    except (OSError, subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as error:
        raise PeerError(f"the peer's script gave no result: {error}") from error
    if not isinstance(result, dict):
        raise PeerError(f"the peer's script must print a JSON object last; got {result!r}")
    return result


if __name__ == "__main__":
    for needed in (SCIKIT_RMT, TRACY_WIDOM):
        print(environment(needed), file=sys.stderr)
