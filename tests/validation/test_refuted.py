"""A claim that does not hold: told as such, and no reason for exit code 1, unless it broke."""

import pytest

from validation import Check, Claim, Outcome
from validation import __main__ as command
from validation.report import write_report
from validation.results import read, run


def claim(estimate, refuted):
    def judge(data, theory):
        return Outcome([Check("c", 1 / estimate and estimate, 0, 1)], "t")

    return Claim("s", "Nobody (2026)", "e", "r", "b", lambda scale, rng: None, judge, None, {}, refuted=refuted)


@pytest.mark.parametrize(
    ("estimate", "refuted", "code"), [(2, "it is two", 0), (2, "", 1), (1, "it is two", 0), (0, "it is two", 1)]
)
def test_exit_codes(estimate, refuted, code, tmp_path, monkeypatch, capsys):
    made = claim(estimate, refuted)
    monkeypatch.setattr(command, "discover", lambda: {"a.b": made})
    monkeypatch.setattr(command, "run_claim", lambda name, *rest: run(made, name, *rest))
    assert command.main(["run", "--out", str(tmp_path)]) == code
    assert ("known to" in capsys.readouterr().out) == (estimate == 2 and code == 0)
    assert command.main(["list", "a.b"]) == 0
    assert ("Does not hold: it is two" in capsys.readouterr().out) == bool(refuted)


def test_the_page_says_it(tmp_path):
    run(claim(2, "it is <two>"), "a.b", "smoke", 0, tmp_path)
    page = write_report(read(tmp_path), tmp_path).read_text()
    assert "What does not hold" in page
    assert "it is &lt;two&gt;" in page
