"""A worker that is elsewhere, and yet in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from catcli.adapter.folder import Adapter
from catcli.config import DEFAULT_MAX_CHANGE
from catcli.inference.remote import LabelerOptions, RemoteWorker, RunOptions
from catcli.inference.remote_engine import RemoteEngine, WorkerHandle


class InThisProcess(RemoteEngine):
    """An engine of one worker, which lives here; ``states`` are those of the files as it sees them, where they are others."""

    states: list[None] | None = None

    def __init__(self, adapter: Adapter) -> None:
        self._worker = RemoteWorker(
            str(adapter.folder), LabelerOptions(adapter.fingerprint, "cpu", "auto", None, 1, "done", DEFAULT_MAX_CHANGE)
        )
        self.asked: set[type] = set()
        super().__init__(adapter, self._worker.info(), "1 worker", 1, DEFAULT_MAX_CHANGE)

    def first_worker(self) -> WorkerHandle:
        return self

    def open_workers(self, run: RunOptions, ready: Callable[[WorkerHandle], None]) -> None:
        self._worker.start(run if self.states is None else replace(run, states=self.states))
        ready(self)

    def call(self, method: str, *arguments: object) -> object:
        self.asked.add(type(arguments[0]))
        return getattr(self._worker, method)(*arguments)

    def end_workers(self) -> None:
        self._worker.stop()

    def close(self) -> None:
        """Nothing is held."""
