"""Ray: its cluster joined or started, its output kept off the streams, and its errors turned into sentences."""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from catcli.errors import CatcliError, reason

CONNECT_TIMEOUT = 10
"""Seconds in which a cluster has to answer."""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise it warns of a change to come
}


def connect() -> Any:  # noqa: ANN401  # a module that is not there without the extra
    """Ray, connected to the cluster that ``RAY_ADDRESS`` names or that runs here, or to one that is started.

    Raises:
        CatcliError: it is not installed, or the cluster cannot be joined.
    """
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise CatcliError("--engine ray takes one package more: pip install 'catcli[ray]'.") from error
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    handler = signal.getsignal(signal.SIGTERM)
    with silence():
        try:
            ray.init(
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                include_dashboard=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CatcliError(
                f"--engine ray: the cluster cannot be joined or started ({reason(error)[:300]}); check RAY_ADDRESS, set "
                "RAY_AUTH_MODE=token if it asks for a token, or unset both for a cluster of this machine alone."
            ) from error
    signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place
    return ray


def _check_address(address: str) -> None:
    """Stop at an address where nothing listens, which Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    host = host.strip("[]")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise CatcliError(
            f"RAY_ADDRESS is {address}, where no Ray cluster answers ({reason(error)}); start one with 'ray start --head', or unset it."
        ) from error


@contextmanager
def silence() -> Iterator[None]:
    """Keep Ray quiet: it logs, prints to standard output, where results go, and writes from C++ to the process's standard error."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _without_stderr():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_stderr() -> Iterator[None]:
    """What is written to the process's standard error goes nowhere, but for what Python writes there, ours among it."""
    try:
        saved = os.dup(2)
    except OSError:  # closed by the caller (2>&-)
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with os.fdopen(os.dup(saved), "w", encoding="utf-8", errors="replace") as stream, redirect_stderr(stream):
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def unwrap(ask: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever a worker gives
    """A worker's result; its error is raised here as it was raised there."""
    from ray.exceptions import GetTimeoutError, RayError

    try:
        return ask()
    except GetTimeoutError as error:
        raise TimeoutError from error
    except RayError as error:
        raise _original_error(error) from error


def _original_error(error: BaseException) -> BaseException:
    """The sentence that was raised on a worker, or one for what a cluster can do to it; of a bug Ray's own error, with its traceback."""
    from ray.exceptions import RayTaskError

    waiting: list[BaseException | None] = [error]
    foreign = not isinstance(error, RayTaskError)  # not of what ran there, but of where it ran: a machine or a process that is gone
    while waiting:
        current = waiting.pop()
        if isinstance(current, CatcliError) and type(current).__module__.startswith("catcli"):
            return current
        foreign = foreign or isinstance(current, ImportError | OSError)
        if current is not None:
            waiting += [getattr(current, "cause", None), current.__cause__]
    if not foreign:
        return error
    last_line = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__).strip()
    return CatcliError(
        f"--engine ray: a worker failed ({last_line[:300]}); is the same catcli on all machines, with memory enough? Run the same command "
        "again; it continues from what was finished."
    )
