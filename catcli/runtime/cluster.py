"""The same labeler on many machines: Ray Data reads and plans, a pool of its actors labels, and this process finishes in order.

::

    files or a bucket ── Datasource: the same readers, the Planner ── Work ── actors: a Labeler each ── Work, Labels ── Finisher ── output
                         one task, on this machine where the files are

The planner settles by the rows alone which texts are labeled together, so whichever worker labels a work, and however often, its labels are
those of a run on one machine of the same kind. Ray does again what a lost worker had in hand.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import signal
import socket
import tempfile
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from catcli import adapter as adapters
from catcli.adapter import MANIFEST, Adapter, Variant
from catcli.errors import CatcliError, DeviceError, reason
from catcli.products.buckets import Object
from catcli.products.read import Source
from catcli.runtime.labeler import Labeler, Labels
from catcli.runtime.pipeline import Done
from catcli.runtime.planning import Planner, Work, rows_of_a_batch

if TYPE_CHECKING:
    import pandas as pd

THREADS = 4
"""Cores of a worker, at most, where there is no GPU: each of them labels a call of its own."""

ANSWER = 10
"""Seconds in which a cluster has to answer."""

CREDENTIALS = ("AWS_", "GOOGLE_", "AZURE_")
"""What variables of the environment begin with that say who asks a bucket; workers on other machines get them."""

SILENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would tell its makers about the cluster that it starts
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise it warns of a change to come
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Facts:
    """What a worker got: the variant and provider that it labels by, how many texts a call has there, and what is to be said of that."""

    variant: Variant
    provider: str
    texts: int
    notes: tuple[str, ...]


class Cluster:
    """An adapter on a cluster, in the place of a `Labeler`. A context: what it has started ends with it."""

    def __init__(self, adapter: Adapter, device: str, variant: str, batch_tokens: int | None, workers: int | None) -> None:
        """Join the cluster that ``RAY_ADDRESS`` names or that runs here, or start one of this machine, and load the adapter on a worker.

        ``workers`` are as many as there are GPUs, or on CPUs one for every `THREADS` cores, where nobody says otherwise.

        Raises:
            CatcliError: Ray is not installed, or its cluster cannot be joined.
            AdapterError: the adapter cannot be loaded there.
            DeviceError: ``device`` is ``cuda`` and the cluster has no GPU.
        """
        self.categories, self.adapter, self.notes = adapter.manifest.categories, adapter, list[str]()
        self._ray = _ray()
        with _quiet():
            resources: Mapping[str, float] = self._ray.cluster_resources()
            gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
            if device == "cuda" and not gpus:
                raise DeviceError("--device cuda: the Ray cluster has no GPU; --device cpu labels without.")
            on_gpu = gpus > 0 and device != "cpu"
            self.workers = workers or (gpus if on_gpu else max(1, cpus // THREADS))
            self._cpus = 1 if on_gpu else max(1, min(THREADS, cpus // self.workers))
            self._gpus = min(1.0, gpus / self.workers) if on_gpu else 0.0
            # An actor hands the files out, to workers that take the place of lost ones too: objects of the store may be gone by then.
            self._files = self._ray.remote(num_cpus=0)(_Files).remote(_packed(adapter))
            self._made: dict[str, Any] = {
                "files": self._files,
                "device": "cuda" if on_gpu else "cpu",
                "batch_tokens": batch_tokens,
                "threads": None if on_gpu else self._cpus,
            }
            remote = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(_Loaded)
            self._first = remote.remote(**self._made, variant=variant)
            facts: Facts = _unwrapped(lambda: self._ray.get(self._first.facts.remote()))
        self._made["variant"] = facts.variant  # of all workers: labels of several variants are not alike
        self.variant, self.provider, self.texts = facts.variant, facts.provider, facts.texts
        self.notes += facts.notes

    def __enter__(self) -> Self:
        """Ready."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Leave the cluster; one that was started here ends."""
        with _quiet():
            self._ray.shutdown()

    def label(self, texts: Sequence[str], top_k: int = 1) -> Labels:
        """Labels of some texts, by one worker."""
        found: Labels = _unwrapped(lambda: self._ray.get(self._first.label.remote(texts, top_k)))
        return found

    def labeled(self, source: Source, planner: Callable[[], Planner], k: int, warn: Callable[[str], None]) -> Generator[Done]:
        """All works of a source with their labels, in the order of its rows; ``warn`` hears of workers that were lost.

        ``planner`` makes the planner, where the rows are read.
        """
        with _quiet():
            self._ray.kill(self._first)  # its place is needed
            frames = _unwrapping(self._dataset(source, planner, k).iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=1))
            seen: set[str] = set()
            for frame in frames:
                for work, labels, worker in frame.itertuples(index=False):
                    if isinstance(work, CatcliError):
                        raise work
                    seen.add(worker)
                    if len(seen) > self.workers:
                        warn("a worker was lost; another has taken its place, and what was in hand there is done again")
                        seen = {worker}
                    yield work, labels

    def _dataset(self, source: Source, planner: Callable[[], Planner], k: int) -> Any:  # noqa: ANN401  # Ray carries no types
        import ray.data
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.target_max_block_size = 1  # a work is a block, and a block is what a worker takes
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        local = not all(isinstance(path, Object) for path in source.paths)
        works = ray.data.read_datasource(
            _datasource(source, planner, rows_of_a_batch(self.texts)),
            override_num_blocks=1,
            num_cpus=0,
            **({"scheduling_strategy": here} if local else {}),
        )
        return works.map_batches(
            _Worker,
            fn_constructor_kwargs={**self._made, "k": k},
            batch_size=1,
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=2),
            num_cpus=self._cpus,
            num_gpus=self._gpus,
        )


def _datasource(source: Source, planner: Callable[[], Planner], rows: int) -> Any:  # noqa: ANN401  # a class that is not there without Ray
    """The works of a source, a row each, read by one task: what is recalled of a text hangs on all rows before it."""
    import pandas as pd
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    folder = str(Path.cwd())

    def read() -> Iterator[pd.DataFrame]:
        with suppress(OSError):
            os.chdir(folder)  # names of files are as this process was given them
        try:
            for work in planner().works(source.batches(rows)):
                yield pd.DataFrame({"work": [work]})
        except CatcliError as error:  # in its place among the works: Ray would try again, and add to the sentence what it tried
            yield pd.DataFrame({"work": [error]})

    class Works(Datasource):  # type: ignore[misc,unused-ignore]
        def estimate_inmemory_data_size(self) -> None:
            """Unknown."""

        def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
            """One, whatever is asked for."""
            return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]

    return Works()  # type: ignore[no-untyped-call,unused-ignore]


class _Files:
    """Hands out the files of an adapter."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def all(self) -> dict[str, bytes]:
        """Each file's bytes, by its name."""
        return self._files


class _Loaded:
    """An adapter, loaded on a worker."""

    def __init__(self, files: Any, device: str, variant: str, batch_tokens: int | None, threads: int | None) -> None:  # noqa: ANN401
        self._files, self._options = files, (device, variant, batch_tokens, threads)
        self._labeler: Labeler | None = None
        self.threads = threads

    @property
    def labeler(self) -> Labeler:
        """Loaded when it is first needed: what goes wrong in a constructor reaches nobody as itself."""
        if self._labeler is None:
            import ray

            with tempfile.TemporaryDirectory() as scratch:
                for name, content in ray.get(self._files.all.remote()).items():
                    (Path(scratch) / name).write_bytes(content)
                self._labeler = Labeler(adapters.load(Path(scratch)), *self._options)
        return self._labeler

    def facts(self) -> Facts:
        """What was got here."""
        return Facts(self.labeler.variant, self.labeler.provider, self.labeler.texts, tuple(self.labeler.notes))

    def label(self, texts: Sequence[str], top_k: int) -> Labels:
        """Labels of some texts."""
        return self.labeler.label(texts, top_k)


class _Worker(_Loaded):
    """What Ray Data calls with a work at a time."""

    def __init__(self, *, k: int, **made: Any) -> None:  # noqa: ANN401  # those of `_Loaded`
        super().__init__(**made)
        self._k, self._name = k, uuid.uuid4().hex

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame's one work, and the labels of its calls beside it; or the error in its place."""
        import pandas as pd

        (work,) = frame["work"]
        labels: list[Labels] = []
        try:
            if isinstance(work, Work):
                with ThreadPoolExecutor(self.labeler.workers) as pool:
                    labels = list(pool.map(self.labeler.label, work.calls, itertools.repeat(self._k)))
        except CatcliError as error:
            work = error
        return pd.DataFrame({"work": [work], "labels": [labels], "worker": [self._name]})


def _packed(adapter: Adapter) -> dict[str, bytes]:
    """The files of an adapter that a labeler reads, for machines that do not have its folder."""
    served = adapter.manifest.variants.values()
    names = ["tokenizer.json", "linear.safetensors", "probe.parquet", *(name for one in served for name in (one.file, *one.data))]
    return {MANIFEST: (adapter.folder / MANIFEST).read_bytes(), **{name: adapter.file(name).read_bytes() for name in names}}


def _ray() -> Any:  # noqa: ANN401  # a module that is not there without the extra
    """Ray, connected."""
    os.environ.update({name: value for name, value in SILENT.items() if name not in os.environ})
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CatcliError("--engine ray takes one package more: pip install 'catcli[ray]'.") from error
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    handler = signal.getsignal(signal.SIGTERM)
    told = {name: value for name, value in os.environ.items() if name.startswith(CREDENTIALS)}
    with _quiet():
        try:
            ray.init(
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                include_dashboard=False,
                runtime_env={"env_vars": told},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CatcliError(
                f"--engine ray: the cluster cannot be joined or started ({reason(error)[:300]}); check RAY_ADDRESS, set "
                "RAY_AUTH_MODE=token if it asks for a token, or unset both for a cluster of this machine alone."
            ) from error
    signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place
    return ray


def _check_address(address: str) -> None:
    """Stop at an address where nobody listens, which Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), ANSWER).close()
    except (OSError, OverflowError) as error:
        raise CatcliError(
            f"RAY_ADDRESS is {address}, where no Ray cluster answers ({reason(error)}); start one with 'ray start --head', or unset it."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray says much: by its loggers, to standard output, where results go, and from C++ to the process's own standard error."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _without_stderr():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_stderr() -> Iterator[None]:
    """What is written to the process's standard error goes nowhere, but for what Python writes there, ours among it."""
    try:
        kept = os.dup(2)
    except OSError:  # closed by the caller (2>&-)
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="replace") as ours, redirect_stderr(ours):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _unwrapped(ask: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever a worker gives
    """What a worker answers; its error as it was raised there."""
    from ray.exceptions import RayError

    try:
        return ask()
    except RayError as error:
        raise _original(error) from error


def _unwrapping(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    from ray.exceptions import RayError

    try:
        yield from frames
    except RayError as error:
        raise _original(error) from error


def _original(error: BaseException) -> BaseException:
    """The sentence that was raised on a worker; of anything else Ray's own error, which has its traceback."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, CatcliError) and type(found).__module__.startswith("catcli"):
            return found
        if found is not None:
            waiting += [getattr(found, "cause", None), found.__cause__]
    return error
