"""The same labeler on many machines: Ray Data reads and plans, a pool of its actors labels, and this process finishes in order.

::

    files or a bucket ── Datasource: the readers, the BatchPlanner ── actors: a Labeler each ── Labels ── ResultWriter ── output
                         one task, on this machine where the files are

The planner decides by the rows alone which texts are labeled together, so whichever worker labels a batch, and however often, its labels
are those of a run on one machine of the same kind. Ray does again what a lost worker had in hand.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catcli.adapter.folder import Adapter, load_adapter
from catcli.adapter.manifest import MANIFEST, Variant
from catcli.data.io.batch import Batch
from catcli.data.io.buckets import BucketObject
from catcli.data.io.source import Source
from catcli.errors import CatcliError, DeviceError
from catcli.inference.labeler import Labeler, Labels, Vetting, candidate_variants
from catcli.inference.planning import BatchPlanner, PlannedBatch, rows_per_batch
from catcli.inference.ray_session import connect, silence, unwrap, unwrap_all
from catcli.inference.results import LabeledBatch
from catcli.inference.sandbox import check_adapter
from catcli.logs import LOGGER

if TYPE_CHECKING:
    import pandas as pd

MAX_WORKER_CORES = 4
"""Cores of a worker, at most, where there is no GPU: each of them labels a call of its own."""

WORKER_TIMEOUT = 600
"""Seconds in which a cluster, which may have to start machines first, has to have a place for a worker."""

CREDENTIALS = ("AWS_", "GOOGLE_", "AZURE_")
"""What variables of the environment begin with that say who asks a bucket; the task that reads gets them, wherever it runs."""


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker got: the variant and provider that it labels by, how many texts a call has there, and what is to be said of that."""

    variant: Variant
    provider: str
    texts_per_call: int
    notes: tuple[str, ...]


class RayEngine:
    """An adapter on the workers of a Ray cluster."""

    def __init__(
        self, adapter: Adapter, device: str, variant: str, batch_tokens: int | None, workers: int | None, max_change: float
    ) -> None:
        """Join the cluster that ``RAY_ADDRESS`` names or that runs here, or start one of this machine, and load the adapter on a worker.

        ``workers`` are as many as there are GPUs, or on CPUs one for every `MAX_WORKER_CORES` cores by default.

        Raises:
            CatcliError: Ray is not installed, or its cluster cannot be joined.
            AdapterError: the adapter cannot be loaded there.
            DeviceError: ``device`` is ``cuda`` and the cluster has no GPU.
        """
        self.categories, self.notes = adapter.manifest.categories, list[str]()
        self._ray, self._max_change = connect(), max_change
        with silence():
            try:
                facts = self._joined(adapter, device, variant, batch_tokens, workers)
            except BaseException:
                self._ray.shutdown()
                raise
        self._made["variant"] = facts.variant  # of all workers: labels of several variants are not alike
        self.variant, self.provider, self.texts_per_call = facts.variant, facts.provider, facts.texts_per_call
        self.cascade = adapter.manifest.variants[facts.variant].cascade(max_change)
        self.description = f"{facts.variant} on {facts.provider}, {self.workers} Ray workers"
        self.notes += facts.notes

    def _joined(self, adapter: Adapter, device: str, variant: str, batch_tokens: int | None, workers: int | None) -> WorkerInfo:
        """Settle how many workers of what size there are, and load the adapter on the first."""
        resources: Mapping[str, float] = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        # A worker lies on one machine: the cores of all together are no measure of what one of them has.
        largest = max(int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"])
        if device == "cuda" and not gpus:
            raise DeviceError("--device cuda: the Ray cluster has no GPU; --device cpu labels without.")
        on_gpu = gpus > 0 and device != "cpu"
        self.workers = workers or (gpus if on_gpu else max(1, cpus // MAX_WORKER_CORES))
        self._cpus = 1 if on_gpu else max(1, min(MAX_WORKER_CORES, largest, cpus // self.workers))
        self._gpus = 1 / math.ceil(self.workers / gpus) if on_gpu else 0.0
        # An actor hands the files out, to workers that take the place of lost ones too: objects of the store may be gone by then.
        holder = self._ray.remote(num_cpus=0, scheduling_strategy=_on_this_node())(_AdapterFiles)
        self._files = holder.remote(_pack_adapter(adapter))
        # Tried out once, here: workers get the bytes that were.
        tried = all(check_adapter(adapter, name) for name in candidate_variants(adapter, "cuda" if on_gpu else "cpu", variant))
        self._made: dict[str, Any] = {
            "files": self._files,
            "vetting": "done" if tried else "here",
            "device": "cuda" if on_gpu else "cpu",
            "batch_tokens": batch_tokens,
            "max_change": self._max_change,
            "threads": None if on_gpu else self._cpus,
        }
        remote = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(_LoadedAdapter)
        self._first = remote.remote(**self._made, variant=variant)
        resource = "GPU" if on_gpu else f"{self._cpus} cores"
        try:
            info: WorkerInfo = unwrap(lambda: self._ray.get(self._first.facts.remote(), timeout=WORKER_TIMEOUT))
        except TimeoutError as error:
            raise CatcliError(
                f"--engine ray: in {WORKER_TIMEOUT // 60} minutes the cluster had no place for a worker ({resource}); wait until others "
                "have ended, or give it more machines."
            ) from error
        return info

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        with silence():
            self._ray.shutdown()

    def label(self, texts: Sequence[str], top_k: int = 1) -> Labels:
        """Labels of some texts, by one worker."""
        labels: Labels = unwrap(lambda: self._ray.get(self._first.label.remote(texts, top_k)))
        return labels

    def label_batches(
        self,
        source: Source,
        batches: Iterator[Batch],  # noqa: ARG002  # one task of the cluster reads the source from its beginning
        planner: Callable[[], BatchPlanner],
        top_k: int,
    ) -> Generator[LabeledBatch]:
        """All batches with their labels, in the order of their rows; ``planner`` makes the planner where the rows are read."""
        with silence():
            self._ray.kill(self._first)  # its place is needed
            frames = unwrap_all(
                self._dataset(source, planner, top_k).iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=1)
            )
            warned: set[str] = set()
            for frame in frames:
                for batch, labels, worker in frame.itertuples(index=False):
                    if isinstance(batch, CatcliError):
                        raise batch
                    warned.add(worker)
                    if len(warned) > self.workers:
                        LOGGER.warning("a worker was lost; another has taken its place and does its batches again")
                        warned = {worker}
                    if batch.rows.note:  # by a reader elsewhere; what one here notes is logged as it reads
                        LOGGER.warning(batch.rows.note)
                    yield batch, labels

    def _dataset(self, source: Source, planner: Callable[[], BatchPlanner], k: int) -> Any:  # noqa: ANN401  # Ray carries no types
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.target_max_block_size = 1  # a batch is a block, and a block is what a worker takes
        local = not all(isinstance(path, BucketObject) for path in source.paths)
        planned = ray.data.read_datasource(
            _datasource(source, planner, rows_per_batch(self.texts_per_call)),
            override_num_blocks=1,
            num_cpus=0,
            **({"scheduling_strategy": _on_this_node()} if local else {}),
        )
        return planned.map_batches(
            _LabelingWorker,
            fn_constructor_kwargs={**self._made, "k": k},
            batch_size=1,
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=2),
            num_cpus=self._cpus,
            num_gpus=self._gpus,
        )


def _on_this_node() -> Any:  # noqa: ANN401  # Ray carries no types
    """On this machine, which lives as long as the run does, and has the files."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _datasource(source: Source, planner: Callable[[], BatchPlanner], rows: int) -> Any:  # noqa: ANN401  # a class that is not there without Ray
    """The planned batches of a source, a row each, read by one task: what is cached of a text depends on all rows before it."""
    import pandas as pd
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    folder = str(Path.cwd())
    # Not by the environment of Ray's jobs, which stands in its logs.
    remote = any(isinstance(path, BucketObject) for path in source.paths)
    credentials = {name: value for name, value in os.environ.items() if remote and name.startswith(CREDENTIALS)}

    def read() -> Iterator[pd.DataFrame]:
        os.environ.update(credentials)
        with suppress(OSError):
            os.chdir(folder)  # names of files are as this process was given them
        try:
            for batch in planner().plan_all(source.batches(rows)):
                yield pd.DataFrame({"batch": [batch]})
        except CatcliError as error:  # in its place among the batches: Ray would try again, and add to the sentence what it tried
            yield pd.DataFrame({"batch": [error]})

    class PlannedBatches(Datasource):  # type: ignore[misc,unused-ignore]
        def estimate_inmemory_data_size(self) -> None:
            """Unknown."""

        def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
            """One, whatever is asked for."""
            return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]

    return PlannedBatches()  # type: ignore[no-untyped-call,unused-ignore]


class _AdapterFiles:
    """Hands out the files of an adapter."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def all(self) -> dict[str, bytes]:
        """Each file's bytes, by its name."""
        return self._files


class _LoadedAdapter:
    """An adapter, loaded on a worker."""

    def __init__(
        self,
        files: Any,  # noqa: ANN401  # Ray carries no types
        vetting: Vetting,
        device: str,
        variant: str,
        batch_tokens: int | None,
        threads: int | None,
        max_change: float,
    ) -> None:
        self._files, self._options = files, (device, variant, batch_tokens, threads, vetting, max_change)
        self._labeler: Labeler | None = None

    @property
    def labeler(self) -> Labeler:
        """Loaded when it is first needed: Ray does not pass on an error of a constructor as it is."""
        if self._labeler is None:
            import ray

            with tempfile.TemporaryDirectory() as scratch:
                for name, content in ray.get(self._files.all.remote()).items():
                    (Path(scratch) / name).write_bytes(content)
                self._labeler = Labeler(load_adapter(Path(scratch)), *self._options)
        return self._labeler

    def facts(self) -> WorkerInfo:
        """What was got here."""
        return WorkerInfo(self.labeler.variant, self.labeler.provider, self.labeler.texts_per_call, tuple(self.labeler.notes))

    def label(self, texts: Sequence[str], top_k: int) -> Labels:
        """Labels of some texts."""
        return self.labeler.label(texts, top_k)


class _LabelingWorker(_LoadedAdapter):
    """What Ray Data calls with a batch at a time."""

    def __init__(self, *, k: int, **loading: Any) -> None:  # noqa: ANN401  # those of `_LoadedAdapter`
        super().__init__(**loading)
        self._k, self._name = k, uuid.uuid4().hex

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame's one batch with the labels of its calls, or the error in its place."""
        import pandas as pd

        (batch,) = frame["batch"]
        labels: list[Labels] = []
        try:
            if isinstance(batch, PlannedBatch):
                with ThreadPoolExecutor(self.labeler.workers) as pool:
                    labels = list(pool.map(self.labeler.label, batch.calls, itertools.repeat(self._k)))
        except CatcliError as error:
            batch = error
        return pd.DataFrame({"batch": [batch], "labels": [labels], "worker": [self._name]})


def _pack_adapter(adapter: Adapter) -> dict[str, bytes]:
    """The files of an adapter that a labeler reads, for machines that do not have its folder."""
    served = adapter.manifest.variants.values()
    names = ["tokenizer.json", "linear.safetensors", "probe.parquet", *(name for info in served for name in (info.file, *info.data))]
    return {MANIFEST: (adapter.folder / MANIFEST).read_bytes(), **{name: adapter.file(name).read_bytes() for name in names}}
