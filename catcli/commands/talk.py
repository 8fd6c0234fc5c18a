"""How commands speak: results to standard output, talk to standard error; bars only where somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from catcli.reporting.tables import printable

Advance = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Talk:
    """Where a command prints.

    ``quiet`` leaves only errors and results; ``verbose`` adds what is usually of no interest. ``bars_alone`` leaves sentences out but for
    warnings, for a part of a larger run; a warning that is among ``warned`` is not said again.
    """

    quiet: bool = False
    verbose: bool = False
    bars_alone: bool = False
    warned: set[str] = field(default_factory=set)
    out: Console = field(default_factory=lambda: Console(highlight=False, markup=False, emoji=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, markup=False, emoji=False))

    @classmethod
    def silent(cls) -> Self:
        """For callers in Python: nothing is printed, what the command returns is all."""
        return cls(quiet=True, out=Console(quiet=True))

    def say(self, sentence: str) -> None:
        """One line of talk."""
        if not (self.quiet or self.bars_alone):
            self.err.print(printable(sentence), soft_wrap=True)

    def detail(self, sentence: str) -> None:
        """One line of talk for ``--verbose``."""
        if self.verbose:
            self.err.print(printable(sentence), style="dim", soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Something that the user may not expect."""
        if not self.quiet and sentence not in self.warned:
            self.warned.add(sentence)
            self.err.print(f"note: {printable(sentence)}", style="yellow", soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Advance]:
        """A bar with rows a second and the time left, on a terminal; silence elsewhere."""
        if self.quiet or not self.err.is_terminal:
            yield lambda *_: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), _Speed(), TimeRemainingColumn())
        with Progress(*columns, console=self.err, transient=True) as bar:
            tasks: dict[str, object] = {}

            def advance(stage: str, done: float, total: float) -> None:
                if stage not in tasks:
                    for task in bar.task_ids:
                        bar.remove_task(task)
                    tasks.clear()
                    tasks[stage] = bar.add_task(stage, total=total)
                bar.update(bar.task_ids[0], completed=done, total=total)

            yield advance


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{task.completed:,.0f} rows" + (f", {speed:,.0f}/s" if speed else ""))


def complain(message: str) -> None:
    """An error, as one sentence on standard error."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(Text("error: ", style="bold red") + Text(printable(message), style=""), soft_wrap=True)
    sys.stderr.flush()
