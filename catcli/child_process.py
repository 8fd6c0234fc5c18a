"""An object in a process of its own, whose methods are called through a socket."""

from __future__ import annotations

import importlib
import os
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from catcli.errors import CatcliError


class ProcessEndedError(CatcliError):
    """A process has ended that was to answer."""


class ChildProcess:
    """A process with an object of the class ``worker``, written as ``module:Class``; where this process ends, so does it."""

    def __init__(self, worker: str, *arguments: object, purpose: str, advice: str = "", variables: Mapping[str, str] | None = None) -> None:
        """Start it with the class's ``arguments`` and further environment ``variables``.

        Where it ends, a sentence says of it that it ``purpose``, and then the ``advice``.
        """
        self._purpose, self._advice = purpose, advice
        ours, theirs = socket.socketpair()
        with theirs:
            # In a session of its own: Ctrl-C is for this process, which ends it.
            self._process = subprocess.Popen(  # noqa: S603  # this Python, and a module of this package
                [sys.executable, "-P", "-m", "catcli.child_process", worker, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **(variables or {})},
            )
        self._connection = Connection(ours.detach())
        self._waiting = 0
        self.send("__init__", *arguments)

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
            ProcessEndedError: the process has ended.
            Exception: what the method raises.
        """
        result = None
        while self._waiting:
            try:
                failed, result = self._connection.recv()
            except (EOFError, OSError) as error:
                code = self._process.wait()
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                raise ProcessEndedError(f"a process that {self._purpose} ended {how}; is there memory enough?{self._advice}") from error
            self._waiting -= 1
            if failed:
                raise result
        return result

    def end(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        self._process.wait()
        self._connection.close()


def main() -> None:
    """Answer calls until the other end of the socket is closed."""
    worker_name, descriptor = sys.argv[1:]
    connection, calls = Connection(int(descriptor)), queue.SimpleQueue[tuple[str, tuple[Any, ...]]]()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()
    worker: Any = None
    with suppress(OSError):
        while True:
            method, arguments = calls.get()
            answer: tuple[bool, object] = (False, None)
            try:
                if method == "__init__":
                    module, _, name = worker_name.partition(":")
                    worker = getattr(importlib.import_module(module), name)(*arguments)
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
