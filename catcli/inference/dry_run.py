"""``catcli predict --dry-run``: what a run would take, measured on its first rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catcli.errors import UsageError
from catcli.inference.pipeline import run_pipeline
from catcli.inference.predict import open_job
from catcli.inference.predict_options import PredictOptions
from catcli.inference.session import peak_memory


@dataclass(frozen=True)
class RunEstimate:
    """What a run would take: seconds and bytes of memory, measured on a sample of its first rows.

    ``decided`` is the share of texts that the linear model decides alone.
    """

    rows: int | None
    seconds: float | None
    rows_per_second: float
    memory: int
    variant: str
    provider: str
    decided: float


def dry_run(catalog: Sequence[str], options: PredictOptions) -> RunEstimate:
    """Label the first rows and estimate what the run would take; nothing is written.

    Raises:
        CatcliError: what `predict` would raise before the first row.
    """
    if options.engine != "local":
        raise UsageError("--dry-run measures this machine; leave out --engine.")
    with open_job(catalog, options) as job:
        engine, source = job.engine, job.source
        sample = next(job.batches).slice(0, 4 * engine.texts_per_call)
        summary = run_pipeline(engine, source, iter([sample]), _NoOutput(), job.plan, lambda *_: None)
    speed = summary.rows / summary.seconds if summary.rows else 0.0
    decided = summary.decided / max(summary.labeled, 1)
    rows = None if source.piped else source.count()
    return RunEstimate(rows, rows / speed if rows and speed else None, speed, peak_memory(), engine.variant, engine.provider, decided)


class _NoOutput:
    by_input = False

    def write(self, *_: object) -> None:
        """The rows are only counted."""

    def finish_part(self, *_: object) -> None:
        """There are no parts."""

    def keep(self, *_: object) -> None:
        """There is nothing to keep."""
