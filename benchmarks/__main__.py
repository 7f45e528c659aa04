"""`python -m benchmarks [name ...]`: run them all, or the named ones; exit code 1 if one misses its criterion."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    names = [name.removeprefix("bench_").removesuffix(".py") for name in names]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    missed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        try:
            code = importlib.import_module(f"benchmarks.bench_{name}").main()
        except Exception:  # one benchmark that breaks must not hide the others
            traceback.print_exc()
            code = 1
        if code:
            missed.append(name)
        print(flush=True)
    print(f"missed: {', '.join(missed)}" if missed else "all criteria met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
