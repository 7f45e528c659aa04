"""The processes of a torch.distributed group, kept in step: sums, gathered rows, and errors that reach all of them."""

from __future__ import annotations

import time
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from rmtland._arguments import real

BLOCK_ENTRIES = 2**23
"""Entries that are summed at a time: 64 MiB in float64."""
SAMPLE = 2**16
"""Entries of an operand that are compared between ranks, beside the sum and the length of all."""
GRACE = 1.0
"""Seconds that the ranks wait, after a loss, to hear who is left."""

_NOTE = np.dtype(
    [
        ("failed", np.int64),
        ("kind", "S8"),
        ("source", np.int64),
        ("rows", np.int64),
        ("shape", np.int64, (6,)),
        ("dtype", "S8"),
        ("operand", np.float64, (3,)),
        ("said", "S400"),
    ]
)
"""What each rank tells every other before a sum."""


class RankError(RuntimeError):
    """Another rank failed, died, did not come in time, or does something else than this one."""


def place_in(process_group: Any) -> tuple[int, int]:
    """Rank and number of ranks, in the default group where None."""
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "torch.distributed must be initialised first: start the script by torchrun and call "
            "torch.distributed.init_process_group()"
        )
    if process_group is dist.GroupMember.NON_GROUP_MEMBER or dist.get_rank(process_group) < 0:
        raise ValueError("`process_group` must be a group that this rank belongs to; got one of other ranks")
    return dist.get_rank(process_group), dist.get_world_size(process_group)


class Ranks:
    """The ranks of one process group, as seen from this one.

    Before each sum every rank sends every other a short note: that it is well, what it is about to sum. So a rank that
    has raised ends the others with its message, one that has died is noticed by all at once, and one that has called
    something else is named, where a bare collective would wait for ever or mix the numbers up. Notes travel by a gloo
    group of their own, which has a time-out, whatever the backend of the numbers.
    """

    _known: ClassVar[weakref.WeakKeyDictionary[Any, dict[float, Ranks]]] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, process_group: Any, timeout: float) -> Ranks:
        """Those of a process group, None being the default one; made together by all its ranks at first use."""
        timeout = real("timeout", timeout, above=0)
        place_in(process_group)
        group = dist.group.WORLD if process_group is None else process_group
        known = cls._known.setdefault(group, {})
        if timeout not in known:
            known[timeout] = cls(group, timeout)
        return known[timeout]

    def __init__(self, group: Any, timeout: float) -> None:
        self._group, self.timeout = weakref.ref(group), timeout
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._control: Any = dist.new_group(
            dist.get_process_group_ranks(group),
            timeout=timedelta(seconds=timeout),
            backend="gloo",
            use_local_synchronization=True,
        )
        # Devices whose tensors the user's own group sums where they lie; all others travel through host memory.
        config = str(dist.get_backend_config(group))
        backends = dict(part.split(":") for part in config.split(",") if ":" in part)
        self._direct = {device for device, backend in backends.items() if backend not in {"gloo", "fake"}}
        self._pending: list[tuple[Any, Tensor]] = []
        self._reported: BaseException | None = None
        self._operand = np.zeros(3)
        self.last_source = 0

    def announce(self, operand: Tensor) -> None:
        """Have an operand compared with the other ranks' at the next meeting."""
        self._operand = _fingerprint(operand)

    def report(self, error: BaseException) -> None:
        """Post the error in place of the next note, without waiting for the others."""
        if error is self._reported or self._control is None:
            return
        self._reported = error
        self._operand = np.zeros(3)
        note = self._note("error", 0)
        note["failed"], note["said"] = 1, _short(f"{type(error).__name__}: {error}")
        try:
            self._pending.append(self._send(note))
        except RuntimeError:
            self._leave()

    def meet(self, kind: str, source: int, x: Tensor) -> npt.NDArray[Any]:
        """Exchange notes about an array that is to be summed ("sum") or gathered ("gather"); one note per rank."""
        note = self._note(kind, source)
        shape = tuple(x.shape)
        if kind == "gather":
            note["rows"], note["dtype"], shape = shape[0], str(x.dtype).removeprefix("torch.")[:8], shape[1:]
        note["shape"][: len(shape) + 1] = [len(shape), *shape]
        self._operand = np.zeros(3)
        if self._control is None:
            raise self._error("ranks were lost earlier; start them all again")
        try:
            self._settle()
            work, arrived = self._send(note)
            work.wait()
        except RuntimeError as error:
            raise self._lost(error) from error
        notes = arrived.numpy().view(_NOTE)
        self._check(notes)
        return notes

    def sum(self, x: Tensor, source: int) -> Tensor:
        """Sum over ranks, added in float64, in the dtype and on the device of `x`; the same bits on every rank."""
        self.meet("sum", source, x)
        total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        blocks = (torch.split(flat.reshape(-1), BLOCK_ENTRIES) for flat in (x, total))
        for part, result in zip(*blocks, strict=True):
            carried, group = self._carried(part)
            carried = carried.to(torch.float64, copy=True)
            self._guarded(dist.all_reduce, carried, group=group)
            result.copy_(carried)
        return total

    def gather(self, x: Tensor, source: int) -> Tensor:
        """Rows (n, ...) of all ranks in rank order, n may differ; takes twice the memory of the result meanwhile."""
        notes = self.meet("gather", source, x)
        rows = [int(note["rows"]) for note in notes]
        dtypes = {note["dtype"].decode() for note in notes if note["rows"]}
        if len(dtypes) > 1:
            raise self._error(f"arrays of one dtype must be gathered; got {', '.join(sorted(dtypes))}")
        dtype = getattr(torch, dtypes.pop()) if dtypes else x.dtype
        if not any(rows):
            return x
        row = next(note["shape"] for note in notes if note["rows"])
        padded = torch.zeros((max(rows), *row[1 : row[0] + 1].tolist()), dtype=dtype, device=x.device)
        if x.shape[0]:
            padded[: x.shape[0]] = x
        # As bytes: every backend knows them, half precision not.
        carried, group = self._carried(padded.reshape(-1).view(torch.uint8))
        arrived = [torch.empty_like(carried) for _ in rows]
        self._guarded(dist.all_gather, arrived, carried, group=group)
        blocks = [part.view(dtype).reshape(padded.shape)[:n] for part, n in zip(arrived, rows, strict=True)]
        return torch.cat(blocks).to(x.device)

    def gather_objects(self, thing: Any) -> list[Any]:
        """One Python object of each rank."""
        self.meet("objects", 0, torch.empty(0, device="cpu"))
        things: list[Any] = [None] * self.size
        self._guarded(dist.all_gather_object, things, thing, group=self._control)
        return things

    def copy_file(self, path: Path) -> None:
        """Replace each rank's file by rank 0's, or remove it where rank 0 has none; paths may differ between ranks."""
        size = self.gather_objects(path.stat().st_size if path.exists() else None)[0]
        if size is None:
            path.unlink(missing_ok=True)
            return
        first = dist.get_process_group_ranks(self._control)[0]
        arriving = path.with_name(path.name + ".arriving")
        with open(arriving if self.rank else path, "wb" if self.rank else "rb") as file:
            for start in range(0, size, 8 * BLOCK_ENTRIES):
                block = torch.empty(min(8 * BLOCK_ENTRIES, size - start), dtype=torch.uint8, device="cpu")
                if self.rank == 0:
                    block.copy_(torch.frombuffer(bytearray(file.read(len(block))), dtype=torch.uint8))
                self._guarded(dist.broadcast, block, first, group=self._control)
                if self.rank:
                    file.write(block.numpy().tobytes())
        if self.rank:
            arriving.replace(path)

    def _carried(self, x: Tensor) -> tuple[Tensor, Any]:
        if x.device.type in self._direct:
            return x, self._group()
        return x.cpu(), self._control

    def _guarded(self, collective: Any, *args: Any, group: Any) -> None:
        try:
            collective(*args, group=group)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _note(self, kind: str, source: int) -> npt.NDArray[Any]:
        note = np.zeros((), dtype=_NOTE)
        note["kind"], note["source"], note["operand"] = kind, source, self._operand
        return note

    def _send(self, note: npt.NDArray[Any]) -> tuple[Any, Tensor]:
        """Start the exchange of notes: all to all, so that every rank has a line to one that dies."""
        mine = torch.from_numpy(np.frombuffer(note.tobytes() * self.size, dtype=np.uint8).copy())
        arrived = torch.empty_like(mine)
        return dist.all_to_all_single(arrived, mine, group=self._control, async_op=True), arrived

    def _settle(self) -> None:
        """Wait until the others have read what this rank reported."""
        while self._pending:
            self._pending.pop(0)[0].wait()

    def _check(self, notes: npt.NDArray[Any]) -> None:
        for rank in np.flatnonzero(notes["failed"]).tolist():
            raise self._error(f"rank {rank} failed, so all give up: {notes['said'][rank].decode(errors='replace')}")
        places = [(note["kind"], int(note["source"]), tuple(note["shape"])) for note in notes]
        some = next((tuple(note["shape"]) for note in notes if note["rows"]), places[0][2])
        for rank, place in enumerate(places):
            if notes["kind"][rank] == b"gather" and not notes["rows"][rank]:
                place = (*place[:2], some)  # no rows are of any shape
            if place != (*places[0][:2], some):
                raise self._error(
                    "every rank must call the same statistics of the same sources in the same order; rank 0 is at "
                    f"{_described((*places[0][:2], some))} and rank {rank} at {_described(place)}"
                )
        operands = np.nan_to_num(notes["operand"])
        for rank, operand in enumerate(operands):
            if np.abs(operand - operands[0]).max() > 1e-4 * operands[0, 1]:
                raise self._error(
                    f"the operand must be the same on every rank; that of rank {rank} differs from rank 0's (a random "
                    "start? give the same `rng` on all ranks, not None)"
                )

    def _lost(self, error: RuntimeError) -> RankError:
        """What to raise where the connection to another rank broke or timed out."""
        late = "imed out" in str(error)
        missing = self._missing()
        who = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}" if missing else "another rank"
        self._leave()
        if late:
            return self._error(f"{who} did not come to the sum within {self.timeout:g} s (`timeout`)")
        return self._error(f"{who} died or closed the connection; its own output says why")

    def _missing(self) -> list[int]:
        """Ranks that do not say within a moment that they are still there."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        try:
            store = self._control.get_group_store()
            store.set(f"rmtland/left/{self.rank}", "here")
            until = time.monotonic() + GRACE
            while others and time.monotonic() < until:
                others = [rank for rank in others if not store.check([f"rmtland/left/{rank}"])]
                time.sleep(0.05)
        except (RuntimeError, AttributeError):
            return []  # the store died with its rank, or this torch does not hand it out
        return others

    def _leave(self) -> None:
        """A broken gloo group stays broken: a new source makes a new one."""
        self._control = None
        group = self._group()
        if group is not None:
            self._known.get(group, {}).pop(self.timeout, None)

    def _error(self, message: str) -> RankError:
        # Remembered, so that `report` does not tell the others what they know.
        error = RankError(f"rank {self.rank} of {self.size}: {message}")
        self._reported = error
        return error


def _short(text: str) -> bytes:
    return text.encode()[: _NOTE["said"].itemsize]


def _described(place: tuple[bytes, int, tuple[int, ...]]) -> str:
    kind, source, shape = place
    what = {"sum": "a sum", "gather": "gathered rows", "objects": "a new source"}.get(kind.decode(), kind.decode())
    sizes = tuple(int(size) for size in shape[1 : shape[0] + 1])
    return what if kind == b"objects" else f"{what} of shape {sizes} of source {source}"


def _fingerprint(x: Tensor) -> npt.NDArray[np.float64]:
    """Sum, length, and a fixed projection of some entries, which differ between two random vectors."""
    flat = x.detach().reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLE)].cpu().double().numpy()
    weights = np.random.default_rng(0).uniform(-1, 1, sample.size)
    wide = flat.dtype if flat.device.type == "mps" else torch.float64
    return np.array([float(flat.sum(dtype=wide)), float(torch.linalg.vector_norm(flat, dtype=wide)), weights @ sample])
