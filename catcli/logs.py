"""catcli's log and the reports of its progress. Work below the command line logs sentences; the command line decides what is shown of them.

Callers in Python see nothing until they attach a handler to the logger ``catcli``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

LOGGER = logging.getLogger("catcli")
LOGGER.addHandler(logging.NullHandler())

FACTS = "facts"
"""The attribute of a record with the facts of an event, which only a JSON log shows."""

PARENT_VARIABLE = "CATCLI_PARENT"
"""The environment variable with the process that a fit was started by: where that one ends, the fit does."""

Advance = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def no_progress(*_: object) -> None:
    """An `Advance` that does nothing."""


def log_event(event: str, **facts: object) -> None:
    """Log what happened, with ``facts`` under their names."""
    LOGGER.info(event, extra={FACTS: facts})
