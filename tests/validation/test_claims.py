"""What claims say and how they are found; `make validate` runs them all, and all their mutants on the same draws."""

import pytest

from validation import UnknownClaim, discover, select
from validation.__main__ import as_expected
from validation.claims import seed_sequence
from validation.figures import panels
from validation.results import run_claim

pytestmark = pytest.mark.usefixtures("blank_figures")
CLAIMS = discover()
QUICK = ("laws.random_energy_freezing", "laws.marchenko_pastur_atom", "papyan.parallel_means")
"""The last on networks. What the judgements of the dearest ones see is tested in test_judgements.py."""


@pytest.mark.parametrize("claim_id", QUICK)
def test_quick_claims_hold_and_their_mutants_do_not(claim_id, tmp_path):
    result = run_claim(claim_id, "smoke", 0, tmp_path)
    assert as_expected(result), (result["error"], result["checks"], result["unnoticed"])
    assert result["conclusions"]


@pytest.mark.parametrize(
    "claim_id",
    [
        "ladder.measured_law",
        *(pytest.param(f"ladder.{name}", marks=pytest.mark.slow) for name in ("side_by_side", "unfrozen_law")),
    ],
)
def test_laws_of_networks_hold_on_a_tiny_one_and_their_mutants_do_not(claim_id, tmp_path):
    # Seconds of training: whether it passes says nothing, but mutants are rejected.
    result = run_claim(claim_id, "tiny", 0, tmp_path)
    assert not result["error"]
    assert result["unnoticed"] == []


@pytest.mark.parametrize("claim_id", CLAIMS)
def test_claims_say_what_they_are(claim_id):
    claim = CLAIMS[claim_id]
    for field in ("statement", "source", "estimates", "reference", "bias"):
        assert len(getattr(claim, field)) > 10, field
    assert any(character.isdigit() for character in claim.source), "a source has a year"
    assert claim.mutants


def test_first_entries_are_there():
    assert {
        "laws.marchenko_pastur_bulk", "laws.marchenko_pastur_atom", "laws.bbp_location", "laws.bbp_overlap",
        "laws.bbp_fluctuation", "laws.bbp_transition", "laws.left_outliers", "laws.tracy_widom_goe",
        "laws.tracy_widom_wishart", "laws.wigner_spikes", "laws.random_energy_freezing", "sagun.theorem_1",
        "sagun.theorem_2", "sagun.example_1",
    } <= set(CLAIMS)  # fmt: skip


def test_select_takes_ids_patterns_and_all():
    assert select([], CLAIMS) == CLAIMS
    assert list(select(["sagun.theorem_1"], CLAIMS)) == ["sagun.theorem_1"]
    assert {c.partition(".")[0] for c in select(["sagun.*"], CLAIMS)} == {"sagun"}


@pytest.mark.parametrize("wrong", ["laws.bbp_locaton", "bbp_location"])
def test_unknown_ids_name_their_neighbours(wrong):
    with pytest.raises(UnknownClaim, match=f"no claim `{wrong}`; did you mean .*laws.bbp_location"):
        select([wrong], CLAIMS)


def test_ids_like_none_at_all_point_to_the_list():
    with pytest.raises(UnknownClaim, match="`list` shows all"):
        select(["zzzz"], CLAIMS)


def test_seeds_depend_on_run_and_id_alone():
    states = {(s, c): tuple(seed_sequence(s, c).generate_state(4)) for s in (0, 1) for c in ("a.b", "a.c")}
    assert len(set(states.values())) == 4
    assert states[0, "a.b"] == tuple(seed_sequence(0, "a.b").generate_state(4))


def test_discovery_finds_files_by_themselves_and_refuses_files_without_claim(tmp_path, monkeypatch):
    wing = tmp_path / "found_validation" / "wing"
    wing.mkdir(parents=True)
    (wing.parent / "__init__.py").touch()
    (wing / "__init__.py").touch()
    (wing / "_helper.py").write_text("")
    (wing / "one.py").write_text(
        "from validation import Claim, Outcome\n"
        "CLAIM = Claim('s', 's', 'e', 'r', 'b', lambda scale, rng: 1, lambda data, theory: Outcome([], ''), None, {})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import found_validation

    assert list(discover(found_validation)) == ["wing.one"]
    (wing / "two.py").write_text("")
    from validation.claims import _discover

    _discover.cache_clear()
    with pytest.raises(TypeError, match=r"two.py in `wing` must define CLAIM"):
        discover(found_validation)


def test_figures_leave_nothing_in_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    panels(2, "a", "b")
    assert plt.get_fignums() == before
