"""A bar on the terminal while a sweep runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Report = Callable[[int, int], None]
"""Takes how many more cells are done, and how many more have failed."""


@contextlib.contextmanager
def reporter(
    progress: bool | Callable[[int, int, int], None] | None, done: int, failed: int, total: int
) -> Iterator[Report]:
    """What to tell of each batch: a function of the user's, a bar with rate and time left, or nothing."""
    counts = [done, failed]

    def count(more: int, lost: int) -> None:
        counts[0] += more
        counts[1] += lost

    if callable(progress):

        def tell(more: int, lost: int) -> None:
            count(more, lost)
            progress(counts[0], counts[1], total)

        yield tell
        return
    from rich.console import Console

    console = Console(stderr=True)
    if progress is False or not console.is_terminal:
        yield count
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), TextColumn("[red]{task.fields[lost]}"), console=console, transient=True,
    ) as bar:  # fmt: skip
        job = bar.add_task("sweep", total=total, completed=done + failed, rate="", lost="")

        def show(more: int, lost: int) -> None:
            count(more, lost)
            speed = bar.tasks[0].speed
            bar.update(
                job,
                completed=sum(counts),
                rate=f"{speed:.3g} cells/s" if speed else "",
                lost=f"{counts[1]} failed" if counts[1] else "",
            )

        yield show
