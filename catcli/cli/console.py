"""What a command shows: results on standard output; logs, progress and errors on standard error."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TextIO

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from catcli.errors import CatcliError
from catcli.logs import FACTS, LOGGER, Advance, log_event, no_progress
from catcli.wording import printable

HEARTBEAT_SECONDS = 30.0
"""Seconds between two lines of a JSON log that say how far a run is."""

MIN_WIDTH = 72
"""Least width of tables: on a narrower terminal lines break, since tables that are cut to fit would lose digits."""

_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class PlainConsole(RichConsole):
    """A console on which no text of a product, a file's name or an adapter can move the cursor, color the screen or turn a line around."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
        self.width = max(self.width, MIN_WIDTH)

    def on_broken_pipe(self) -> None:
        """A closed standard output ends the run; a closed standard error does not."""
        if not self.stderr:
            raise BrokenPipeError
        discard_output(sys.stderr)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is drawn, its text `printable`; the control codes are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def discard_output(stream: TextIO) -> None:
    """Send what is written to ``stream`` from now on to the null device: its reader has closed it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@dataclass(frozen=True)
class Console:
    """Shows the results and the log of one command.

    ``quiet`` leaves results, warnings and errors; ``verbose`` adds debug messages; with ``strict`` a warning is an error. With ``json_log``
    every line on standard error is a JSON object, with the time and the id ``run``, which is the same in all lines of a run.
    """

    quiet: bool = False
    verbose: bool = False
    json_log: bool = False
    strict: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    out: RichConsole = field(default_factory=PlainConsole)
    err: RichConsole = field(default_factory=lambda: PlainConsole(stderr=True))
    started: float = field(default_factory=time.monotonic)
    warned: set[str] = field(default_factory=set)
    bars: list[Progress] = field(default_factory=list)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While open, catcli's log goes to this console."""
        handler, level, propagate = _ConsoleHandler(self), LOGGER.level, LOGGER.propagate
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.propagate = False  # a library may have configured the root logger, which would show everything twice
        try:
            yield
        finally:
            LOGGER.removeHandler(handler)
            LOGGER.setLevel(level)
            LOGGER.propagate = propagate

    def log(self, record: logging.LogRecord) -> None:
        """Show a record of the log.

        Raises:
            CatcliError: it is a warning and ``--strict`` was given; nothing was written by then.
        """
        sentence, facts = one_line(record.getMessage()), getattr(record, FACTS, None)
        if record.levelno >= logging.WARNING:
            if self.strict:
                raise CatcliError(f"{sentence.removesuffix('.')} (--strict treats this as an error).")
            if sentence not in self.warned:
                self.warned.add(sentence)
                self._line("warning", sentence, "yellow")
        elif self.quiet or (facts is not None and not self.json_log) or (record.levelno < logging.INFO and not self.verbose):
            return
        elif facts is not None:
            self._line("info", sentence, "", {"seconds": self.seconds, **facts})
        else:
            debug = record.levelno < logging.INFO
            self._line("debug" if debug else "info", record.getMessage(), "dim" if debug else "")

    def error(self, sentence: str, exit_code: int) -> None:
        """Why the run ends early."""
        if self.json_log:
            self._line("error", sentence, "", {"exit_code": exit_code, "seconds": self.seconds})
        else:
            with _ignoring_closed_stderr():
                self.err.print(Text("error: ", style="bold red") + Text(one_line(sentence), style=""), soft_wrap=True)
        with _ignoring_closed_stderr():
            sys.stderr.flush()

    def info(self, sentence: str) -> None:
        """Log a sentence of the command itself."""
        LOGGER.info(sentence)

    def event(self, event: str, **facts: object) -> None:
        """A line that only the JSON log has."""
        log_event(event, **facts)

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return round(time.monotonic() - self.started, 3)

    def print(self, *renderables: RenderableType) -> None:
        """Results on standard output, once no bar is shown any more; a line of text is not wrapped."""
        self._stop_bars()
        for renderable in renderables:
            self.out.print(renderable, soft_wrap=isinstance(renderable, str))

    def print_json(self, text: str) -> None:
        """A JSON text on standard output; control characters, which can stand in its strings alone, are written as JSON's escapes."""
        self._stop_bars()
        print(_UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))

    def _line(self, level: str, sentence: str, style: str, facts: Mapping[str, object] | None = None) -> None:
        with _ignoring_closed_stderr():
            if self.json_log:
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                line = json.dumps({"time": now, "run": self.run, "level": level, "message": sentence, **(facts or {})})
                print(line, file=self.err.file, flush=True)
            else:
                self.err.print(f"warning: {sentence}" if level == "warning" else sentence, style=style, soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Advance]:
        """A bar with rows a second and the time left on a terminal, a line now and then in a JSON log, nothing elsewhere."""
        if self.quiet or not (self.json_log or self.err.is_terminal):
            yield no_progress
        elif self.json_log:
            yield self._heartbeat()
        else:
            with self._bar() as advance:
                yield advance

    def _stop_bars(self) -> None:
        while self.bars:
            self.bars.pop().stop()

    def _heartbeat(self) -> Advance:
        last = time.monotonic()

        def advance(stage: str, done: float, total: float) -> None:
            nonlocal last
            if time.monotonic() - last >= HEARTBEAT_SECONDS:
                last = time.monotonic()
                self._line("progress", stage, "", {"done": round(done), "of": round(total)})

        return advance

    @contextmanager
    def _bar(self) -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), _Speed(), TimeRemainingColumn())
        # What is printed goes to standard output itself: rich would write it to the bar's console, which is standard error.
        with Progress(*columns, console=self.err, transient=True, redirect_stdout=False) as bar:
            self.bars.append(bar)
            tasks: dict[str, object] = {}

            def advance(stage: str, done: float, total: float) -> None:
                if stage not in tasks:
                    for task in bar.task_ids:
                        bar.remove_task(task)
                    tasks.clear()
                    tasks[stage] = bar.add_task(stage, total=total)
                bar.update(bar.task_ids[0], completed=done, total=total)

            yield advance


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.log(record)


@contextmanager
def _ignoring_closed_stderr() -> Iterator[None]:
    """Go on where nobody reads standard error any more: a pipe whose reader has gone, a terminal that was closed."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EIO:
            raise
        discard_output(sys.stderr)


def one_line(sentence: str) -> str:
    """A sentence with its line breaks escaped: a file's name may hold some, and what follows would look like a line of ours."""
    return sentence.replace("\r", "\\r").replace("\n", "\\n")


class _Speed(ProgressColumn):
    """What is done: rows, or a share of a stage whose name ends with a per cent sign."""

    def render(self, task: Task) -> Text:
        if task.description.endswith("%"):
            return Text(f"{task.completed:.0f} of {task.total or 100:.0f}")
        speed = task.finished_speed or task.speed
        return Text(f"{task.completed:,.0f} rows" + (f", {speed:,.0f}/s" if speed else ""))
