"""One run on a file or folder at a time, whatever becomes of the run.

In the cellar beside `_files`: sweeps and long runs of Lanczos lock in the same way.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout


class RunLock:
    """An exclusive lock beside what a run writes, held by the kernel for this process: it ends with it, by SIGKILL too.

    Parameters
    ----------
    store : Path
        What is written. The lock is a file of its name and `.lock`, gone after a run that ends by itself. A file of
        that name that was not made here, or a link, is left as it is: FileExistsError.
    what : str
        What runs, such as "sweep": messages say it, and lock files begin with it. Any other file of that name is
        somebody else's.
    """

    def __init__(self, store: Path, what: str) -> None:
        self.store, self.what = store, what
        self.signature = f"rmtland {what}, run by ".encode()
        self.path = store.with_name(store.name + ".lock")
        self._lock = FileLock(self.path, fallback_to_soft=False)  # a lock that outlives its process would be no use

    def __enter__(self) -> RunLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._make():
            self._holder()
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise BlockingIOError(
                f"the {self.what} at {self.store} is being run by {self._holder()}; one run at a time"
            ) from None
        try:
            file = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if os.read(file, len(self.signature)) not in (b"", self.signature):
                    self._refuse()
                os.ftruncate(file, 0)
                os.pwrite(file, self._told(), 0)
            finally:
                os.close(file)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # While it is held: who waits for a file that is gone sees that, and makes a new one.
        self.path.unlink(missing_ok=True)
        self._lock.release()

    def _make(self) -> bool:
        """Make the lock file, unless something of its name is there."""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(file, self._told())
        finally:
            os.close(file)
        return True

    def _holder(self) -> str:
        """Who wrote the lock file last; FileExistsError where it was not made here."""
        for wait in (0.05, 0.0):
            try:
                # Not opened before it is known to be a file: to open a pipe waits.
                if not stat.S_ISREG(os.lstat(self.path).st_mode):
                    self._refuse()
                with open(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                    text = file.read(300)
            except FileNotFoundError:
                return "another process"  # which has just ended
            if text:
                break
            time.sleep(wait)  # another process made it a moment ago, and has not signed it yet
        if not text.startswith(self.signature):
            self._refuse()
        return text.removeprefix(self.signature).decode(errors="replace").strip()

    def _refuse(self) -> None:
        raise FileExistsError(
            f"the {self.what} at {self.store} needs the name {self.path} for its lock, and something else has it; "
            "choose another name, or move that"
        )

    def _told(self) -> bytes:
        return self.signature + f"process {os.getpid()} on {socket.gethostname()}\n".encode()
