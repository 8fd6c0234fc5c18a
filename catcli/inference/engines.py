"""What labels a catalog: an engine. This process with its threads is one, a Ray cluster (`catcli.inference.ray_engine`) another.

An engine decides where texts are labeled, never which texts are labeled together: that follows from the rows alone (`BatchPlanner`), so
every engine gives the same output.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol

from catcli.adapter.folder import Adapter
from catcli.adapter.manifest import Cascade
from catcli.data.io.batch import Batch
from catcli.data.io.source import Source
from catcli.inference.concurrency import READ_AHEAD, read_ahead, thread_pool
from catcli.inference.labeler import Labeler, Labels
from catcli.inference.planning import BatchPlanner, PlannedBatch, rows_per_batch
from catcli.inference.predict_options import PredictOptions
from catcli.inference.results import LabeledBatch

MAX_WAITING_BATCHES = 4
"""Rows of so many full batches, at most, are in work at once, where these have few texts to label."""


class Engine(Protocol):
    """Labels texts with one adapter."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of how it was loaded."""

    @property
    def variant(self) -> str:
        """The variant of the model that it computes with."""

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider that it computes on."""

    @property
    def cascade(self) -> Cascade | None:
        """Which texts the linear model decides alone; None where both models label all."""

    @property
    def texts_per_call(self) -> int:
        """Texts that are worth labeling in one call."""

    @property
    def description(self) -> str:
        """What the summary of a run says of it."""

    def label(self, texts: Sequence[str], top_k: int = 1) -> Labels:
        """The ``top_k`` most probable classes of every text."""

    def label_batches(
        self, source: Source, batches: Iterator[Batch], planner: Callable[[], BatchPlanner], top_k: int
    ) -> Generator[LabeledBatch]:
        """All batches with their labels, in the order of their rows.

        ``batches`` are those of ``source``, of which the first has been looked at; an engine that reads elsewhere opens ``source`` again.
        ``planner`` makes the planner where the rows are read.
        """

    def close(self) -> None:
        """Free what it holds."""


class LocalEngine:
    """The threads of this process."""

    def __init__(self, labeler: Labeler) -> None:
        self._labeler = labeler
        self.categories, self.notes = labeler.categories, labeler.notes
        self.variant, self.provider, self.texts_per_call = labeler.variant, labeler.provider, labeler.texts_per_call
        self.cascade = labeler.cascade
        self.description = f"{labeler.variant} on {labeler.provider}"

    def label(self, texts: Sequence[str], top_k: int = 1) -> Labels:
        """The ``top_k`` most probable classes of every text, by the calling thread."""
        return self._labeler.label(texts, top_k)

    def label_batches(
        self,
        source: Source,  # noqa: ARG002  # the batches of it that were begun are enough here
        batches: Iterator[Batch],
        planner: Callable[[], BatchPlanner],
        top_k: int,
    ) -> Generator[LabeledBatch]:
        """All batches with their labels; one thread reads ahead and several label."""
        with read_ahead(batches, READ_AHEAD) as read:
            yield from self.label_planned(planner().plan_all(read), top_k)

    def label_planned(self, planned: Iterable[PlannedBatch], top_k: int) -> Generator[LabeledBatch]:
        """Planned batches with their labels; a bounded number of them is in work at once."""
        workers, max_rows = self._labeler.workers, MAX_WAITING_BATCHES * rows_per_batch(self.texts_per_call)
        waiting: deque[tuple[PlannedBatch, list[Future[Labels]]]] = deque()

        def is_due() -> bool:
            """Whether the oldest batch is to be waited for: it is ready, or every worker has a call in work and one to come.

            A batch of a small file has a single call, and one whose texts have mostly been labeled before has few.
            """
            if all(call.done() for call in waiting[0][1]):
                return True
            calls = sum(not call.done() for _, calls in waiting for call in calls)
            return len(waiting) > 1 and (calls >= 2 * workers or sum(len(batch.rows) for batch, _ in waiting) >= max_rows)

        def oldest() -> LabeledBatch:
            batch, calls = waiting.popleft()
            return batch, [call.result() for call in calls]

        with thread_pool(workers) as pool:
            for batch in planned:
                waiting.append((batch, [pool.submit(self._labeler.label, texts, top_k) for texts in batch.calls]))
                while waiting and is_due():
                    yield oldest()
            while waiting:
                yield oldest()

    def close(self) -> None:
        """Nothing is held."""


def open_engine(adapter: Adapter, options: PredictOptions) -> Engine:
    """The engine that the options name, with the adapter loaded.

    Raises:
        CatcliError: the adapter cannot be loaded, or the cluster cannot be joined.
    """
    arguments = (adapter, options.device, options.variant, options.batch_tokens, options.workers)
    max_change = options.allowed_change
    if options.engine == "ray":
        from catcli.inference.ray_engine import RayEngine

        return RayEngine(*arguments, max_change)
    return LocalEngine(Labeler(*arguments, max_change=max_change))
