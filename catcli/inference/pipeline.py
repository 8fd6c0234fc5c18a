"""read → plan → label → write, at the same time: a catalog in, the same catalog with categories out.

::

    batches ── BatchPlanner ── PlannedBatch ── an engine's threads or workers ── Labels ── ResultWriter ── output

One thread reads ahead, one writes behind, and as many label as the device is worth; the number of batches between them is bounded, so
memory is that of some batches, whatever the catalog's size. Batches are written in the order of their rows, whoever labeled them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import numpy.typing as npt

from catcli.data.io.bad_rows import BadRowsFile
from catcli.data.io.batch import Batch
from catcli.data.io.review import ReviewFile
from catcli.data.io.source import Source
from catcli.inference.engines import Engine
from catcli.inference.label_cache import PreviousLabels
from catcli.inference.planning import BatchPlanner, LabelingPlan
from catcli.inference.results import PredictSummary, ResultWriter, RowOutput

Advance = Callable[[int, float], None]
"""Called after every batch with the rows labeled so far and the share of the input read, 0 to 1."""


def run_pipeline(
    engine: Engine,
    source: Source,
    batches: Iterator[Batch],
    output: RowOutput,
    plan: LabelingPlan,
    advance: Advance,
    *,
    previous: PreviousLabels | None = None,
    review: ReviewFile | None = None,
    bad_rows: BadRowsFile | None = None,
    summary: PredictSummary | None = None,
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
) -> PredictSummary:
    """Label the ``batches`` of ``source`` and write them to ``output`` in their order.

    ``review`` gets the rows that are not accepted, ``bad_rows`` those that could not be read. ``summary`` and ``arrays`` are those of the
    last finished part of a run that goes on; its rows are skipped.
    """
    summary = summary or PredictSummary()
    hashes = previous.hashes if previous is not None else None
    done = (summary.rows, summary.bad)
    planner = partial(BatchPlanner, plan, engine.texts_per_call, by_input=output.by_input, previous_hashes=hashes, done=done, arrays=arrays)
    writer = ResultWriter(
        engine.categories, plan, output, advance, previous=previous, review=review, bad_rows=bad_rows, summary=summary, arrays=arrays
    )
    with closing(engine.label_batches(source, batches, planner, writer.top_k)) as labeled:
        return writer.write_all(labeled)
