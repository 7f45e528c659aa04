"""Checks of what users pass in, and the one way to turn `rng` into generators.

The cellar below the ground floor: every wing may use it, it uses nothing of ours. All messages have the form
"`name` must be ...; got ...".
"""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Seed = Any
"""Anything `numpy.random.default_rng` takes: None, an int, a SeedSequence, a BitGenerator, a Generator."""


LARGEST = 2**63 - 1
"""Of an integer, unless told: sizes and counts beyond it fit no index, no file and no machine."""


def shown(value: Any, most: int = 80) -> str:
    """`value` for an error message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else object.__repr__(value)
    except Exception:
        text = object.__repr__(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def real(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """`value` as a finite float within the stated open (above, below) or closed (at_least, at_most) bounds.

    Texts, booleans, complex numbers, dates, masked values and arrays with dimensions are refused: see `finite_array`.
    """
    try:
        if not _is_real(value):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = math.inf
    except Exception:
        raise TypeError(f"`{name}` must be a real number; got {shown(value)}") from None
    bounds = [
        (above, ">", operator.gt),
        (at_least, ">=", operator.ge),
        (below, "<", operator.lt),
        (at_most, "<=", operator.le),
    ]
    stated = " and ".join(f"{symbol} {bound:g}" for bound, symbol, _ in bounds if bound is not None)
    holds = math.isfinite(number) and all(test(number, bound) for bound, _, test in bounds if bound is not None)
    if not holds:
        raise ValueError(f"`{name}` must be {stated or 'finite'}; got {shown(value)}")
    return number


def _is_real(value: Any) -> bool:
    """Whether a scalar is a real number before float() makes one of a text, a date or half a complex number."""
    if isinstance(value, (float, int)):
        return not isinstance(value, bool)
    if isinstance(value, complex) or value is np.ma.masked or not hasattr(value, "__float__"):
        return False
    kind = getattr(getattr(value, "dtype", None), "kind", "f")  # torch's dtypes have no kind
    told = str(getattr(value, "dtype", ""))
    return kind in "iufO" and "complex" not in told and "bool" not in told and len(getattr(value, "shape", ())) == 0


def integer(
    name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None, unbounded: bool = False
) -> int:
    """`value` as an int within closed bounds; floats are refused even when whole.

    Above it is bounded by `LARGEST` where no bound is told, unless it is `unbounded`, as seeds are.
    """
    try:
        if isinstance(value, (bool, np.bool_)) or "bool" in str(getattr(value, "dtype", "")):
            raise TypeError
        number = operator.index(value)
    except Exception:
        raise TypeError(f"`{name}` must be an integer; got {shown(value)}") from None
    if (at_least is not None and number < at_least) or (at_most is not None and number > at_most):
        bounds = [f">= {at_least}"] * (at_least is not None) + [f"<= {at_most}"] * (at_most is not None)
        raise ValueError(f"`{name}` must be {' and '.join(bounds)}; got {shown(number)}")
    if at_most is None and abs(number) > LARGEST and not unbounded:
        raise ValueError(f"`{name}` must be at most 2^63 - 1 in size; got {shown(number)}")
    return number


def finite_array(name: str, value: Any, *, ndim: int | None = None, dtype: Any = np.float64) -> npt.NDArray[Any]:
    """`value` as a NumPy array of `dtype` and `ndim` dimensions without NaN or infinity.

    Only real numbers are: complex ones, booleans, texts and dates are a TypeError, whatever NumPy would make of them,
    and so are masked entries, which NumPy would uncover.
    """
    try:
        array = unmasked(name, value)
        if array.dtype.kind == "O" and not all(map(_is_real, array.flat)):
            raise TypeError
        if array.size and array.dtype.kind not in "iufO":
            raise TypeError
        with np.errstate(over="ignore"):  # what is too large for `dtype` is infinite there
            array = array.astype(dtype, copy=False)
    except MaskedError as error:
        raise ValueError(str(error)) from None
    except OverflowError:
        raise ValueError(f"`{name}` must be finite; got {shown(value)}") from None
    except Exception:
        raise TypeError(f"`{name}` must be an array of real numbers; got {_kind(value)}") from None
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"`{name}` must have {ndim} dimension{'s' * (ndim != 1)}; got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise ValueError(f"`{name}` must be finite; got {bad} NaN or infinite of {array.size} entries")
    return array


class MaskedError(ValueError):
    """Entries are masked."""


def unmasked(name: str, value: Any) -> npt.NDArray[Any]:
    """`value` as an array of whatever kind; ValueError where entries are masked."""
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        if masked:
            raise MaskedError(f"`{name}` must have no masked entries; got {masked} of {value.size}: fill or drop them")
        return np.asarray(value.data)
    return np.asarray(value)


def _kind(value: Any) -> str:
    """Type of a value, and what its entries are where it is an array of them."""
    kind = type(value).__name__
    try:
        dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    except Exception:
        return kind
    return kind if str(dtype) in ("object", kind) else f"{kind} of {dtype}"


def choice(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    """`value` if it is one of `options`."""
    try:
        known = bool(value in options)
    except Exception:  # an array is compared entry by entry
        known = False
    if not known:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, options))}; got {shown(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False; got {shown(value)}")
    return bool(value)


def function(name: str, value: Any, *, optional: bool = False) -> Any:
    """`value` if it can be called, or where it is `optional` None."""
    if not (callable(value) or (optional and value is None)):
        raise TypeError(f"`{name}` must be a function; got {shown(value)}")
    return value


def iterable(name: str, value: Any) -> Any:
    """`value` if it can be iterated over and is no text."""
    try:
        if isinstance(value, (str, bytes, type)):
            raise TypeError
        iter(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a list or the like; got {shown(value)}") from None
    return value


def several(name: str, value: Any) -> tuple[Any, ...]:
    """The items of whatever can be iterated over, but for a text."""
    return tuple(iterable(name, value))


def instance(name: str, value: Any, kind: type, what: str) -> Any:
    """`value` if it is of the kind, which `what` calls by its name."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {what}; got {shown(value)}")
    return value


def shape(name: str, value: Any) -> int | tuple[int, ...] | None:
    """The shape of draws as NumPy takes it: None, an integer or several, >= 0."""
    if value is None:
        return None
    sizes = tuple(integer(name, size, at_least=0) for size in (value if isinstance(value, (tuple, list)) else [value]))
    require_memory(f"{shown(value)} numbers", 16.0 * math.prod(sizes), f"take a smaller `{name}`")
    return sizes if isinstance(value, (tuple, list)) else sizes[0]


def real_dtype(name: str, value: Any) -> np.dtype[Any]:
    """The dtype of real floating-point numbers behind `value`."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except Exception:
        raise TypeError(f"`{name}` must be a dtype; got {shown(value)}") from None
    if dtype.kind != "f":
        raise ValueError(f"`{name}` must be a dtype of real floating-point numbers; got {shown(value)}")
    return dtype


def path(name: str, value: Any) -> Path:
    """`value` as a path, whether or not something is there."""
    try:
        text = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a path; got {shown(value)}") from None
    if not text or "\0" in text:
        raise ValueError(f"`{name}` must be a path; got {shown(value)}")
    return Path(text)


def real_path(name: str, value: Any) -> Path:
    """`value` as an absolute path with its links followed; a link to nothing is refused."""
    given = path(name, value)
    if given.is_symlink() and not given.exists():
        raise ValueError(f"`{name}` must not be a link to nothing; {given} is one")
    return given.resolve()


def generator(rng: Seed) -> np.random.Generator:
    """The Generator behind `rng`; called once at a public edge."""
    if isinstance(rng, (bool, np.bool_)):
        raise TypeError(f"`rng` must be something numpy.random.default_rng takes; got {shown(rng)}")
    try:
        return np.random.default_rng(rng)
    except TypeError:
        raise TypeError(f"`rng` must be something numpy.random.default_rng takes; got {shown(rng)}") from None
    except ValueError:
        raise ValueError(f"`rng` must be >= 0, as all seeds; got {shown(rng)}") from None


def seed_sequence(rng: Seed) -> Any:
    """The SeedSequence whose children are the replicates' seeds: the one place where they come from.

    An integer, or several, is the entropy; a SeedSequence is taken as it is, and its children move on, as NumPy's do.
    From what has a state (Generator, BitGenerator, RandomState) 128 bits of its stream are drawn: the call moves it on,
    and one whose state was restored gives the same again. (`Generator.spawn` knows nothing of the state.)
    """
    if isinstance(rng, np.random.bit_generator.ISpawnableSeedSequence):
        return rng
    made = generator(rng)
    if isinstance(rng, (np.random.Generator, np.random.BitGenerator, np.random.RandomState)):
        return np.random.SeedSequence(int.from_bytes(made.bytes(16), "little"))
    return made.bit_generator.seed_seq


def spawn(rng: Seed, count: int, name: str = "num_draws") -> list[np.random.Generator]:
    """One child Generator per replicate: child i depends on the seed and i alone, not on `count`.

    Children are those of `seed_sequence(rng)`, however `rng` is given; see there for what has a state. `name` is that
    of the argument that asked for so many.
    """
    require_memory(f"{count} random streams", 1500.0 * count, f"take fewer `{name}`")
    return [np.random.default_rng(child) for child in seed_sequence(rng).spawn(count)]


def told_seed(seeds: Any) -> str:
    """What `seed_sequence` gave as a text from which it can be made again: an integer where one is enough."""
    entropy = getattr(seeds, "entropy", None)
    key, spawned = tuple(getattr(seeds, "spawn_key", ())), getattr(seeds, "n_children_spawned", 0)
    if entropy is None:
        return type(seeds).__name__
    if not key and not spawned and getattr(seeds, "pool_size", 4) == 4:
        return str(entropy)
    return f"SeedSequence({entropy}, spawn_key={key}, n_children_spawned={spawned}, pool_size={seeds.pool_size})"


def available_memory() -> int:
    """Bytes of memory this process may still take: of the machine, or of its control groups where they allow less.

    SLURM, Kubernetes and docker set such limits; who goes beyond is killed, whatever the machine has left.
    """
    return max(min([_machine_memory(), *_group_memory()]), 0)


PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def _machine_memory() -> int:
    """What the machine has left (its physical memory where the system does not tell)."""
    try:
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_memory() -> list[int]:
    """What each control group above this process has left."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):  # the first version of control groups
            root, files = CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        elif not controllers:  # the second
            root, files = CGROUPS, ("memory.max", "memory.current", "inactive_file ")
        else:
            continue
        inside = root / group.strip("/")
        # Within a container the group itself may be out of sight, and the root stands for it.
        for folder in (inside, *inside.parents):
            left += _left_in(folder, *files)
            if folder == root:
                break
    return left


def _left_in(folder: Path, limit_file: str, usage_file: str, cache: str) -> list[int]:
    """Limit less use, without the cache of files that the system gives up first; nothing where there is no limit."""
    try:
        limit = (folder / limit_file).read_text().strip()
        if limit == "max":
            return []
        used = int((folder / usage_file).read_text())
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(cache):
                used -= int(line.split()[1])
        return [int(limit) - used]
    except (OSError, ValueError):
        return []


LITTLE = 2**20
"""Bytes that are granted unseen: reading what is left takes as long as filling them."""


def require_memory(what: str, num_bytes: float, instead: str) -> None:
    """MemoryError naming the need and the alternative where `num_bytes` do not fit."""
    if num_bytes <= LITTLE:
        return
    free = available_memory()
    if num_bytes > 0.9 * free:
        raise MemoryError(
            f"{what} needs {num_bytes / 2**30:.3g} GiB and {free / 2**30:.3g} GiB are free; {instead} instead"
        )
