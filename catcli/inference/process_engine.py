"""Labeling by several processes of this machine, which share its GPUs: one process of Python cannot keep one busy by itself."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from catcli.adapter.folder import Adapter
from catcli.errors import CatcliError, DeviceError
from catcli.inference.cuda import has_cuda, visible_gpus
from catcli.inference.labeler import candidate_variants
from catcli.inference.remote import LabelerOptions, RemoteWorker, RunOptions
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
        self._processes = [_Process(folder, options, gpu) for gpu in self._gpus]
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
            self._processes.append(_Process(*self._arguments, self._gpus[0]))
        return self._processes[0]

    def open_workers(self, run: RunOptions, ready: Callable[[WorkerHandle], None]) -> None:
        """Give all processes the run; those that a run before ended are started again."""
        self._processes += [_Process(*self._arguments, gpu) for gpu in self._gpus[len(self._processes) :]]
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


class _Process:
    """A process with a `RemoteWorker`, at the other end of a socket; where this process ends, so does it."""

    def __init__(self, adapter_folder: str, options: LabelerOptions, gpu: str | None) -> None:
        """``gpu`` is the one that it sees; None leaves that to CUDA."""
        ours, theirs = socket.socketpair()
        with theirs:
            # In a session of its own: Ctrl-C is for this process, which ends it.
            self._process = subprocess.Popen(  # noqa: S603  # this Python, and a module of this package
                [sys.executable, "-P", "-m", "catcli.inference.process_engine", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})},
            )
        self._connection = Connection(ours.detach())
        self._waiting = 0
        self.send("__init__", adapter_folder, options)

    def send(self, method: str, *arguments: object) -> None:
        """Have a method called; what goes wrong is raised by the next `call`."""
        with suppress(OSError):  # it has ended, which the next call finds
            self._connection.send((method, arguments))
        self._waiting += 1

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401  # what the method gives
        """What a method gives; see `result`."""
        self.send(method, *arguments)
        return self.result()

    def result(self) -> Any:  # noqa: ANN401  # what the method gives
        """What the method that was sent last gives.

        Raises:
            CatcliError: the process has ended, or a method says what is wrong.
        """
        result = None
        while self._waiting:
            try:
                failed, result = self._connection.recv()
            except (EOFError, OSError) as error:
                code = self._process.wait()
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                raise CatcliError(f"a process that labels ended {how}; is there memory enough? Fewer --workers take less.") from error
            self._waiting -= 1
            if failed:
                raise result
        return result

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._connection.close()


def main() -> None:
    """Answer calls until the other end of the socket is closed."""
    connection, calls = Connection(int(sys.argv[1])), queue.SimpleQueue[tuple[str, tuple[Any, ...]]]()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()
    worker: RemoteWorker | None = None
    with suppress(OSError):
        while True:
            method, arguments = calls.get()
            answer: tuple[bool, object] = (False, None)
            try:
                if method == "__init__":
                    worker = RemoteWorker(*arguments)
                else:
                    answer = (False, getattr(worker, method)(*arguments))
            except Exception as error:  # noqa: BLE001  # it is raised where the method was called
                if not isinstance(error, CatcliError):
                    error.add_note(traceback.format_exc())
                answer = (True, error)
            connection.send(answer)


def _receive(connection: Connection, calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]]) -> None:
    """Take in calls, and end this process, whatever it is at, where nobody waits for it any more."""
    try:
        while True:
            calls.put(connection.recv())
    except BaseException:  # noqa: BLE001  # whatever the end of the other process looks like
        os._exit(1)


if __name__ == "__main__":
    main()
