"""What is seen while a run goes: with rich on a terminal a live table and progress bar, else a line a row."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import astuple, fields
from types import TracebackType
from typing import Any

from benchmarks import report
from benchmarks.contenders import OURS
from benchmarks.results import Row, Run
from benchmarks.run import Watcher


def display() -> Display:
    """The best that this terminal and this installation can do."""
    if not sys.stdout.isatty():
        return Display()
    try:
        import rich  # noqa: F401
    except ImportError:
        print("no live table, as rich is not installed (pip install rich)")
        return Display()
    return LiveDisplay()


class Display(Watcher):
    """A line for each row."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def start(self, run: Run, rows: int) -> None:
        """Say what takes part."""
        ratios = len(run.contenders) > 1 and run.suite != "memory"
        print(
            f"{run.suite}: {rows} rows, {', '.join(run.contenders)}"
            + (f"; ratios: their time over that of {OURS}" if ratios else "")
        )

    def done(self, row: Row) -> None:
        """Print it."""
        print(report.line(row), flush=True)


class LiveDisplay(Display):
    """A table that grows above a progress bar."""

    def __init__(self) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.run: Run | None = None
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns)
        self.live = Live(self.progress, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the whole table behind."""
        self.live.__exit__(kind, error, trace)
        if self.run is not None:
            for name in report.kinds(self.run):
                self.live.console.print(_table(self.run, name))

    def start(self, run: Run, rows: int) -> None:
        """Show an empty bar."""
        self.run = run
        self.task = self.progress.add_task("", total=rows)

    def doing(self, what: str) -> None:
        """Beside the bar."""
        self.progress.update(self.task, description=what)

    def done(self, row: Row) -> None:
        """One more row in the table of its pass; as many of the last rows as the terminal has room for."""
        from rich.console import Group

        assert self.run is not None
        self.progress.advance(self.task)
        self.live.update(Group(_table(self.run, row.kind, max(5, self.live.console.height - 8)), self.progress))


def _table(run: Run, kind: str, most: int | None = None) -> Any:
    head, rows = report.table(run, kind, ranges=False)
    return _rich_table(report.heading(run, kind), head, rows[-most:] if most else rows)


def _rich_table(title: str, head: list[str], rows: list[list[str]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for name in head:
        table.add_column(name, justify="left" if name == head[0] else "right")
    for cells in rows:
        table.add_row(*cells)
    return table


def show(title: str, rows: Sequence[Any]) -> None:
    """Print dataclasses as a table, a column for each field: with rich on a terminal, else in Markdown."""
    cells = [["-" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in astuple(r)] for r in rows]
    head = [field.name.replace("_", " ") for field in fields(rows[0])]
    if isinstance(display(), LiveDisplay):
        import rich

        rich.print(_rich_table(title, head, cells))
    else:
        print(f"{title}\n\n{report.markdown_table(head, cells)}")
