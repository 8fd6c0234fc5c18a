"""read → plan → label → finish → write, at the same time: a catalog in, the same catalog with categories out.

::

    batches ── Planner ── Work ── a labeler's threads, or a cluster's ── Labels ── Finisher ── output

One thread reads ahead, one writes behind, and as many as the device is worth label; what is on its way between them is bounded, so memory
is that of some batches, whatever the catalog's size. Works are finished in the order of their rows, whoever labeled them first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Any, Protocol

import numpy.typing as npt

from catcli.data.io.bad_rows import BadRowsFile
from catcli.data.io.batch import Batch
from catcli.data.io.review import ReviewFile
from catcli.inference.concurrency import READ_AHEAD, read_ahead, thread_pool
from catcli.inference.label_cache import PreviousLabels
from catcli.inference.labeler import Labeler, Labels
from catcli.inference.planning import BatchPlanner, LabelingPlan, PlannedBatch, rows_per_batch
from catcli.inference.results import Advance, LabeledBatch, PredictSummary, ResultWriter, RowOutput

Engine = Callable[[Callable[[], BatchPlanner], int], Generator[LabeledBatch]]
"""Called with what makes the planner and the classes that are wanted of a text: all works with their labels, in the order of their rows."""


class LabelerInfo(Protocol):
    """What a run asks of the labeler, wherever it is loaded."""

    categories: tuple[str, ...]

    @property
    def texts(self) -> int:
        """Texts of a call."""


def run_pipeline(
    labeled: Engine,
    output: RowOutput,
    labeler: LabelerInfo,
    plan: LabelingPlan,
    advance: Advance,
    *,
    previous: PreviousLabels | None = None,
    review: ReviewFile | None = None,
    bad_rows: BadRowsFile | None = None,
    summary: PredictSummary | None = None,
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
) -> PredictSummary:
    """Have all rows ``labeled``, by ``labeler``, and write them to ``output`` in their order.

    ``review`` gets those that are not accepted, and ``bad_rows`` those that could not be read.

    ``summary`` and ``arrays`` are those of the last finished part of a run that goes on; its rows are read past.
    """
    summary = summary or PredictSummary()
    earlier = previous.hashes if previous is not None else None
    past = (summary.rows, summary.bad)
    planner = partial(BatchPlanner, plan, labeler.texts, by_input=output.by_input, earlier=earlier, done=past, arrays=arrays)
    finisher = ResultWriter(
        labeler.categories, plan, output, advance, previous=previous, review=review, bad_rows=bad_rows, summary=summary, arrays=arrays
    )
    with closing(labeled(planner, finisher.k)) as done:
        return finisher.through(done)


def local_engine(batches: Iterable[Batch], labeler: Labeler) -> Engine:
    """Batches, labeled by the threads of this process."""

    def labeled(planner: Callable[[], BatchPlanner], k: int) -> Generator[LabeledBatch]:
        with read_ahead(batches, READ_AHEAD) as read:
            yield from label_locally(planner().works(read), labeler, k)

    return labeled


def label_locally(works: Iterable[PlannedBatch], labeler: Labeler, k: int) -> Generator[LabeledBatch]:
    """The works with their labels, by the threads of this process."""
    most = max(2, math.ceil(2 * labeler.workers * labeler.texts / rows_per_batch(labeler.texts)))
    waiting: deque[tuple[PlannedBatch, list[Future[Labels]]]] = deque()

    def oldest() -> LabeledBatch:
        work, calls = waiting.popleft()
        return work, [call.result() for call in calls]

    with thread_pool(labeler.workers) as pool:
        for work in works:
            waiting.append((work, [pool.submit(labeler.label, texts, k) for texts in work.calls]))
            if len(waiting) >= most:
                yield oldest()
        while waiting:
            yield oldest()
