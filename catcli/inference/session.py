"""token batches → logits: an exported model in ONNX Runtime, on CUDA or the CPU."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from catcli.arrays import FloatArray, IntArray
from catcli.errors import AdapterError, CatcliError, DeviceError, reason
from catcli.inference.cuda import CUDA_PROVIDER, has_cuda, load_cuda_libraries
from catcli.inference.tokens import TokenBatch

# Errors come as exceptions; what ONNX Runtime would print besides (no GPU found, an odd provider) is looked at below instead.
onnxruntime.set_default_logger_severity(4)

CPU_PROVIDER = "CPUExecutionProvider"

LIBRARY_ERRORS = ("CUBLAS failure", "CUDNN failure", "CUBLAS_STATUS", "CUDNN_STATUS")
"""What it says where a library on the GPU fails. With too little memory for their own needs these say anything but that."""

MEMORY_ERRORS = ("Failed to allocate memory", "bad allocation", "bad_alloc", "out of memory", "ALLOC_FAILED")
"""What ONNX Runtime says where memory is short, of the host's or a GPU's."""

GPU_ERRORS = ("CUDA failure", "CUDA error")
"""What it says where a GPU fails."""

GPU_BATCH_TOKENS, CPU_BATCH_TOKENS = 16_384, 1024
"""Tokens of a batch that keep the device busy: on an H200 as fast as four times so many, with a third of the padding
(tests/bench/README.md); on a CPU without leaving its caches."""

GPU_WORKERS = 6
"""Threads that label for a GPU: it waits for their n-grams, and more of them wait for Python's lock."""


class _OutOfMemory(Exception):  # noqa: N818  (no error yet: the batch is halved)
    """Memory is too short for a batch, or may be: ``surely`` says which."""

    def __init__(self, words: str, *, surely: bool = True) -> None:
        super().__init__(words)
        self.surely = surely


class _Turns:
    """Calls that run at once, and one that runs alone after all that run have ended."""

    def __init__(self) -> None:
        self._changed, self._running, self._waiting = threading.Condition(), 0, 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Run beside others, after those that want to run alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run while no other does."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._running)
                yield
            finally:
                self._waiting -= 1
                self._changed.notify_all()


class Session:
    """One ONNX file, loaded; ``provider`` is what it really got."""

    def __init__(self, file: Path, device: str = "auto", *, batch_tokens: int | None = None, workers: int | None = None) -> None:
        """Load ``file``; ``batch_tokens`` and ``workers`` replace what is found good for the device.

        Raises:
            DeviceError: ``device`` is ``cuda`` and the session did not get it.
            AdapterError: ONNX Runtime cannot load the file.
        """
        self._file, self._lock, self._turns, self._halved, self._classes = file, threading.Lock(), _Turns(), 0, 0
        self._one_at_a_time = False
        self._options = options = onnxruntime.SessionOptions()
        # One thread a batch and as many batches at once as there are cores: threads that share a batch of titles wait for one another at
        # every one of its hundred matrix products.
        options.intra_op_num_threads = 1
        # What was vetted is ONNX; ONNX Runtime would take a file for another format by its name or its bytes.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        self._session, self.no_cuda = _open_session(file, options, cuda=device != "cpu" and has_cuda())
        self.provider: str = self._session.get_providers()[0]
        gpu = self.provider == CUDA_PROVIDER
        self.budget = batch_tokens or (GPU_BATCH_TOKENS if gpu else CPU_BATCH_TOKENS)
        # Batches that are computed at once: one a core, or on a GPU so many that it finds the next one waiting.
        self.workers = workers or (min(GPU_WORKERS, max(2, available_cores())) if gpu else available_cores())
        if device == "cuda" and not gpu:
            cause = f" ({self.no_cuda})" if self.no_cuda else ""
            raise DeviceError(
                f"--device cuda: ONNX Runtime gave {self.provider} instead{cause}; 'catcli doctor' shows what is missing, "
                "--device cpu labels without."
            )

    @property
    def same_length(self) -> bool:
        """Whether batches are better of one length than large: on a CPU padding costs as much as text."""
        return self.provider == CPU_PROVIDER

    def logits(self, batch: TokenBatch) -> FloatArray:
        """Logits *(rows, classes)*, float32. Threads that call this at once each get a stream of the GPU's.

        A batch that memory is too short for is computed in halves, and those to come are made smaller: see `halvings`. Halves run alone,
        and what ONNX Runtime's memory pool does not use goes back after each: it keeps what it once had, in pieces that a batch of
        another size may not fit in, and what other threads hold is free when they have ended.

        Raises:
            DeviceError: the GPU failed.
            AdapterError: the model cannot be computed with these tokens.
            CatcliError: memory is too short for a single text.
        """
        if not self._one_at_a_time:
            with suppress(_OutOfMemory), self._turns.shared():
                return self._computed(batch)
        with self._turns.alone():
            if self._one_at_a_time:
                with suppress(_OutOfMemory):
                    return self._computed(batch)
            elif self.provider == CUDA_PROVIDER:
                self._start_again()
            return self._in_halves(batch)

    def _start_again(self) -> None:
        """Open the session anew, for one batch at a time: each that runs at once holds memory of its own for good, some 70 MB on an H100.

        One at a time is nearly as fast there (tests/bench/README.md).
        """
        self._one_at_a_time = True
        del self._session  # what it holds is free before the other is opened
        self._session, problem = _open_session(self._file, self._options, cuda=True)
        if self._session.get_providers()[0] != CUDA_PROVIDER:
            raise self._failed(problem)

    def _in_halves(self, batch: TokenBatch) -> FloatArray:
        """Logits of a batch that memory was too short for; a single text is tried once more, with the pool emptied."""
        pieces = batch.halves() if len(batch.rows) > 1 else [batch]
        with self._lock:
            self._halved += len(pieces) - 1
            self.budget = max(1, min(self.budget, batch.ids.size // len(pieces)))
        return np.concatenate([self._alone(piece) for piece in pieces])

    def _alone(self, batch: TokenBatch) -> FloatArray:
        try:
            return self._computed(batch, shrink=True)
        except _OutOfMemory as error:
            if len(batch.rows) > 1:
                return self._in_halves(batch)
            if not error.surely:
                raise self._failed(str(error)) from error
            raise CatcliError(
                f"memory is too short for one text of {batch.ids.shape[1]} tokens on {self.provider} ({error}); free some and run the "
                "same command again."
            ) from error

    def halvings(self) -> int:
        """How many batches were halved since this was asked last."""
        with self._lock:
            count, self._halved = self._halved, 0
        return count

    def _computed(self, batch: TokenBatch, *, shrink: bool = False) -> FloatArray:
        """Logits of a batch; with ``shrink`` the memory pool gives back what it does not use, also where the batch fails."""
        feeds, options = {"input_ids": batch.ids, "attention_mask": batch.mask}, None
        gpu = self.provider == CUDA_PROVIDER
        if shrink:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0" if gpu else "cpu:0")
        try:
            logits = run_bound(self._session, feeds, "cuda", options) if gpu else self._session.run(["logits"], feeds, options)[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise self._told(error) from error
        self._check(logits, len(batch.rows))
        return np.asarray(logits, dtype=np.float32)

    def _check(self, logits: npt.NDArray[Any], rows: int) -> None:
        """What a model gives has to be what a classifier gives, for every batch: float32 logits *(rows, classes)*."""
        self._classes = self._classes or (logits.shape[-1] if logits.ndim else 0)
        if logits.dtype != np.float32 or logits.shape != (rows, self._classes):
            raise AdapterError(
                f"{self._file} gives {logits.dtype} of the shape {logits.shape} for {rows} texts, not float32 logits of "
                f"({rows}, {self._classes}): it is not a classifier that catcli exported; fit the adapter again."
            )

    @staticmethod
    def _failed(words: str) -> DeviceError:
        return DeviceError(
            f"the GPU failed while it labeled ({words}); 'catcli doctor' shows if it still answers, --device cpu does without it."
        )

    def _told(self, error: Exception) -> Exception:
        """What ONNX Runtime's error means; another's is a bug and stays what it is."""
        message = str(error)
        if isinstance(error, MemoryError) or any(word in message for word in MEMORY_ERRORS):
            return _OutOfMemory(error_gist(error)[:200])
        # run_with_iobinding raises a plain RuntimeError.
        if not (type(error).__module__.startswith("onnxruntime") or type(error) is RuntimeError):
            return error
        if any(word in message for word in LIBRARY_ERRORS):
            return _OutOfMemory(error_gist(error)[:300], surely=False)
        if any(word in message for word in GPU_ERRORS):
            return self._failed(error_gist(error)[:300])
        return AdapterError(
            f"{self._file} cannot be computed ({error_gist(error)[:300]}); its tokenizer or its weights are not its own: copy the adapter "
            "again, or fit a new one."
        )


def error_gist(error: BaseException) -> str:
    """What ONNX Runtime says, without the C++ function that says it."""
    return re.sub(r"^.*?/onnxruntime/core/\S+ .*?\[with [^\]]*\] ", "", reason(error), flags=re.DOTALL)


def _open_session(file: Path, options: onnxruntime.SessionOptions, *, cuda: bool) -> tuple[onnxruntime.InferenceSession, str]:
    """A session, on the GPU if ``cuda`` and it can be had; and why it is not on the GPU that there is, or nothing."""
    problem = ""
    if cuda:
        problem = load_cuda_libraries()
        # ONNX Runtime's own way back to the CPU would print to standard output, where labeled rows may be going.
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=[CUDA_PROVIDER, CPU_PROVIDER], enable_fallback=0)
        except Exception as error:  # noqa: BLE001  # ONNX Runtime's exceptions share no base class; where the file is at fault, the CPU says so
            problem = reason(error)[:300]
        else:
            if session.get_providers()[0] == CUDA_PROVIDER:
                return session, ""
            problem = problem or "it does not say why"
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=[CPU_PROVIDER], enable_fallback=0), problem
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise AdapterError(f"{file} cannot be loaded by ONNX Runtime: {reason(error)}; fit the adapter again.") from error


def run_bound(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, IntArray], device: str, options: onnxruntime.RunOptions | None = None
) -> FloatArray:
    """Logits by inputs and an output that are bound to the memory of ``device``, ``cuda`` or ``cpu``.

    Without it the ids and masks, which only the GPU reads, enter the graph in the host's memory, and it waits at a copy before each of
    them is used.
    """
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, device, 0))
    binding.bind_output("logits", device, 0)
    session.run_with_iobinding(binding, options)
    logits: FloatArray = binding.get_outputs()[0].numpy()
    return logits


def available_cores() -> int:
    """Processors that this process may use, which in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
