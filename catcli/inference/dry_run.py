"""``catcli predict --dry-run``: what a run would take, measured on its first rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from catcli.data.io.batch import Batch
from catcli.data.io.source import Source
from catcli.errors import UsageError
from catcli.inference.engines import Engine
from catcli.inference.planning import LabelingPlan
from catcli.inference.predict import applied_labels, open_job
from catcli.inference.predict_options import PredictOptions
from catcli.inference.shards import ShardOptions
from catcli.inference.summary import PredictSummary
from catcli.memory import peak_memory


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
    if options.engine not in ("local", "threads"):
        raise UsageError("--dry-run measures one process of this machine; leave out --engine.")
    with open_job(catalog, options, in_processes=False) as job:
        engine, source = job.engine, job.source
        sample = next(job.batches).slice(0, 4 * engine.texts_per_call)
        applied_labels(job)  # for what is wrong with them
        summary = _label(engine, source, sample, job.plan)
    speed = summary.rows / summary.seconds if summary.rows else 0.0
    decided = summary.decided / max(summary.labeled, 1)
    rows = None if source.piped else source.count()
    return RunEstimate(rows, rows / speed if rows and speed else None, speed, peak_memory(), engine.variant, engine.provider, decided)


def _label(engine: Engine, source: Source, sample: Batch, plan: LabelingPlan) -> PredictSummary:
    """Label some rows, which go nowhere."""
    started, summary = time.perf_counter(), PredictSummary()
    for result in engine.label_shards(source, iter([sample]), ShardOptions(engine.categories, plan)):
        summary.add(result.summary.counts())
    summary.seconds = time.perf_counter() - started
    return summary
