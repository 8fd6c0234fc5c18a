"""The sandbox: a stranger's adapter is tested in a child process before this process loads it.

A crafted model can end a process by a signal, fill memory, or never come to an end, and no exception tells of any of these. So a child
process with limits of memory and time, and without the network where the system offers that, loads the adapter first, vets its models and
labels some texts; its death becomes a sentence. An adapter that was fitted here and has not changed since needs no child: see
`catcli.adapter.seal`.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from catcli.adapter.folder import Adapter
from catcli.adapter.manifest import Variant
from catcli.adapter.seal import is_sealed
from catcli.errors import AdapterError, CatcliError

if sys.platform != "win32":
    import resource

BASE_MEMORY_BYTES, MEMORY_PER_FILE_BYTE = 640 * 2**20, 4
"""Bytes that the child may hold, and for each byte of the adapter's files."""

BASE_SECONDS, SECONDS_PER_FILE_BYTE = 60, 1e-7
"""Seconds that it may take, and for each byte of the adapter's files."""

MAX_ANSWER_BYTES = 2**16

READY = b"ready"
"""The child's first line, once its imports are done: what goes wrong before is not the adapter's fault."""

PASSED_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONUSERBASE", "HOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""The variables of the environment that the child gets: none of them says who asks a bucket or the hub."""

CHILD_VARIABLES = {"ARROW_DEFAULT_MEMORY_POOL": "system", "PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What the child gets besides. Arrow's own allocator would take a gigabyte of addresses, which count as memory."""

STACK_BYTES = 8 * 2**20
"""Bytes of a thread's stack in the child. Clusters have some set to hundreds of megabytes, which would count as memory."""

_passed: set[tuple[str, str]] = set()
"""The manifests' SHA-256 and the variants that this process has had tried out: a manifest has the hashes of all files."""

_running: dict[tuple[Path, str, str], SandboxRun] = {}
"""The children at work, by folder, manifest and variant: two folders can have one manifest, and one of them a changed file."""


@dataclass
class SandboxRun:
    """A child process at work on the adapter in ``folder``."""

    folder: Path
    process: subprocess.Popen[bytes]
    memory: int
    seconds: float

    def finish(self) -> None:
        """Wait for its answer.

        Raises:
            AdapterError: what it reported, or that it ended without an answer.
        """
        try:
            answer = self.process.communicate(timeout=self.seconds)[0][:MAX_ANSWER_BYTES]
        except subprocess.TimeoutExpired as error:
            self.stop()
            raise self._refused(f"takes more than {self.seconds:.0f} seconds to load in the sandbox") from error
        except BaseException:
            self.stop()
            raise
        code = self.process.returncode
        if code < 0:
            with suppress(ValueError):
                raise self._refused(f"ends the sandbox process with the signal {signal.Signals(-code).name}")
        ready, _, content = answer.partition(b"\n")
        if ready != READY:
            raise CatcliError(
                f"the sandbox process, which tests adapters, does not start here (exit code {code}); see why with "
                f"'{sys.executable} -m catcli.inference.sandboxed'."
            )
        try:
            problem = json.loads(content)["error"]
        except ValueError as error:
            raise self._refused(f"ends the sandbox process with exit code {code}") from error
        if problem == "memory":
            raise self._refused(f"takes more than {self.memory // 2**20:,} MiB of memory to load in the sandbox")
        if problem is not None:
            raise AdapterError(problem)

    def stop(self) -> None:
        """End the child."""
        self.process.kill()
        self.process.communicate()

    def _refused(self, problem: str) -> AdapterError:
        return AdapterError(f"{self.folder} {problem}; no adapter that catcli made does so: do not use it, fit one of your own.")


def start_check(adapter: Adapter, variant: Variant) -> None:
    """Start testing ``adapter`` with one of its models in a child process; `check_adapter` waits for the answer."""
    key = _key(adapter, variant)
    if key[1:] in _passed or key in _running or is_sealed(adapter) or sys.platform == "win32":
        return
    size = _size(adapter, variant)
    memory, seconds = (
        min(BASE_MEMORY_BYTES + MEMORY_PER_FILE_BYTE * size, max(BASE_MEMORY_BYTES, _installed() // 2)),
        BASE_SECONDS + SECONDS_PER_FILE_BYTE * size,
    )
    # The child needs nothing of its user: no credentials, no home, and one thread for each library.
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    environment = {name: value for name, value in os.environ.items() if name in PASSED_VARIABLES}
    order = json.dumps([str(adapter.folder.absolute()), variant, memory, int(seconds), adapter.fingerprint])
    with _small_stacks():
        process = subprocess.Popen(  # noqa: S603  # this interpreter, and names as data
            [sys.executable, "-P", "-m", "catcli.inference.sandboxed", order],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, **threads, **CHILD_VARIABLES},
        )
    if not _running:
        atexit.unregister(stop_all)
        atexit.register(stop_all)  # a run that ends before it asks for the answer leaves no child
    _running[key] = SandboxRun(adapter.folder, process, memory, seconds)


def _key(adapter: Adapter, variant: Variant) -> tuple[Path, str, str]:
    return adapter.folder.absolute(), adapter.fingerprint, variant


def _size(adapter: Adapter, variant: Variant) -> int:
    """Bytes of the files that the child loads, as they lie on the disk: a sparse file of a terabyte takes none."""
    served = adapter.manifest.variants[variant]
    size = 0
    for name in {served.file, *served.data, "linear.safetensors", "tokenizer.json", "probe.parquet"}:
        with suppress(OSError):
            status = (adapter.folder / name).lstat()
            size += min(status.st_size, 512 * status.st_blocks)
    return size


def _installed() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def _small_stacks() -> Iterator[None]:
    """Have what is started in the block begin with stacks of `STACK_BYTES`: a program takes that size from its limit as it starts."""
    if sys.platform == "win32":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft <= STACK_BYTES:
        yield
        return
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def check_adapter(adapter: Adapter, variant: Variant) -> bool:
    """Test ``adapter`` with one of its models in the sandbox; returns whether that model needs no more vetting.

    Raises:
        AdapterError: what the child reported, or that it crashed.
    """
    start_check(adapter, variant)
    key = _key(adapter, variant)
    trial = _running.pop(key, None)
    if trial is not None:
        trial.finish()
        _passed.add(key[1:])
    return key[1:] in _passed or is_sealed(adapter)


def stop_all() -> None:
    """End all children that still run."""
    while _running:
        _running.popitem()[1].stop()


# --- limits ------------------------------------------------------------------------------------------------------------------------------


def limit_process(memory: int, seconds: int) -> None:
    """Hold this process to so many bytes of memory and seconds of work, to files that it may only read, and away from the network."""
    if sys.platform != "win32":
        limits = {resource.RLIMIT_DATA: memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
        for kind, amount in limits.items():
            hard = resource.getrlimit(kind)[1]
            limit = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
            with suppress(OSError, ValueError):  # a system that does not hold this
                resource.setrlimit(kind, (limit, limit))
    with suppress(OSError, KeyError, AttributeError):
        block_internet()


_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""The audit number of a processor and its number of the system call socket(2)."""

IO_URING_SETUP = 425


def block_internet() -> None:
    """Have Linux refuse Internet sockets to this process from now on (a filter of seccomp(2), SECCOMP_MODE_FILTER).

    Raises:
        KeyError: it is not known how on this processor.
        OSError: the system allows no filter.
    """
    audit, socket = _CALLS[platform.machine()]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, the same with JGE, BPF_RET|BPF_K
    allow, refuse = 0x7FFF0000, 0x0005000D  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EACCES
    steps = [
        (load, 0, 0, 4),
        (equal, 1, 0, audit),
        (end, 0, 0, allow),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),  # the numbers of x32, another set of the same calls
        (end, 0, 0, refuse),
        (equal, 0, 1, IO_URING_SETUP),  # a way to sockets without their calls
        (end, 0, 0, refuse),
        (equal, 0, 4, socket),
        (load, 0, 0, 16),  # the first argument: the family
        (equal, 1, 0, 2),  # AF_INET
        (equal, 0, 1, 10),  # AF_INET6
        (end, 0, 0, refuse),
        (end, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _SeccompProgram(len(steps), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_filter, filter_mode, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


class _SeccompProgram(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("steps", ctypes.c_void_p))
