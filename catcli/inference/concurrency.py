"""Threads that read ahead and write behind."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar, cast

READ_AHEAD, WRITE_BEHIND = 2, 2
"""Batches read but not yet looked at, and labeled but not yet written."""

Item = TypeVar("Item")


class BackgroundWriter:
    """A thread that does one thing after the other, a little behind; what comes after something that failed is not done."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def hand(self, task: Callable[..., None], *given: object) -> None:
        """Have something done; raises what an earlier thing raised."""
        if len(self._waiting) >= WRITE_BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._do, task, *given))

    def wait(self) -> None:
        """Until all is done."""
        while self._waiting:
            self._waiting.popleft().result()

    def _do(self, task: Callable[..., None], *given: object) -> None:
        if self._failed:  # a part with rows missing must not be called finished
            return
        try:
            task(*given)
        except BaseException:
            self._failed = True
            raise


class _Ahead(Iterator[Item]):
    """Items that a thread of their own makes before they are asked for."""

    def __init__(self, items: Iterable[Item], limit: int) -> None:
        self._made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(limit)
        self._items = items
        self.stopped = threading.Event()
        threading.Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        try:
            for item in self._items:
                self._put(item, None)
                if self.stopped.is_set():
                    return
            self._put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001  # it is raised where the items are looked at
            self._put(None, error)

    def _put(self, item: Item | None, error: BaseException | None) -> None:
        while not self.stopped.is_set():
            with suppress(queue.Full):
                self._made.put((item, error), timeout=0.1)
                return

    def __next__(self) -> Item:
        item, error = self._made.get()
        if error is not None:
            raise error
        return cast(Item, item)


@contextmanager
def read_ahead(items: Iterable[Item], limit: int) -> Iterator[Iterator[Item]]:
    """The items, made in a thread of their own, ``limit`` of them before they are asked for.

    Where the block ends early nothing waits for that thread, which may itself wait for standard input, and for ever.
    """
    reader = _Ahead(items, limit)
    try:
        yield reader
    finally:
        reader.stopped.set()


@contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that, where the block ends by an error or by Ctrl-C, begin nothing more."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()
