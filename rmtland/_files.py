"""Files and folders that appear whole or not at all, and never under a name that somebody else uses.

The cellar below the ground floor, beside `_arguments`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def unused_name(path: Path) -> Path:
    """A hidden name beside `path` that nothing has: what is written first there can be moved to `path` in one step."""
    return path.with_name(f".rmtland-{uuid.uuid4().hex}.partial")


def replace_file(path: str | os.PathLike[str], fill: Callable[[IO[bytes]], Any]) -> None:
    """Have `fill` write a file; until it is whole, and where it fails, what was at `path` stays."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        kind, what = (
            (IsADirectoryError, "a folder") if path.is_dir() else (FileNotFoundError, "in no folder that exists")
        )
        raise kind(f"a file is to be written to {path}, which is {what}")
    temporary = unused_name(path)
    # Not tempfile.mkstemp, whose files only their owner may read.
    with open(temporary, "xb") as file:
        try:
            fill(file)
            file.close()
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink()
            raise


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8; until it is whole, and where that fails, what was at `path` stays."""
    replace_file(path, lambda file: file.write(text.encode()))
