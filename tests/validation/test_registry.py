"""The command as a user runs it, and the files that it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from validation import Check, Claim, Outcome
from validation.__main__ import main
from validation.claims import discover
from validation.figures import panels
from validation.report import write_report
from validation.results import KEYS, read, run

ROOT = Path(__file__).parents[2]
CLAIM = "laws.random_energy_freezing"
OTHER = "laws.marchenko_pastur_atom"


def command(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, "-m", "validation", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, **options,
    )  # fmt: skip


def numbers(path):
    result = json.loads(path.read_text())
    return [check["estimate"] for check in result["checks"]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One claim run alone through the entry point."""
    out = tmp_path_factory.mktemp("alone")
    return out, command("run", CLAIM, "--out", out)


def test_list_shows_every_claim(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(claim_id in shown for claim_id in discover())
    assert main(["list", CLAIM]) == 0
    shown = capsys.readouterr().out
    assert "Mutant: sigma^2 as inverse temperature" in shown
    assert "Disagreement:" in shown


def test_run_writes_result_and_figure(ran):
    out, done = ran
    assert done.returncode == 0, done.stderr
    assert CLAIM in done.stdout
    assert sorted(p.name for p in out.iterdir()) == [f"{CLAIM}.json", f"{CLAIM}.png"]
    assert (out / f"{CLAIM}.png").read_bytes().startswith(b"\x89PNG")


def test_result_holds_all_that_is_needed(ran):
    result = json.loads((ran[0] / f"{CLAIM}.json").read_text())
    assert tuple(result) == KEYS
    assert (result["id"], result["scale"], result["seed"], result["verdict"]) == (CLAIM, "smoke", 0, "pass")
    assert (result["mutant"], result["error"]) == (None, None)
    assert result["seconds"] > 0
    assert {"rmtland", "numpy", "scipy", "python"} <= set(result["versions"])
    for check in result["checks"]:
        assert {"name", "verdict", "estimate", "standard_error", "expected", "bias", "allowed", "detect"} <= set(check)
    assert str(ROOT) not in json.dumps(result)


@pytest.mark.slow
def test_numbers_depend_neither_on_company_nor_on_jobs(ran, tmp_path):
    done = command("run", OTHER, CLAIM, "--jobs", 2, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert numbers(tmp_path / f"{CLAIM}.json") == numbers(ran[0] / f"{CLAIM}.json")


@pytest.mark.slow
def test_numbers_depend_on_the_seed(ran, tmp_path):
    assert main(["run", CLAIM, "--seed", "1", "--out", str(tmp_path)]) == 0
    assert numbers(tmp_path / f"{CLAIM}.json") != numbers(ran[0] / f"{CLAIM}.json")


def test_a_failing_claim_gives_exit_code_1_and_says_what_failed(tmp_path, capsys, blank_figures):
    assert main(["run", CLAIM, "--mutant", "sigma^2 as inverse temperature", "--out", str(tmp_path)]) == 1
    assert "fail: draws against quadrature" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    assert path.name == f"{CLAIM}--sigma-2-as-inverse-temperature.json"
    # The report is of claims, not of mutants.
    with pytest.raises(ValueError, match="no results in"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "nothing"], "no claim `nothing`"),
        (["run", CLAIM, "--jobs", "0"], "`--jobs` must be >= 1 or -1; got 0"),
        (["run", CLAIM, "--seed", "-1"], "`--seed` must be >= 0; got -1"),
        (["run", CLAIM, "--scale", "huge"], "invalid choice: 'huge'"),
        (["run", CLAIM, "--mutant", "none such"], "`--mutant` of laws.random_energy_freezing must be one of"),
        (["run", "--mutant", "x"], "`--mutant` needs one claim"),
        (["run", CLAIM, "--out", "README.md"], "README.md"),
        (["report", "--out", "nowhere"], "no results in nowhere"),
        ([], "required"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments, message, capsys):
    try:
        code = main(arguments)
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_unknown_ids_leave_with_2_and_without_traceback():
    done = command("run", "laws.bbp_locaton")
    assert done.returncode == 2
    assert done.stderr.startswith("validation: no claim `laws.bbp_locaton`; did you mean laws.bbp_location")
    assert done.stderr.count("\n") == 1


def test_report_is_one_page_with_its_figures(ran):
    out = ran[0]
    assert main(["report", "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert CLAIM in page
    assert "data:image/png;base64," in page
    assert "Disagreement:" in page
    assert "http" not in page.replace("http-equiv", "")


def test_report_refuses_other_files(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x.json is no validation result: lacks"):
        read(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x.json is no validation result"):
        read(tmp_path)


def made(judge, plot=True):
    """A claim of one line."""

    def draw():
        figure, (ax,) = panels(1, "figure")
        ax.set(xlabel="x", ylabel="y")
        return figure

    def outcome(data, theory):
        return Outcome([judge()], "x &lt; y", draw if plot else None)

    return Claim("A <b>bold</b> claim", "Nobody (2026)", "e", "r", "b", lambda scale, rng: None, outcome, None, {})


def test_report_shows_failures_tables_and_claims_that_broke(tmp_path):
    table = Check("table", [[1.0, 2.0], [3.0, np.nan]], 0.1, 1.0, detect=5.0, sizes=[10, 20])
    run(made(lambda: table), "a.table", "smoke", 0, tmp_path)
    broken = run(made(lambda: 1 / 0), "a.broken", "smoke", 0, tmp_path)
    assert broken["verdict"] == "fail"
    assert "ZeroDivisionError" in broken["error"]
    page = write_report(read(tmp_path), tmp_path).read_text()
    assert "ZeroDivisionError" in page
    assert "<b>bold</b>" not in page, "text is escaped"
    assert ">20</td>" in page


def test_report_shows_rows_of_several_sizes(tmp_path):
    """As of the claim on a grid of (sigma_z, SNR); a page of it could not be written."""
    pairs = [[2.5, 10], [20, 0.25]]
    tables = [Check("grid", estimate, 0.1, 1.0, detect=5.0, sizes=pairs) for estimate in ([1, 2], [[1, 2], [3, 4]])]
    for number, table in enumerate(tables):
        run(made(lambda table=table: table), f"a.grid_{number}", "smoke", 0, tmp_path)
    page = write_report(read(tmp_path), tmp_path).read_text()
    assert page.count(">2.5, 10</td>") == page.count(">20, 0.25</td>") == 2


def test_report_shows_names_in_place_of_sizes(tmp_path):
    """As of the claim on kinds of networks; a page of it could not be written."""
    run(made(lambda: Check("c", [1.0, 1.0], 0.1, 1.0, detect=5.0, sizes=["MLP", "CNN"])), "a.b", "smoke", 0, tmp_path)
    page = write_report(read(tmp_path), tmp_path).read_text()
    assert ">MLP</td>" in page
    assert ">CNN</td>" in page


def test_new_results_replace_old_ones_with_their_figures(tmp_path):
    run(made(lambda: Check("c", 1, 0, 1)), "a.b", "smoke", 0, tmp_path)
    assert (tmp_path / "a.b.png").exists()
    run(made(lambda: Check("c", 1, 0, 2), plot=False), "a.b", "smoke", 0, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.b.json"]
    assert read(tmp_path)[0]["verdict"] == "fail"


@pytest.mark.slow
def test_interrupted_runs_keep_whole_results_only(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "validation", "run", CLAIM, "laws.bbp_transition", "--out", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # The quick claim is done and the slow one at work: claims run in the order of their ids, so wait for its line.
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in errors
    assert not list(tmp_path.glob(".*")), "nothing half-written"
    for path in tmp_path.glob("*.json"):
        assert set(json.loads(path.read_text())) == set(KEYS)
