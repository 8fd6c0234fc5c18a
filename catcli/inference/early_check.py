"""Work that a command starts before its slow imports."""

from __future__ import annotations

from contextlib import suppress

from catcli.adapter.store import find_adapter, only_adapter
from catcli.errors import CatcliError
from catcli.inference.cuda import has_gpu
from catcli.inference.sandbox import start_check


def start_adapter_check(name: str | None, variant: str) -> None:
    """Have an adapter tried out in a child while this process imports polars and looks at the first rows.

    It is the labeler that waits for the answer and says what is wrong; where this guesses another variant than it, it has its own tried.
    """
    with suppress(CatcliError, OSError):
        adapter = find_adapter(name) if name else only_adapter()
        served = adapter.manifest.variants
        likely = next(
            (served_name for served_name in served if served_name == variant), "int8" if "int8" in served and not has_gpu() else "fp32"
        )
        start_check(adapter, likely)
