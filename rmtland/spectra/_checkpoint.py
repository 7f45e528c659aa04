"""The state of a Lanczos run in a file: one process at a time, replaced in one step, refused where of another run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
import zipfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from rmtland._arguments import real_path
from rmtland._arrays import Array, like, to_numpy
from rmtland.spectra import _vectors

if TYPE_CHECKING:
    from rmtland.spectra.lanczos import Recurrence

FORMAT = "rmtland.lanczos 1"


class Checkpoint:
    """One file of one run; as a context it keeps every other process from it.

    Parameters
    ----------
    path : path
        Beside it, while the run goes on, its name and `.lock`. What killed runs left half written is removed.
    interval : float
        Seconds between two writes, at least.
    seed_given : bool
        Whether the user gave a seed, which the file's must then be.
    """

    def __init__(self, path: str | Path, interval: float, seed_given: bool) -> None:
        from rmtland._lock import RunLock  # where it is used: filelock brings asyncio

        self.path, self.interval, self.seed_given = real_path("checkpoint", path), interval, seed_given
        self._lock = RunLock(self.path, "lanczos run")
        self.identity: tuple[int, int, int] | None = None
        self.written, self.seconds, self.size = time.monotonic(), 0.0, 0
        self.header: dict[str, Any] = {}

    def __enter__(self) -> Checkpoint:
        self._lock.__enter__()
        # Names that nothing but `write` makes, of nobody who is at work: the lock is ours.
        mine = re.compile(re.escape(f".{self.path.name}.rmtland-") + r"[0-9a-f]{32}\.partial")
        for left in self.path.parent.iterdir():
            if mine.fullmatch(left.name) and left.is_file() and not left.is_symlink():
                left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)

    def resume(self, run: Recurrence, start: Array | None) -> bool:
        """Put a fresh `run` where the file's stands; False where there is no file yet.

        Raises ValueError where the file's run is another one and FileExistsError where it is no run at all.
        """
        self.header = {
            "format": FORMAT,
            "dimension": run.operator.dimension,
            "dtype": str(to_numpy(run.rows[0, :0]).dtype),
            "reorthogonalize": run.full,
            "keep_basis": run.has_basis,
            "start": None if start is None else hashlib.sha256(to_numpy(start).tobytes()).hexdigest(),
            "seed": json.loads(json.dumps(run.rng.bit_generator.state, default=_plain)),
        }
        if not self.path.exists():
            return False
        if not zipfile.is_zipfile(self.path):
            raise self._foreign()
        with np.load(self.path, allow_pickle=False) as data:
            try:
                header = json.loads(str(data["header"]))
                known = header["format"] == FORMAT
            except (KeyError, TypeError, ValueError) as error:
                raise self._foreign() from error
            if not known:
                raise self._foreign()
            self._require_same(header)
            self._restore(run, start, data, header)
        self.identity = _identity(self.path)
        return True

    def _foreign(self) -> FileExistsError:
        return FileExistsError(
            f"`checkpoint` must name a new file or one that lanczos made; got {str(self.path)!r}, which is neither"
        )

    def _require_same(self, header: dict[str, Any]) -> None:
        for key, mine in self.header.items():
            if key == "seed" and not self.seed_given:
                continue
            if header[key] != mine:
                name, values = ("rng", "") if key == "seed" else (key, f": {header[key]!r} instead of {mine!r}")
                raise ValueError(f"`checkpoint` must be of the same run; got one with another {name}{values}")
        self.header["seed"] = header["seed"]

    def _restore(self, run: Recurrence, start: Array | None, data: Any, header: dict[str, Any]) -> None:
        alpha, beta = data["alpha"], data["beta"]
        if alpha.size > run.num_steps:
            raise ValueError(f"`num_steps` must be >= {alpha.size}, the steps in the checkpoint; got {run.num_steps}")
        _set_state(run.rng, header["seed"])
        first = _vectors.start_vector(run.operator, run.rng, start)
        product = _vectors.product(run.operator, first)
        length = float(np.hypot(alpha[0], beta[0]))
        found = _vectors.dot(first, product), _vectors.norm(product)
        # Sums in another order, as on a busier machine, are the same operator; one more training step is not.
        allowed = max(100 * run.epsilon, 1e-10) * length
        if not (abs(found[0] - alpha[0]) <= allowed and abs(found[1] - length) <= allowed):
            raise ValueError(
                f"`checkpoint` must be of the same operator; got one with q^T A q = {alpha[0]:.10g} for the start "
                f"vector q, and this operator gives {found[0]:.10g}"
            )
        if run.has_basis:
            run.rows[: alpha.size + 1] = like(run.rows, data["rows"])
        else:
            run.row(alpha.size)[:] = like(run.rows, data["current"])
            run.row(alpha.size - 1)[:] = like(run.rows, data["previous"])
        run.alpha, run.beta, run.restarts = alpha.tolist(), beta.tolist(), data["restarts"].tolist()
        run.scale = float(data["scale"])
        _set_state(run.rng, json.loads(str(data["random"])))
        self.size = run.size
        run.reopen()

    def write_when_due(self, run: Recurrence) -> None:
        """Write, where the last write is long enough ago."""
        if time.monotonic() - self.written >= max(self.interval, 20 * self.seconds):
            self.write(run)

    def write(self, run: Recurrence) -> None:
        """Replace the file by the run's state; the old or the new one is there at any moment."""
        if run.size == self.size:
            return
        begun = time.monotonic()
        if run.has_basis:
            vectors = {"rows": to_numpy(run.rows[: run.size + 1])}
        else:
            vectors = {"current": to_numpy(run.row(run.size)), "previous": to_numpy(run.row(run.size - 1))}
        name = self.path.with_name(f".{self.path.name}.rmtland-{uuid.uuid4().hex}.partial")
        try:
            with open(name, "xb") as file:
                np.savez(
                    file,
                    header=np.array(json.dumps(self.header)),
                    random=np.array(json.dumps(run.rng.bit_generator.state, default=_plain)),
                    alpha=np.array(run.alpha),
                    beta=np.array(run.beta),
                    restarts=np.array(run.restarts, dtype=np.int64),
                    scale=np.array(run.scale),
                    **vectors,  # type: ignore[arg-type]
                )
                file.flush()
                os.fsync(file.fileno())
            self._publish(name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        self.size, self.written = run.size, time.monotonic()
        self.seconds = self.written - begun

    def _publish(self, name: Path) -> None:
        identity = _identity(name)
        if self.identity is None:
            try:
                os.link(name, self.path)  # unlike a rename it fails where the name is taken
            except FileExistsError:
                raise self._foreign() from None
        else:
            if not self.path.exists() or _identity(self.path) != self.identity:
                raise FileExistsError(
                    f"`checkpoint` {str(self.path)!r} was replaced while the run went on; got another"
                )
            os.replace(name, self.path)
        self.identity = identity


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells one file from another of the same name; a rename keeps it."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else int(value)


def _set_state(rng: np.random.Generator, state: dict[str, Any]) -> None:
    try:
        rng.bit_generator.state = state
    except (ValueError, TypeError):
        raise ValueError(
            f"`checkpoint` must be of the same run; got one with random bits of {state.get('bit_generator')}"
        ) from None
