"""How commands speak: results to standard output, talk to standard error; bars only where somebody looks."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from catcli.errors import CatcliError
from catcli.wording import printable

Advance = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is."""

HEARTBEAT = 30.0
"""Seconds between two lines of a log that say how far a run is."""

_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


NARROWEST = 72
"""Columns that tables take on a terminal that has less, which then breaks their lines: cut to fit, their numbers would lose digits."""


class PlainConsole(Console):
    """A console on which no text of a product, a file's name or an adapter can move the cursor, color the screen or turn a line around."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
        self.width = max(self.width, NARROWEST)

    def on_broken_pipe(self) -> None:
        """Who reads the results has gone, which ends the run; one who reads the talk does not."""
        if not self.stderr:
            raise BrokenPipeError
        unheard(sys.stderr)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is drawn, its text `printable`; the controls are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def unheard(stream: TextIO) -> None:
    """Nobody reads ``stream`` any more: what is written to it from now on goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@dataclass(frozen=True)
class Talk:
    """Where a command speaks.

    ``quiet`` leaves only warnings, errors and results; with ``strict`` a warning is an error; ``verbose`` adds what is usually of no
    interest. ``bars_alone`` leaves sentences out but for warnings, for a part of a larger run; a warning that is among ``warned`` is not
    said again. With ``json_log`` each sentence is a JSON object a line, with the time and ``run``, which is the same in all lines of a run.
    """

    quiet: bool = False
    verbose: bool = False
    bars_alone: bool = False
    json_log: bool = False
    strict: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    warned: set[str] = field(default_factory=set)
    out: Console = field(default_factory=PlainConsole)
    err: Console = field(default_factory=lambda: PlainConsole(stderr=True))
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def silent(cls) -> Self:
        """For callers in Python: nothing is printed, what the command returns is all."""
        return cls(quiet=True, out=PlainConsole(quiet=True), err=PlainConsole(stderr=True, quiet=True))

    def say(self, sentence: str) -> None:
        """One line of talk."""
        if not (self.quiet or self.bars_alone):
            self._line("info", sentence, "", {})

    def detail(self, sentence: str) -> None:
        """One line of talk for ``--verbose``."""
        if self.verbose:
            self._line("detail", sentence, "dim", {})

    def warn(self, sentence: str) -> None:
        """Something that the user may not expect.

        Raises:
            CatcliError: warnings are errors here, as ``--strict`` has it; nothing was written by then.
        """
        if self.strict:
            raise CatcliError(f"{one_line(sentence).removesuffix('.')} (--strict takes this for an error).")
        if sentence not in self.warned:
            self.warned.add(sentence)
            self._line("note", one_line(sentence), "yellow", {})

    def complain(self, sentence: str, exit_code: int) -> None:
        """Why the run ends early."""
        if self.json_log:
            self._line("error", sentence, "", {"exit_code": exit_code, "seconds": self.seconds})
        else:
            with _heard_or_not():
                self.err.print(Text("error: ", style="bold red") + Text(one_line(sentence), style=""), soft_wrap=True)
        with _heard_or_not():
            sys.stderr.flush()

    def record(self, event: str, **facts: object) -> None:
        """A line that only a log in JSON has: what happened, and ``facts`` under their names."""
        if self.json_log and not (self.quiet or self.bars_alone):
            self._line("info", event, "", {"seconds": self.seconds, **facts})

    @property
    def seconds(self) -> float:
        """How long it has been talking."""
        return round(time.monotonic() - self.began, 3)

    def result(self, text: str) -> None:
        """A JSON text to standard output; what a terminal would obey is written as JSON's escapes, since it can stand in strings alone."""
        print(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))

    def _line(self, level: str, sentence: str, style: str, facts: dict[str, object]) -> None:
        if not self.json_log:
            with _heard_or_not():
                self.err.print(f"note: {sentence}" if level == "note" else sentence, style=style, soft_wrap=True)
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        told = {"time": now, "run": self.run, "level": level, "message": sentence, **facts}
        with _heard_or_not():
            print(json.dumps(told), file=self.err.file, flush=True)

    @contextmanager
    def progress(self) -> Iterator[Advance]:
        """A bar with rows a second and the time left, on a terminal; in a log a line now and then; silence elsewhere."""
        if self.quiet:
            yield lambda *_: None
        elif self.json_log:
            yield self._heartbeat()
        elif not self.err.is_terminal:
            yield lambda *_: None
        else:
            with self._bar() as advance:
                yield advance

    def _heartbeat(self) -> Advance:
        last = time.monotonic()

        def advance(stage: str, done: float, total: float) -> None:
            nonlocal last
            if time.monotonic() - last >= HEARTBEAT:
                last = time.monotonic()
                self._line("progress", stage, "", {"done": round(done), "of": round(total)})

        return advance

    @contextmanager
    def _bar(self) -> Iterator[Advance]:
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


@contextmanager
def _heard_or_not() -> Iterator[None]:
    """Go on where nobody reads standard error any more: a pipe whose reader has gone, a terminal that was closed."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EIO:
            raise
        unheard(sys.stderr)


def one_line(sentence: str) -> str:
    """A sentence whose line breaks are shown, not made: a file's name may hold some, and what follows would pass for a line of ours."""
    return sentence.replace("\r", "\\r").replace("\n", "\\n")


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{task.completed:,.0f} rows" + (f", {speed:,.0f}/s" if speed else ""))
