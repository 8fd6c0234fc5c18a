"""Labeling by several processes of this machine, which share its GPUs: one process of Python cannot keep one busy by itself."""

from __future__ import annotations

from collections.abc import Callable

from catcli.adapter.folder import Adapter
from catcli.child_process import ChildProcess
from catcli.errors import DeviceError
from catcli.inference.cuda import has_cuda, visible_gpus
from catcli.inference.labeler import candidate_variants
from catcli.inference.remote import LabelerOptions, RunOptions
from catcli.inference.remote_engine import RemoteEngine, WorkerHandle
from catcli.inference.sandbox import check_adapter
from catcli.inference.session import available_cores

CORES_PER_PROCESS, MAX_PROCESSES = 4, 4
"""Cores of a process, about, and at most so many processes a GPU by default: beside an H100 four labeled 81,000 rows/s, one 22,000."""

CALLS_AT_ONCE = 2
"""Calls that a process has at work on a GPU: the other processes fill the gaps."""


class ProcessEngine(RemoteEngine):
    """An adapter in several processes of this machine."""

    def __init__(
        self, adapter: Adapter, device: str, variant: str, batch_tokens: int | None, workers: int | None, max_change: float
    ) -> None:
        """Start ``workers`` processes, by default one for every `CORES_PER_PROCESS` cores; several GPUs take turns in getting one.

        Raises:
            AdapterError: the adapter cannot be loaded there.
            DeviceError: ``device`` is ``cuda`` and there is none, or not for all of them.
        """
        cores = available_cores()
        on_gpu = device != "cpu" and has_cuda()
        gpus = visible_gpus() if on_gpu else []
        count = workers or min(MAX_PROCESSES * max(1, len(gpus)), max(1, cores // CORES_PER_PROCESS))
        vetted = all(check_adapter(adapter, name) for name in candidate_variants(adapter, device, variant))
        # On a CPU the cores are divided.
        threads = CALLS_AT_ONCE if on_gpu else max(1, cores // count)
        options = LabelerOptions(adapter.fingerprint, device, variant, batch_tokens, threads, "done" if vetted else "here", max_change)
        folder = str(adapter.folder.resolve())
        self._gpus = [gpus[number % len(gpus)] if gpus else None for number in range(count)]
        self._processes = [_start(folder, options, gpu) for gpu in self._gpus]
        try:
            for process in self._processes:  # all load at the same time
                process.send("info")
            infos = [process.result() for process in self._processes]
        except BaseException:
            self.close()
            raise
        info = infos[0]
        for other in infos:
            if (other.variant, other.provider) != (info.variant, info.provider):
                self.close()
                raise DeviceError(
                    f"one process labels by {info.variant} on {info.provider} and another by {other.variant} on {other.provider}, which "
                    "give other labels; is the GPU's memory short? Pass fewer --workers, or --engine threads."
                )
        self._arguments = (folder, options.pinned(info))
        super().__init__(adapter, info, "1 process" if count == 1 else f"{count} processes", count, max_change)

    def first_worker(self) -> WorkerHandle:
        """The first of them, which is started again where a run has ended."""
        if not self._processes:
            self._processes.append(_start(*self._arguments, self._gpus[0]))
        return self._processes[0]

    def open_workers(self, run: RunOptions, ready: Callable[[WorkerHandle], None]) -> None:
        """Give all processes the run; those that a run before ended are started again."""
        self._processes += [_start(*self._arguments, gpu) for gpu in self._gpus[len(self._processes) :]]
        for process in self._processes:
            process.send("start", run)
            ready(process)

    def end_workers(self) -> None:
        """End the processes, whatever they are at."""
        for process in self._processes:
            process.end()
        self._processes = []

    def close(self) -> None:
        """The same."""
        self.end_workers()


def _start(adapter_folder: str, options: LabelerOptions, gpu: str | None) -> ChildProcess:
    """A process with a `RemoteWorker`; ``gpu`` is the one that it sees, None leaves that to CUDA."""
    variables = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    worker = "catcli.inference.remote:RemoteWorker"
    advice = " Fewer --workers take less."
    return ChildProcess(worker, adapter_folder, options, purpose="labels", advice=advice, variables=variables)
