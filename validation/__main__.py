"""The command ``python -m validation``."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from joblib import Parallel, delayed
from joblib.externals.loky import process_executor

from validation import devices, examples
from validation.checks import FAIL, INCONCLUSIVE, PASS
from validation.claims import SCALES, discover, select
from validation.results import EXPECTED, HOLDS, ending, read, run_claim

DEFAULT_OUT = Path("results") / "validation"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with 2."""
        self.exit(2, f"validation: {message}\n")


def parser(prog: str = "python -m validation") -> argparse.ArgumentParser:
    """The arguments of the three commands."""
    main = Parser(prog=prog, description="Hold theorems, figures and tables against draws.")
    commands = main.add_subparsers(dest="command", required=True, metavar="list|run|report")
    listing = commands.add_parser("list", help="the claims and where they come from")
    listing.add_argument("ids", nargs="*", metavar="ID", help="claims or patterns like 'laws.*'; all by default")
    run = commands.add_parser("run", help="run claims, write results; exit code 1 where one does not end as it should")
    run.add_argument("ids", nargs="*", metavar="ID", help="claims or patterns like 'laws.*'; all by default")
    run.add_argument("--scale", choices=SCALES, default="smoke", help="smoke takes seconds a claim, full minutes")
    run.add_argument("--jobs", type=int, default=1, help="claims at a time; -1 for all cores")
    run.add_argument("--seed", type=int, default=0, help="results depend on it and on the claim alone")
    run.add_argument(
        "--device",
        help="of torch, for networks: cpu, cuda, cuda:1; at full scale cuda where there is one, else cpu by default",
    )
    run.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder for results, {DEFAULT_OUT} by default")
    run.add_argument(
        "--mutant", help="run one claim on a wrong formula of its list, which must fail; 'list ID' shows them"
    )
    report = commands.add_parser("report", help="one page from the results")
    report.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="folder of the results; the page is report.html there"
    )
    return main


def show(ids: list[str]) -> int:
    """Print claims: all briefly, or some in full."""
    for claim_id, claim in select(ids, discover()).items():
        print(claim_id)
        lines = [claim.statement, f"[{claim.source}]"]
        if ids:
            lines += [f"Estimated: {claim.estimates}", f"Reference: {claim.reference}", f"Bias: {claim.bias}"]
            lines += [f"Does not hold: {claim.refuted}"] if claim.refuted else []
            lines += [f"Disagreement: {claim.disagreement}"] if claim.disagreement else []
            lines += [f"Mutant: {name}" for name in claim.mutants]
        for line in lines:
            print(textwrap.fill(" ".join(line.split()), 100, initial_indent="    ", subsequent_indent="    "))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run claims and print a line each."""
    claims = select(arguments.ids, discover())
    if arguments.mutant is not None:
        if len(claims) != 1:
            raise ValueError(f"`--mutant` needs one claim; got {len(claims)}")
        ((only, claim),) = claims.items()
        if arguments.mutant not in claim.mutants:
            raise ValueError(
                f"`--mutant` of {only} must be one of {', '.join(map(repr, claim.mutants))}; got {arguments.mutant!r}"
            )
    if arguments.jobs == 0 or arguments.jobs < -1:
        raise ValueError(f"`--jobs` must be >= 1 or -1; got {arguments.jobs}")
    if arguments.seed < 0:
        raise ValueError(f"`--seed` must be >= 0; got {arguments.seed}")
    if arguments.device is not None:
        devices.check(arguments.device)
    examples.check_folder()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not os.access(arguments.out, os.W_OK):
        raise ValueError(f"`--out` must be writable; got {arguments.out}")
    # Several at a time go backwards: one of the longest has one of the last names, and other cores would wait for it.
    order = list(claims) if arguments.jobs == 1 else list(reversed(claims))
    tasks = (
        delayed(run_claim_here)(
            claim_id, arguments.scale, arguments.seed, arguments.out.resolve(), arguments.mutant, arguments.device
        )
        for claim_id in order
    )
    results = []
    for result in Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")(tasks):
        results.append(result)
        tell(result)
    counts = Counter(result["verdict"] for result in results)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (PASS, FAIL, INCONCLUSIVE))
    print(f"{len(results)} claims: {told}; {arguments.out}")
    for ends, count in Counter(map(ending, results)).items():
        if ends != HOLDS:
            print(f"{ends}: {count}")
    return 0 if all(map(as_expected, results)) else 1


def run_claim_here(*arguments: Any) -> dict[str, Any]:
    """Run a claim in a process that takes another one afterwards."""
    # What claims share, from torch to images, is no leak: at 300 MB loky would go on in a new process, seconds later.
    process_executor._MAX_MEMORY_LEAK_SIZE = 3 * 10**9
    return run_claim(*arguments)


def as_expected(result: dict[str, Any]) -> bool:
    """Whether a claim ends as it should, on draws that could have shown the opposite."""
    return ending(result) in EXPECTED and not result["unnoticed"]


def tell(result: dict[str, Any]) -> None:
    """One line for a claim, one for each check that did not pass, and what is known not to hold."""
    ends = ending(result)
    print(f"{result['verdict']:12} {result['id']:36} {result['seconds']:6.1f} s{'' if ends == HOLDS else f', {ends}'}")
    if result["error"]:
        print(f"    {result['error'].strip().splitlines()[-1]}")
    for check in result["checks"]:
        if check["verdict"] != PASS:
            print(f"    {check['verdict']}: {check['name']}: {check['summary']}")
    for name in result["unnoticed"]:
        print(f"    not rejected: {name}")
    if result["refuted"] and ends != "broke":
        print(f"    known: {result['refuted']}")
    sys.stdout.flush()


def report(out: Path) -> int:
    """Write the page."""
    try:
        from validation.report import write_report
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs the package {error.name}, which is not installed") from None

    print(f"Written to {write_report(read(out), out)}")
    return 0


def main(argv: list[str] | None = None, prog: str = "python -m validation") -> int:
    """Run the command; what a wrong argument raises is told in one line, exit code 2."""
    arguments = parser(prog).parse_args(argv)
    try:
        if arguments.command == "list":
            return show(arguments.ids)
        return run(arguments) if arguments.command == "run" else report(arguments.out)
    except (ValueError, OSError) as error:
        print(f"validation: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("validation: interrupted; claims that were done are kept, the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
