"""Exit code 0 where every claim ends as it should: it passes, or fails as it is known to, and its mutants fail."""

import pytest

from validation import Check, Claim, Outcome
from validation import __main__ as command
from validation.figures import panels
from validation.report import write_report
from validation.results import read, run


def claim(estimate, refuted="", mutants=(), standard_error=0):
    """Passes if the estimate is 1, breaks if it is 0. Mutants are pairs of what their two checks expect."""

    def judge(data, expected):
        first = Check("first", 1 / estimate and estimate, standard_error, expected[0], detect=1)
        return Outcome([first, Check("second", 0, 0, expected[1])], "t")

    named = {f"<{mutant}>": mutant for mutant in mutants}
    return Claim("S", "Nobody (2026)", "e", "r", "b", lambda scale, rng: None, judge, (1, 0), named, refuted=refuted)


def code(made, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "discover", lambda: {"a.b": made})
    monkeypatch.setattr(command, "run_claim", lambda name, *rest: run(made, name, *rest))
    return command.main(["run", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("estimate", "refuted", "expected"), [(2, "it is two", 0), (2, "", 1), (1, "", 0), (0, "", 1), (0, "it is two", 1)]
)
def test_what_fails_must_be_known_to(estimate, refuted, expected, tmp_path, monkeypatch, capsys):
    assert code(claim(estimate, refuted), tmp_path, monkeypatch) == expected
    told = capsys.readouterr().out
    assert (
        ("does not hold, as is known: 1\n" in told)
        == ("    known: it is two" in told)
        == (estimate == 2 and not expected)
    )
    assert ("broke: 1\n" in told) == (estimate == 0)
    assert command.main(["list", "a.b"]) == 0
    assert ("Does not hold: it is two" in capsys.readouterr().out) == bool(refuted)


@pytest.mark.parametrize(("named", "expected"), [(True, 1), (False, 0)])
def test_what_is_known_to_fail_must_not_pass_on_the_data_that_it_is_said_of(
    named, expected, tmp_path, tmp_path_factory, monkeypatch, capsys
):
    monkeypatch.setenv("RMTLAND_DATA", str(tmp_path_factory.mktemp("data")) if named else "")
    assert code(claim(1, "it is two"), tmp_path, monkeypatch) == expected
    ends = "holds, though known not to" if named else "holds on the digits that stand for images"
    told = capsys.readouterr().out
    assert f"{ends}: 1\n" in told
    assert "known: it is two" in told
    page = write_report(read(tmp_path), tmp_path).read_text()
    assert f"</a> {ends}: it is two" in page
    assert "does not hold" not in page


def test_what_could_not_have_failed_does_not_pass(tmp_path, monkeypatch, capsys):
    assert code(claim(1, standard_error=1), tmp_path, monkeypatch) == 1
    assert "1 inconclusive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("estimate", "mutants", "unnoticed"),
    [
        (1, [(2, 0), (1, 1)], []),
        (1, [(2, 0), (1, 0)], ["<(1, 0)>"]),
        (2, [(3, 0), (1, 1)], ["<(3, 0)>"]),  # the claim fails by this check itself: a mutant must by another one
    ],
)
def test_mutants_fail_on_the_same_draws(estimate, mutants, unnoticed, tmp_path, monkeypatch, capsys):
    made = claim(estimate, "it is two" if estimate == 2 else "", mutants)
    assert code(made, tmp_path, monkeypatch) == bool(unnoticed)
    printed, page = capsys.readouterr().out, write_report(read(tmp_path), tmp_path).read_text()
    assert read(tmp_path)[0]["unnoticed"] == unnoticed
    assert [line.strip() for line in printed.splitlines() if "not rejected" in line] == [
        f"not rejected: {name}" for name in unnoticed
    ]
    assert ("do not reject: &lt;" in page) == bool(unnoticed)


def test_a_figure_says_what_its_axes_are(tmp_path):
    def plot():
        return panels(1, "figure")[0]

    made = Claim("s", "s", "e", "r", "b", lambda scale, rng: None, lambda d, t: Outcome([], "", plot), None, {})
    result = run(made, "a.b", "smoke", 0, tmp_path)
    assert result["verdict"] == "fail"
    assert "every axis of a figure must have a label" in result["error"]


def test_the_page_says_what_does_not_hold(tmp_path):
    run(claim(2, "it is <two>"), "a.b", "smoke", 0, tmp_path)
    run(claim(1), "a.c", "smoke", 0, tmp_path)
    run(claim(3), "a.d", "smoke", 0, tmp_path)
    page = write_report(read(tmp_path), tmp_path).read_text()
    listed = page.partition("What does not simply hold")[2].partition("</ul>")[0]
    assert "a.b</a> does not hold, as is known: it is &lt;two&gt;" in listed
    assert "a.d</a> does not hold</li>" in listed
    assert "a.c" not in listed
    assert "Known not to hold: it is &lt;two&gt;" in page
