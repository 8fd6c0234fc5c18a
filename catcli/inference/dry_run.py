"""``catcli predict --dry-run``: what a run would take, by its first rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

from catcli.commands.predict import PredictOptions, engine_of, prepare
from catcli.errors import UsageError
from catcli.inference.pipeline import run_pipeline
from catcli.inference.session import peak_memory
from catcli.talk import Talk


@dataclass(frozen=True)
class RunEstimate:
    """What a run would take: seconds and bytes of memory, by a sample of its first rows."""

    rows: int | None
    seconds: float | None
    rows_per_second: float
    memory: int
    variant: str
    provider: str


def dry_run(
    catalog: Sequence[str],
    asked: PredictOptions,
    *,
    as_json: bool = False,
    talk: Talk | None = None,
) -> RunEstimate:
    """What the run would take, by its first rows; nothing is written.

    Raises:
        CatcliError: what `predict` would raise before the first row.
    """
    talk = talk or Talk.silent()
    asked.check(as_json)
    if asked.engine != "local":
        raise UsageError("--dry-run measures this machine; leave out --engine.")
    with ExitStack() as opened:
        ready = prepare(catalog, asked, talk, None, opened)
    source = ready.source
    sample = next(ready.batches)
    sample = sample.slice(0, 4 * ready.labeler.texts)
    engine = engine_of(replace(ready, batches=iter([sample])), talk)
    summary = run_pipeline(engine, _NoOutput(), ready.labeler, ready.plan, lambda *_: None)
    speed = summary.rows / summary.seconds if summary.rows else 0.0
    rows = None if source.piped else source.count()
    found = RunEstimate(rows, rows / speed if rows and speed else None, speed, peak_memory(), ready.labeler.variant, ready.labeler.provider)
    if as_json:
        talk.result(json.dumps(asdict(found)))
        return found
    many = "an unknown number of" if rows is None else f"{rows:,}"
    long = "" if found.seconds is None else f", about {_duration(found.seconds)}"
    talk.out.print(
        f"{many} rows{long} at {speed:,.0f} rows/s ({found.variant} on {found.provider}); {found.memory / 2**20:,.0f} MiB of memory",
        soft_wrap=True,
    )
    talk.say("nothing was written; texts that come again, and the rows of --previous, make it faster")
    return found


class _NoOutput:
    by_input = False

    def write(self, *_: object) -> None:
        """The rows are only counted."""

    def finish_part(self, *_: object) -> None:
        """There are no parts."""

    def keep(self, *_: object) -> None:
        """There is nothing to keep."""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
