import numpy as np
import pytest

from rmtland import _arguments as arguments


def test_real_states_range_and_value():
    assert arguments.real("ratio", 2, above=0) == 2.0
    with pytest.raises(ValueError, match=r"`ratio` must be > 0; got -0.5"):
        arguments.real("ratio", -0.5, above=0)
    with pytest.raises(ValueError, match=r"`q` must be >= 0 and <= 1; got nan"):
        arguments.real("q", float("nan"), at_least=0, at_most=1)
    with pytest.raises(ValueError, match=r"`x` must be finite; got inf"):
        arguments.real("x", float("inf"))
    for wrong in (True, "1", None, [1, 2]):
        with pytest.raises(TypeError, match="`ratio` must be a real number"):
            arguments.real("ratio", wrong, above=0)


def test_integer_refuses_floats():
    assert arguments.integer("n", np.int32(3), at_least=1) == 3
    with pytest.raises(ValueError, match=r"`n` must be >= 1; got 0"):
        arguments.integer("n", 0, at_least=1)
    with pytest.raises(ValueError, match=r"`n` must be >= 1 and <= 4; got 5"):
        arguments.integer("n", 5, at_least=1, at_most=4)
    for wrong in (2.0, "2", True, None):
        with pytest.raises(TypeError, match="`n` must be an integer"):
            arguments.integer("n", wrong)


def test_finite_array():
    assert arguments.finite_array("x", [1, 2], ndim=1).dtype == np.float64
    with pytest.raises(ValueError, match=r"`x` must be finite; got 1 NaN or infinite of 2"):
        arguments.finite_array("x", [1, np.nan])
    with pytest.raises(ValueError, match=r"`x` must have 2 dimensions; got shape \(2,\)"):
        arguments.finite_array("x", [1, 2], ndim=2)
    with pytest.raises(TypeError, match="`x` must be an array of real numbers; got str"):
        arguments.finite_array("x", "abc")


def test_choice():
    assert arguments.choice("beta", 2, (1, 2, 4)) == 2
    with pytest.raises(ValueError, match="`beta` must be one of 1, 2, 4; got 3"):
        arguments.choice("beta", 3, (1, 2, 4))


def test_paths(tmp_path):
    assert arguments.path("out", b"a/b") == arguments.path("out", "a/b")
    with pytest.raises(TypeError, match="`out` must be a path; got 3.0"):
        arguments.path("out", 3.0)
    for wrong in ("", "a\0b"):
        with pytest.raises(ValueError, match="`out` must be a path; got"):
            arguments.path("out", wrong)


def test_children_do_not_depend_on_how_many_follow():
    few = [child.random() for child in arguments.spawn(7, 3)]
    many = [child.random() for child in arguments.spawn(7, 9)]
    assert few == many[:3]
    assert few == [child.random() for child in np.random.default_rng(7).spawn(3)]


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, np.random.PCG64, np.random.MT19937])
def test_children_of_what_has_a_state_come_from_its_stream(make):
    def firsts(rng):
        return [child.random() for child in arguments.spawn(rng, 2)]

    rng = make(5)
    first = firsts(rng)
    assert firsts(rng) != first
    assert firsts(make(5)) == first
    assert len({*first, *firsts(make(6)), *firsts(5)}) == 6
    assert arguments.generator(make(5)).random() == arguments.generator(make(5)).random()


def test_seeds_as_texts():
    assert arguments.told_seed(arguments.seed_sequence(0)) == "0"
    parent = np.random.SeedSequence(3, spawn_key=(1,))
    parent.spawn(2)
    told = arguments.told_seed(arguments.seed_sequence(parent))
    again = eval(told, {"SeedSequence": np.random.SeedSequence})
    assert again.spawn(1)[0].generate_state(2).tolist() == parent.spawn(1)[0].generate_state(2).tolist()
    for rng in (None, np.random.default_rng(4), np.random.RandomState(4)):
        seeds = arguments.seed_sequence(rng)
        again = arguments.seed_sequence(int(arguments.told_seed(seeds)))
        assert again.generate_state(2).tolist() == seeds.generate_state(2).tolist()


@pytest.mark.parametrize(
    "function", [arguments.generator, arguments.seed_sequence, lambda rng: arguments.spawn(rng, 1)]
)
def test_what_is_no_seed_is_named(function):
    for wrong in ("seed", 3.5, True, [1.5], object()):
        with pytest.raises(TypeError, match="`rng` must be something numpy.random.default_rng takes; got"):
            function(wrong)
    for wrong in (-3, [1, -2], np.int64(-1)):
        with pytest.raises(ValueError, match="`rng` must be >= 0, as all seeds; got"):
            function(wrong)


def test_memory_error_says_how_much_and_what_instead():
    with pytest.raises(MemoryError, match=r"the matrix needs 9.09e\+08 GiB and .* GiB are free; use `x` instead"):
        arguments.require_memory("the matrix", 9.76e17, "use `x`")
    arguments.require_memory("the matrix", 8, "use `x`")


def machine(folder, monkeypatch, cgroup, files):
    """A machine with 64 GiB, and these control groups."""
    monkeypatch.setattr(arguments, "PROC", folder / "proc")
    monkeypatch.setattr(arguments, "CGROUPS", folder / "cgroup")
    files = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 67108864 kB\n", "proc/self/cgroup": cgroup} | files
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return arguments.available_memory() / 2**30


GIB = 2**30
STAT = f"anon 5\ninactive_file {GIB}\nactive_file 7\n"


def test_memory_of_the_second_control_groups(tmp_path, monkeypatch):
    """As of a SLURM job: the limit is the job's, above the step's."""
    files = {
        "cgroup/slurm/memory.max": "max", "cgroup/slurm/memory.current": "1", "cgroup/slurm/memory.stat": STAT,
        "cgroup/slurm/job/memory.max": f"{8 * GIB}", "cgroup/slurm/job/memory.current": f"{3 * GIB}",
        "cgroup/slurm/job/memory.stat": STAT, "cgroup/slurm/job/step/memory.max": "max",
        "cgroup/slurm/job/step/memory.current": "9", "cgroup/slurm/job/step/memory.stat": STAT,
    }  # fmt: skip
    assert machine(tmp_path, monkeypatch, "0::/slurm/job/step\n", files) == 8 - 3 + 1
    with pytest.raises(MemoryError, match="the matrix needs 6 GiB and 6 GiB are free; use `x` instead"):
        arguments.require_memory("the matrix", 6 * GIB, "use `x`")


def test_memory_of_the_first_control_groups_in_a_container(tmp_path, monkeypatch):
    """The group's own path is out of sight there; other controllers do not count."""
    files = {
        "cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}", "cgroup/memory/memory.usage_in_bytes": f"{2 * GIB}",
        "cgroup/memory/memory.stat": f"total_inactive_file {GIB}\n", "cgroup/memory.max": "1",
    }  # fmt: skip
    told = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n"
    assert machine(tmp_path, monkeypatch, told, files) == 3


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), "nonsense"])
def test_memory_without_a_limit_is_the_machines(tmp_path, monkeypatch, limit):
    files = {"cgroup/memory.max": limit, "cgroup/memory.current": "5", "cgroup/memory.stat": STAT}
    assert machine(tmp_path, monkeypatch, "0::/\n", files) == 64
    (tmp_path / "proc/self/cgroup").unlink()
    assert arguments.available_memory() == 64 * GIB
    (tmp_path / "cgroup/memory.max").write_text("1")
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "cgroup/memory.current").write_text(f"{9 * GIB}")
    assert arguments.available_memory() == 0
    (tmp_path / "proc/meminfo").unlink()
    (tmp_path / "proc/self/cgroup").unlink()
    assert arguments.available_memory() > GIB // 2
