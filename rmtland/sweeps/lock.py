"""One run on a store at a time, whatever becomes of the run."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType


class StoreLock:
    """An exclusive lock beside the store, held by the kernel for this process: it ends with it, by SIGKILL too.

    Parameters
    ----------
    store : Path
        The lock is a file of its name and `.lock`, gone after a run that ends by itself.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.path = store.with_name(store.name + ".lock")
        self._file = -1

    def __enter__(self) -> StoreLock:
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
                os.close(file)
                raise BlockingIOError(
                    f"the sweep at {self.store} is being run by {holder}; one run at a time"
                ) from None
            # The holder before us may have removed the file between our open and our lock.
            if self.path.exists() and os.fstat(file).st_ino == self.path.stat().st_ino:
                break
            os.close(file)
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._file)
