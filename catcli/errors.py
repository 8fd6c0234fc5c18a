"""The errors that a user can fix.

    CatcliError            exit 1   the run failed: its sentence says what, where, what is there instead and what to type next
    ├── ProductsError      exit 1   a file, a column or a label that was read
    │   ├── ChangedError   exit 1   a file that was changed meanwhile
    │   └── RowError       exit 1   a row that cannot be read
    ├── OutputError        exit 1   the place that was to be written
    ├── AdapterError       exit 1   an adapter folder: missing, damaged, in the way
    ├── BackboneError      exit 1   a base model: not to be had, not whole, not known
    ├── TrainingError      exit 1   a training that came to nothing
    ├── DeviceError        exit 1   the GPU that was asked for
    ├── UsageError         exit 2   options that are wrong by themselves or together
    └── GateMissed         exit 3   a quality that was demanded and not reached

Whatever is raised outside this tree is a bug of catcli and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import signal
from collections.abc import Iterable
from typing import ClassVar


class CatcliError(Exception):
    """The run failed; the message is one sentence for the user."""

    exit_code: ClassVar[int] = 1


class ProductsError(CatcliError):
    """A file, a column or a label that was read is not as it has to be."""


class ChangedError(ProductsError):
    """A file was changed while it was read: what was made of it so far is of no use."""


class RowError(ProductsError):
    """A row cannot be read: it has too many cells, letters of another encoding, or is not JSON."""


class OutputError(CatcliError):
    """The output cannot be written."""


class AdapterError(CatcliError):
    """An adapter folder is missing, damaged, or in the way."""


class BackboneError(CatcliError):
    """A base model cannot be had, is not whole, or is of an architecture that is not known."""


class TrainingError(CatcliError):
    """Training diverged with these options."""


class DeviceError(CatcliError):
    """The device is not there."""


class UsageError(CatcliError):
    """The options are wrong by themselves or together."""

    exit_code = 2


class GateMissed(CatcliError):  # noqa: N818  (a gate that was missed is not an error of the program)
    """A required quality was not reached."""

    exit_code = 3


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. No `Exception`, so that nothing on the way swallows it, like `KeyboardInterrupt`."""

    def __init__(self, number: signal.Signals = signal.SIGTERM) -> None:
        super().__init__(number)
        self.signal = number


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'title'?)"`` where a known name is close to ``name``, else nothing."""
    folded = {candidate.casefold(): candidate for candidate in known}
    match = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" (did you mean {folded[match[0]]!r}?)" if match else ""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full; libraries that write by themselves raise errors of their own for it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)


def reason(error: BaseException) -> str:
    """The first line of what a library's error says; its name where it says nothing."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__


MAX_SHOWN_CHARACTERS = 60
"""Characters of a name that a sentence shows."""


def name_list(names: Iterable[str], limit: int = 12) -> str:
    """``'a', 'b' and 3 more``: names as a sentence shows them; ``none`` where there are none."""
    shown = [repr(name if len(name) <= MAX_SHOWN_CHARACTERS else name[: MAX_SHOWN_CHARACTERS - 1] + "…") for name in names]
    extra = len(shown) - limit
    return (", ".join(shown[:limit]) + (f" and {extra:,} more" if extra > 0 else "")) or "none"
