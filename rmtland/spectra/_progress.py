"""A bar on the terminal while products are counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rmtland._arguments import flag


@contextlib.contextmanager
def counter(progress: bool, what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Give a function that takes how many are done; on a terminal, where `progress` asks, a bar with the time left."""
    if not flag("progress", progress):
        yield lambda done: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        job = bar.add_task(what, total=total, completed=done)
        yield lambda done: bar.update(job, completed=done)
