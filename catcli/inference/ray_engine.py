"""Labeling on a Ray cluster: actors that read shards from where the files are, label them, and write parts.

The driver hands out names and takes counts. An actor that is lost, or its machine, is made again elsewhere by Ray, which does again what it
had at work; a part is the same bytes whoever makes it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from catcli.adapter.folder import Adapter
from catcli.errors import CatcliError, DeviceError
from catcli.inference.labeler import candidate_variants
from catcli.inference.ray_session import connect, silence, unwrap
from catcli.inference.remote import LabelerOptions, RemoteWorker, RunOptions, WorkerInfo, pack_adapter
from catcli.inference.remote_engine import RemoteEngine, WorkerHandle
from catcli.inference.sandbox import check_adapter
from catcli.inference.shards import Results, Work
from catcli.logs import LOGGER
from catcli.wording import count_noun

MAX_WORKER_CORES = 4
"""Cores of a worker, at most, where there is no GPU: each of them labels a call of its own."""

STOP_TIMEOUT = 2
"""Seconds that workers have to clear their files away at the end of a run."""

WORKER_TIMEOUT = 600
"""Seconds in which a cluster, which may have to start machines first, has to have a place for a worker."""


class RayEngine(RemoteEngine):
    """An adapter on the workers of a Ray cluster."""

    def __init__(
        self, adapter: Adapter, device: str, variant: str, batch_tokens: int | None, workers: int | None, max_change: float
    ) -> None:
        """Join the cluster that ``RAY_ADDRESS`` names or that runs here, or start one of this machine, and load the adapter on a worker.

        ``workers`` are as many as there are GPUs, or on CPUs one for every `MAX_WORKER_CORES` cores by default. A cluster that has no GPU
        yet and starts machines on demand gets as many as ``workers`` say, with ``device`` ``cuda``.

        Raises:
            CatcliError: Ray is not installed, or its cluster cannot be joined.
            AdapterError: the adapter cannot be loaded there.
            DeviceError: ``device`` is ``cuda`` and the cluster has no GPU.
        """
        self._ray = connect()
        with silence():
            try:
                info = self._join(adapter, device, variant, batch_tokens, workers, max_change)
            except BaseException:
                self._ray.shutdown()
                raise
        super().__init__(adapter, info, count_noun(self._count, "Ray worker"), self._count, max_change)

    def _join(
        self, adapter: Adapter, device: str, variant: str, batch_tokens: int | None, workers: int | None, max_change: float
    ) -> WorkerInfo:
        """Settle how many workers of what size there are, and load the adapter on the first."""
        resources: Mapping[str, float] = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        # A worker lies on one machine: the cores of all together are no measure of what one of them has.
        largest = max((int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]), default=1)
        if device == "cuda" and not gpus and workers is None:
            raise DeviceError(
                "--device cuda: the Ray cluster has no GPU; --device cpu labels without, and --workers N asks a cluster that starts "
                "machines by itself for N of them."
            )
        on_gpu = device == "cuda" or (gpus > 0 and device != "cpu")
        self._count = workers or (gpus if on_gpu else max(1, cpus // MAX_WORKER_CORES))
        cores = 1 if on_gpu else max(1, min(MAX_WORKER_CORES, largest, cpus // self._count))
        share = (1 / math.ceil(self._count / gpus) if gpus else 1.0) if on_gpu else 0.0
        served = "cuda" if on_gpu else "cpu"
        # Tried out once, here: workers get the bytes that were.
        vetted = all(check_adapter(adapter, name) for name in candidate_variants(adapter, served, variant))
        options = LabelerOptions(
            adapter.fingerprint, served, variant, batch_tokens, None if on_gpu else cores, "done" if vetted else "here", max_change
        )
        # An actor hands the files out, to workers that take the place of lost ones too: objects of the store may be gone by then.
        holder = self._ray.remote(num_cpus=0, scheduling_strategy=_on_this_node())(_AdapterFiles)
        self._files = holder.remote(pack_adapter(adapter))
        self._remote = self._ray.remote(num_cpus=cores, num_gpus=share, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(
            _RayWorker
        )
        self._actors = [self._remote.remote(self._files, options)]
        try:
            info: WorkerInfo = unwrap(lambda: self._ray.get(self._actors[0].info.remote(), timeout=WORKER_TIMEOUT))
        except TimeoutError as error:
            wanted = "GPU" if on_gpu else f"{cores} cores"
            raise CatcliError(
                f"--engine ray: in {WORKER_TIMEOUT // 60} minutes the cluster had no place for a worker ({wanted}); wait until others "
                "have ended, or give it more machines."
            ) from error
        self._options = options.pinned(info)
        return info

    def first_worker(self) -> WorkerHandle:
        """The first of them, which is started again where a run has ended."""
        if not self._actors:
            self._actors.append(self._remote.remote(self._files, self._options))
        return _Actor(self._ray, self._actors[0], None)

    def open_workers(self, run: RunOptions, ready: Callable[[WorkerHandle], None]) -> None:
        """Start all workers; those that the cluster has no place for yet are handed nothing until it has."""
        with silence():
            shared = self._ray.put(run)
            self._actors += [self._remote.remote(self._files, self._options) for _ in range(self.workers - len(self._actors))]
            starting = {actor.info.remote(): _Actor(self._ray, actor, shared) for actor in self._actors}
        threading.Thread(target=self._wait_for, args=(starting, ready), daemon=True).start()

    def _wait_for(self, starting: dict[Any, WorkerHandle], ready: Callable[[WorkerHandle], None]) -> None:
        while starting and self._actors:
            begun, _ = self._ray.wait(list(starting), num_returns=1, timeout=1.0)
            for reference in begun:
                ready(starting.pop(reference))

    def end_workers(self) -> None:
        """End the workers, whatever they are at."""
        with silence(), suppress(Exception):  # those that are at work have no time to clear their files away
            self._ray.wait([actor.stop.remote() for actor in self._actors], num_returns=len(self._actors), timeout=STOP_TIMEOUT)
        with silence(), suppress(Exception):  # of a cluster that is gone
            for actor in self._actors:
                self._ray.kill(actor, no_restart=True)
        self._actors = []

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        with silence():
            self._ray.shutdown()


class _Actor:
    """A worker of the cluster."""

    def __init__(self, ray: Any, actor: Any, run: Any) -> None:  # noqa: ANN401  # Ray carries no types
        self._ray, self._actor, self._run = ray, actor, run
        self._name: str | None = None

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401  # what the method gives
        """What a method gives; a run is begun by itself, on an actor that took another's place, too."""
        if method != "run":
            return unwrap(lambda: self._ray.get(getattr(self._actor, method).remote(*arguments)))
        name, results = unwrap(lambda: self._ray.get(self._actor.label_shards.remote(self._run, *arguments)))
        if self._name not in (None, name):
            LOGGER.warning("a worker was lost; another has taken its place and does its shards again")
        self._name = name
        return results


class _RayWorker(RemoteWorker):
    """A `RemoteWorker` in an actor."""

    def __init__(self, files: Any, options: LabelerOptions) -> None:  # noqa: ANN401  # Ray carries no types
        import ray

        super().__init__(lambda: ray.get(files.all.remote()), options)
        self._name, self._begun = uuid4().hex, False

    def label_shards(self, run: RunOptions, work: Work) -> tuple[str, Results | None]:
        """The name of this actor, and its results."""
        if not self._begun:
            self.start(run)
            self._begun = True
        return self._name, self.run(work)


class _AdapterFiles:
    """Hands out the files of an adapter."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def all(self) -> dict[str, bytes]:
        """Each file's bytes, by its name."""
        return self._files


def _on_this_node() -> Any:  # noqa: ANN401  # Ray carries no types
    """On this machine, which lives as long as the run does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
