"""Folders that a command writes to, whole or not at all, and what it shows meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

TERMINATED = 143
"""Exit code after SIGTERM, as a shell counts."""


class OutputFolder:
    """A folder whose files appear together once all are written, or not at all.

    Made, and seen to be writable, before the work begins; files are written beside it and moved in at the end. A folder
    in the place of one of the files is an IsADirectoryError, and none is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.waiting = tempfile.TemporaryDirectory(prefix=".rmtland-", dir=self.path)
        except BaseException:
            self._remove_made()
            raise
        return Path(self.waiting.name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        moved = False
        try:
            if kind is None:
                self._move()
                moved = True
        finally:
            self.waiting.cleanup()
            if not moved:
                self._remove_made()
        if kind is KeyboardInterrupt or (isinstance(error, SystemExit) and error.code == TERMINATED):
            told = "interrupted" if kind is KeyboardInterrupt else "terminated"
            print(f"rmtland: {told}; nothing was written", file=sys.stderr)

    def _move(self) -> None:
        files = list(Path(self.waiting.name).iterdir())
        for file in files:
            if (self.path / file.name).is_dir():
                raise IsADirectoryError(
                    f"{self.path / file.name} is a folder, and a file is to go there; nothing was written"
                )
        for file in files:
            os.replace(file, self.path / file.name)

    def _remove_made(self) -> None:
        for folder in self.made:
            with contextlib.suppress(OSError):  # somebody else has put something there since
                folder.rmdir()


def progress_bar(console: Console, told: str = "{task.description}") -> Progress:
    """A bar on a terminal, gone once the work is done; nothing elsewhere."""
    return Progress(
        TextColumn(told), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
