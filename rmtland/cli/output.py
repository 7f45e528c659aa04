"""Folders that a command writes to: whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


class OutputFolder:
    """A folder whose files appear together once all are written, or not at all.

    Made, and seen to be writable, before the work begins; files are written beside it and moved in at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self.waiting = tempfile.TemporaryDirectory(prefix=".rmtland-", dir=self.path)
        return Path(self.waiting.name)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for file in Path(self.waiting.name).iterdir():
                os.replace(file, self.path / file.name)
        self.waiting.cleanup()
        if kind is KeyboardInterrupt:
            print("rmtland: interrupted; nothing was written", file=sys.stderr)
        if kind is not None:
            for folder in self.made:
                folder.rmdir()
