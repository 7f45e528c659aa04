import re
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from rmtland import _arguments as arguments
from rmtland._arguments import shown

torch = pytest.importorskip("torch")


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
    for right in ([], range(3), [Fraction(1, 2), 3], [Decimal("0.5")], np.ma.array([1.0], mask=[False]), 5):
        assert arguments.finite_array("x", right).dtype == np.float64
    array = np.arange(3.0)
    assert np.shares_memory(arguments.finite_array("x", array), array)
    with pytest.raises(ValueError, match="`x` must be finite; got 1 NaN or infinite of 2"):
        arguments.finite_array("x", [1, 1e300], dtype=np.float32)


def named(value):
    """The value, without an address: a test has the same name in every process."""
    return shown(value).partition(" object at ")[0]


@pytest.mark.parametrize(
    "wrong",
    [
        [1 + 2j], np.array([1j]), np.array([1 + 0j]), [True, False], np.array([True]), ["1", "2"], [b"1"],
        np.array(["2026-01-01"], dtype="datetime64[D]"), np.array([3], dtype="timedelta64[s]"), [1.0, "2"], [1, None],
        np.array([1, True], dtype=object), np.array([1, 1j], dtype=object), [[1], [2, 3]], {"a": 1}, object(),
        np.array([(1, 2.0)], dtype="i4,f8"), [datetime(2026, 1, 1)],
    ],
    ids=named,
)  # fmt: skip
def test_what_is_no_array_of_real_numbers(wrong):
    """NumPy makes numbers of most of them: half of the complex ones, 1 of True, 1 of "1", days since 1970."""
    with pytest.raises(TypeError, match="`x` must be an array of real numbers; got"):
        arguments.finite_array("x", wrong)


def test_the_kind_of_array_is_told():
    for wrong, told in ((np.array([1j]), "ndarray of complex128"), (["1"], "list of <U1"), (object(), "object")):
        with pytest.raises(TypeError, match=re.escape(f"got {told}") + "$"):
            arguments.finite_array("x", wrong)


def test_masks_are_not_lost():
    with pytest.raises(ValueError, match="`x` must have no masked entries; got 1 of 3: fill or drop them"):
        arguments.finite_array("x", np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]))


@pytest.mark.parametrize("value", [10**400, [10**400], -(10**5000), [1, 10**5000]], ids=named)
def test_integers_beyond_float64(value):
    function = arguments.finite_array if isinstance(value, list) else arguments.real
    with pytest.raises(ValueError, match="`x` must be finite; got .{1,80}$"):
        function("x", value)


@pytest.mark.parametrize(
    "wrong",
    [
        1j, np.complex128(1 + 0j), np.datetime64("2026-01-01"), np.timedelta64(3, "s"), np.array([1.0]), b"1",
        np.bool_(1), np.ma.masked, np.array(True), datetime(2026, 1, 1), {}, np.array("1"),
        torch.tensor(True), torch.tensor([1.0]),
        torch.tensor(1j),
    ],
    ids=named,
)  # fmt: skip
def test_what_is_no_real_number(wrong):
    with pytest.raises(TypeError, match="`x` must be a real number; got"):
        arguments.real("x", wrong)


def test_what_is_a_real_number():
    for right in (Fraction(1, 2), Decimal("0.5"), np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        assert arguments.real("x", right) == 0.5


def test_integers_are_bounded_unless_told():
    for wrong in (2**63, -(2**63), 10**400, 10**5000):
        with pytest.raises(ValueError, match=r"`n` must be at most 2\^63 - 1 in size; got .{1,80}$"):
            arguments.integer("n", wrong)
        assert arguments.integer("seed", wrong, unbounded=True) == wrong
    assert arguments.integer("n", 10**30, at_most=10**100) == 10**30
    for wrong in (np.array(True), torch.tensor(True), np.array([1]), [1]):
        with pytest.raises(TypeError, match="`n` must be an integer; got"):
            arguments.integer("n", wrong)
    assert arguments.integer("n", torch.tensor(3)) == arguments.integer("n", np.array(3)) == 3


def test_choice():
    assert arguments.choice("beta", 2, (1, 2, 4)) == 2
    with pytest.raises(ValueError, match="`beta` must be one of 1, 2, 4; got 3"):
        arguments.choice("beta", 3, (1, 2, 4))
    for wrong in (np.array([1, 2]), [1], None):
        with pytest.raises(ValueError, match="`beta` must be one of 1, 2, 4; got"):
            arguments.choice("beta", wrong, (1, 2, 4))


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
    made = arguments.seed_sequence(np.random.default_rng(5))
    assert made.entropy == int.from_bytes(np.random.default_rng(5).bytes(16), "little")  # 128 bits, as NumPy takes
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


def test_a_mebibyte_is_granted_unseen(monkeypatch):
    """Small draws by the thousand would mostly read what is left; one byte more is looked at."""
    monkeypatch.setattr(arguments, "available_memory", lambda: 0)
    arguments.require_memory("the matrix", 2**20, "use `x`")
    with pytest.raises(MemoryError, match="the matrix needs 0.000977 GiB and 0 GiB are free"):
        arguments.require_memory("the matrix", 2**20 + 1, "use `x`")


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


def test_more_streams_than_memory():
    with pytest.raises(
        MemoryError, match=r"1000000000000 random streams needs .* GiB are free; take fewer `num_draws`"
    ):
        arguments.spawn(0, 10**12)


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


def test_long_values_are_cut_to_what_is_asked_for():
    assert shown("x" * 78) == repr("x" * 78)
    assert shown("x" * 79) == repr("x" * 79)[:77] + "..."
    assert [shown(12345, most) for most in (4, 5, 6)] == ["1...", "12345", "12345"]


def test_functions_lists_and_kinds():
    assert arguments.function("after", len) is len
    assert arguments.function("after", None, optional=True) is None
    assert arguments.several("steps", range(3)) == (0, 1, 2)
    assert arguments.instance("n", 3, int, "an integer") == 3
    for wrong in (None, 3, "text"):
        with pytest.raises(TypeError, match="`after` must be a function; got"):
            arguments.function("after", wrong)
    for wrong in (3, "text", b"bytes", None, int):
        with pytest.raises(TypeError, match="`steps` must be a list or the like; got"):
            arguments.several("steps", wrong)
    with pytest.raises(TypeError, match="`model` must be a model; got 3"):
        arguments.instance("model", 3, str, "a model")


def test_shapes_and_dtypes():
    assert arguments.shape("size", None) is None
    assert arguments.shape("size", 3) == 3
    assert arguments.shape("size", (2, 0)) == (2, 0)
    with pytest.raises(TypeError, match="`size` must be an integer; got 1.5"):
        arguments.shape("size", (1.5, 2))
    with pytest.raises(ValueError, match="`size` must be >= 0; got -1"):
        arguments.shape("size", -1)
    with pytest.raises(MemoryError, match=r"\(1000000, 1000000\) numbers needs .* take a smaller `size` instead"):
        arguments.shape("size", (10**6, 10**6))
    assert arguments.real_dtype("dtype", "f4") == np.float32
    with pytest.raises(TypeError, match="`dtype` must be a dtype; got 'real'"):
        arguments.real_dtype("dtype", "real")
    for wrong in (int, complex, bool, str):
        with pytest.raises(ValueError, match="`dtype` must be a dtype of real floating-point numbers; got"):
            arguments.real_dtype("dtype", wrong)
